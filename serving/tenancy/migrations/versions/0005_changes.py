"""A count of the changes of what tokens open, kept by triggers: whoever makes them is counted."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# What replicas keep of each table; when a token was used last is not among it.
_KEPT = {
    "accounts": ("pool", "disabled_at"),
    "tokens": ("id", "account", "digest", "role", "scopes", "expires_at", "revoked_at"),
    "limits": (),  # all of it
}
_COUNT = "UPDATE changes SET version = version + 1"


def _events(table: str) -> tuple[str, ...]:
    kept = _KEPT[table]
    return "INSERT", "DELETE", f"UPDATE OF {', '.join(kept)}" if kept else "UPDATE"


def upgrade() -> None:
    changes = op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(changes, [{"id": 1, "version": 0}])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {_COUNT}; RETURN NULL; END $$"
        )
        for table in _KEPT:
            op.execute(
                f"CREATE TRIGGER count_{table} AFTER {' OR '.join(_events(table))} ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION count_change()"
            )
        return
    for table in _KEPT:
        for event in _events(table):
            op.execute(
                f"CREATE TRIGGER count_{table}_{event.split()[0].lower()} AFTER {event} "
                f"ON {table} BEGIN {_COUNT}; END"
            )


def downgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    for table in _KEPT:
        if is_postgresql:
            op.execute(f"DROP TRIGGER count_{table} ON {table}")
        else:
            for event in _events(table):
                op.execute(f"DROP TRIGGER count_{table}_{event.split()[0].lower()}")
    if is_postgresql:
        op.execute("DROP FUNCTION count_change()")
    op.drop_table("changes")
