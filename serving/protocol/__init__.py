"""Wire formats to `core` types and back. Pure: no await, no framework, no clock, no socket.

`native` speaks Workers AI's `ai/run`. What dialects share lies beside it: `schema` (the published
validation), `sampling`, `messages`, `images`, `tools`, `sse`, and `envelope` with the error codes.
"""
