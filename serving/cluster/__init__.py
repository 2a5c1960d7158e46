"""Everything Ray: replicas of the gateway and its engine, behind Ray Serve's HAProxy.

HAProxy sends each request straight to a replica's own port. The replica process holds the gateway
and AsyncLLM, so that no token crosses from one Ray actor to another.
"""
