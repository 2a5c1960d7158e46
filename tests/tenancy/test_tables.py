"""The tables of the code are those that the migrations make."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from serving.cluster.tenants import Tenants
from serving.tenancy.tables import metadata


def test_migrations_make_the_tables(tenants: Tenants) -> None:
    with tenants.tenancy.database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
