"""Trains the small checkpoint that ships with the repository."""
