"""Wire formats to `core` types and back. Pure: no await, no framework, no clock, no socket.

A `dialect` is one format: `native` is Workers AI's `ai/run`; `openai_chat`, `openai_completions`
and `openai_responses` are OpenAI's, `anthropic` is Anthropic's. What they share lies beside them:
`payload`, `messages`, `images`, `tools`, `calls`, `sampling`, `sse`, the published schema with its
validator (`schema`), and `envelope` with the error codes. `pages` are what is there to be read.
"""
