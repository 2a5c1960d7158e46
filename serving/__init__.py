"""Llama 3.2 11B Vision behind the Workers AI contract.

The tree is the architecture: a request enters at `gateway`, is translated by `protocol` into a
`core.Generation`, answered by an `engine` as `core.Delta`s, and leaves as the bytes of its dialect.
`cluster` places that in Ray Serve replicas; `mllama` is the model itself, as a vLLM plugin.
"""
