"""Measurements, each a command: `python -m benchmarks.<name>`. README.md lists them.

checkpoint   random models, at the sizes the measurements want
prompts      what the models are asked
peer         a child process that measures when told to, and is idle otherwise
processes    servers: starting, stopping, and the CPU time of their process trees
load         a closed-loop HTTP client on loopback
rounds       alternation, ratios and medians
machine      what it is, and the type that its processor computes best
report       the result files and the README's tables
"""
