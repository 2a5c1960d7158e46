"""The ASGI service in front of an engine. Needs neither Ray nor vLLM.

One request: `app` routes it (`routes`), authenticates it (`auth`), reads its body (`body`), lets
the protocol parse it, and hands it to `stream`, which writes the answer for as long as the client
is there (`watch`). When it ends, however it ends, `receipts` makes the one record of it.
"""
