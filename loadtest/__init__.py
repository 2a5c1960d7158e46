"""A load harness for language-model endpoints that measures tokens and latency truthfully.

It knows the service only by the wire. Locust's words where locust has them: `User`, `task`,
`LoadShape`.
"""
