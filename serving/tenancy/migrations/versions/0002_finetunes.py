"""LoRA adapters. Its id is a word, so that other steps may come after 0001 as well."""

import sqlalchemy as sa
from alembic import op

revision = "finetunes"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "finetunes",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("account", sa.String(32), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("public", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.Column("config", sa.String(64)),
        sa.Column("weights", sa.String(64)),
        sa.Column("digest", sa.String(64)),
        sa.UniqueConstraint("account", "name", name="uq_finetunes_account_name"),
    )
    op.create_index("ix_finetunes_public", "finetunes", ["public"])


def downgrade() -> None:
    op.drop_table("finetunes")
