"""Queued requests (batches and their items); agreements to licences."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "finetunes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("account", sa.String(32), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("open", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    op.create_index("ix_batches_account", "batches", ["account"])
    op.create_table(
        "batch_items",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("batch", sa.String(36), sa.ForeignKey("batches.id"), nullable=False),
        sa.Column("account", sa.String(32), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("reference", sa.Text),
        sa.Column("input", sa.LargeBinary),
        sa.Column("free_at", sa.BigInteger),
        sa.Column("claim", sa.String(36)),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("success", sa.Boolean),
        sa.Column("output", sa.LargeBinary),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("batch", "position", name="uq_batch_items_batch_position"),
    )
    op.create_index("ix_batch_items_free_at", "batch_items", ["free_at"])
    op.create_table(
        "agreements",
        sa.Column("account", sa.String(32), primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("agreements")
    op.drop_table("batch_items")
    op.drop_table("batches")
