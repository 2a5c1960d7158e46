"""Capacity planning: from records to a model of one replica, to a simulated fleet, to a plan.

records -> `fit` -> `model.Replica` -> `simulate` (which makes records) -> `capacity` -> `plan`.
Nothing here awaits, reads a clock or opens a socket.
"""
