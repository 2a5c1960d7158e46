"""What an operator sees: one vocabulary of metrics, where it is kept, a port to read it at.

A request is observed once, when it ends, from its receipt: nothing happens per token.
"""
