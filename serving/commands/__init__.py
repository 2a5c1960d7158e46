"""The subcommands of `serving` that speak to the database and not to a running service."""
