"""Image tokens of usage; its sums by the hour."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COUNTED = (
    "prompt_tokens",
    "cached_tokens",
    "image_tokens",
    "completion_tokens",
    "images",
    "picodollars",
    "microneurons",
)


def upgrade() -> None:
    op.add_column(
        "usage", sa.Column("image_tokens", sa.BigInteger, nullable=False, server_default="0")
    )
    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.BigInteger, primary_key=True),
        sa.Column("account", sa.String(32), primary_key=True),
        sa.Column("token", sa.String(32), primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("outcome", sa.String(16), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTED),
    )
    op.create_index("ix_usage_hours_account_hour", "usage_hours", ["account", "hour"])
    op.create_index("ix_usage_hours_token_hour", "usage_hours", ["token", "hour"])
    sums = ", ".join(f"SUM({name})" for name in _COUNTED)
    op.execute(
        f"INSERT INTO usage_hours (hour, account, token, model, route, outcome, requests, "
        f"{', '.join(_COUNTED)}) SELECT at - at % 3600000, account, token, model, route, outcome, "
        f"COUNT(*), {sums} FROM usage GROUP BY 1, 2, 3, 4, 5, 6"
    )


def downgrade() -> None:
    op.drop_table("usage_hours")
    op.drop_column("usage", "image_tokens")
