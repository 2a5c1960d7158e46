"""The tables. The same on SQLite and PostgreSQL: integers, text, no types of either.

Times are Unix milliseconds, money is picodollars (10^-12 USD), both as 64-bit integers. What is
here must be in `migrations` too; a test compares them.
"""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from serving.core import Limits

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("pool", Text, nullable=True),  # shares its prompt cache with the accounts of this pool
    Column("created_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger, nullable=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account", String(32), ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),  # keyed: HMAC-SHA256
    Column("hint", String(4), nullable=False),  # the secret's last characters, to tell them apart
    Column("role", String(16), nullable=False),
    Column("scopes", Text, nullable=False),  # words with spaces between them
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Column("revoked_at", BigInteger, nullable=True),
    Column("last_used_at", BigInteger, nullable=True),
    UniqueConstraint("digest", name="uq_tokens_digest"),
)

limits = Table(
    "limits",
    metadata,
    Column("subject", String(32), primary_key=True),  # the id of an account or of a token
    *(Column(each.name, BigInteger, nullable=True) for each in fields(Limits)),
)

# One row: how often any of the above has changed but for when tokens were last used. Triggers of
# the database's count, so that nobody is missed: another release, or somebody's own SQL.
changes = Table(
    "changes",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("receipt", String(36), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("account", String(32), nullable=False),
    Column("token", String(32), nullable=False),
    Column("route", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("finish", String(16), nullable=True),
    Column("status", BigInteger, nullable=False),
    Column("code", BigInteger, nullable=True),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("image_tokens", BigInteger, nullable=False, server_default="0"),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    Column("ttft_us", BigInteger, nullable=True),
    # The price at that moment, in picodollars per token, and what it came to.
    Column("input_price", BigInteger, nullable=False),
    Column("cached_price", BigInteger, nullable=False),
    Column("output_price", BigInteger, nullable=False),
    Column("picodollars", BigInteger, nullable=False),
    Column("microneurons", BigInteger, nullable=False),
    Index("ix_usage_account_at", "account", "at"),
    Index("ix_usage_at", "at"),
)

# Sums of the above, so that reports and quotas need not go through every request.
hours = Table(
    "usage_hours",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),  # its beginning
    Column("account", String(32), primary_key=True),
    Column("token", String(32), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("outcome", String(16), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("image_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("picodollars", BigInteger, nullable=False),
    Column("microneurons", BigInteger, nullable=False),
    Index("ix_usage_hours_account_hour", "account", "hour"),
    Index("ix_usage_hours_token_hour", "token", "hour"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("account", String(32), ForeignKey("accounts.id"), nullable=False, index=True),
    Column("token", String(32), nullable=False),
    Column("model", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),  # its items
    Column("open", BigInteger, nullable=False),  # those that have not ended
    Column("bytes", BigInteger, nullable=False),  # of all its inputs
    Column("ended_at", BigInteger, nullable=True),
)

items = Table(
    "batch_items",
    metadata,
    Column("id", String(36), primary_key=True),  # the id of its receipt too
    Column("batch", String(36), ForeignKey("batches.id"), nullable=False),
    Column("account", String(32), nullable=False),
    Column("model", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("reference", Text, nullable=True),
    Column("input", LargeBinary, nullable=True),  # JSON; null as soon as the item has ended
    Column("free_at", BigInteger, nullable=True, index=True),  # who comes then may claim it
    Column("claim", String(36), nullable=True),  # whose it is until then
    Column("attempts", BigInteger, nullable=False),  # claims that were not given back
    Column("success", Boolean, nullable=True),  # null: it has not ended
    Column("output", LargeBinary, nullable=True),  # JSON: the result, or the errors
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    UniqueConstraint("batch", "position", name="uq_batch_items_batch_position"),
)

agreements = Table(
    "agreements",
    metadata,
    Column("account", String(32), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("token", String(32), nullable=False),  # whose holder agreed
    Column("at", BigInteger, nullable=False),
)

finetunes = Table(
    "finetunes",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("account", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("description", Text, nullable=True),
    Column("public", BigInteger, nullable=False),  # 1: every account may use it
    Column("created_at", BigInteger, nullable=False),
    Column("modified_at", BigInteger, nullable=False),
    # SHA-256 in hex: of the files uploaded, and of what the engine reads, once both are there.
    Column("config", String(64), nullable=True),
    Column("weights", String(64), nullable=True),
    Column("digest", String(64), nullable=True),
    UniqueConstraint("account", "name", name="uq_finetunes_account_name"),
    Index("ix_finetunes_public", "public"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", BigInteger, nullable=False, index=True),
    Column("actor", Text, nullable=False),  # a token's id, or `cli:` and a user's name
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON
)
