"""Alembic's scripts, run by `database.Database.migrate`."""
