"""Runs the steps on the connection that `Database.migrate` gives."""

from alembic import context

from serving.tenancy.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
