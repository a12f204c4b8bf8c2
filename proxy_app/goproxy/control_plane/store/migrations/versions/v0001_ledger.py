"""Accounts, keys, wallets, credits, leases and the ledger of requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("note", _TEXT, nullable=False),
        sa.Column("origin", _TEXT, nullable=False),
        sa.Column("created_at", _TEXT, nullable=False),
        sa.Column("disabled_at", _TEXT),
        sa.Column("disabled_by", _TEXT),
        sa.PrimaryKeyConstraint("name", name="pk_accounts"),
    )
    op.create_table(
        "counters",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.create_table(
        "instances",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("upstream", _TEXT, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", _TEXT, nullable=False),
        sa.Column("retired_at", _TEXT),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
    )
    op.create_table(
        "wallets",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("account", _TEXT, nullable=False),
        sa.Column("key_id", _TEXT),
        sa.Column("credits", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_wallets"),
    )
    op.create_index("ix_wallets_account", "wallets", ["account"])
    op.create_table(
        "api_keys",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("account", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("prefix", _TEXT, nullable=False),
        sa.Column("sha256", _TEXT, nullable=False),
        sa.Column("origin", _TEXT, nullable=False),
        sa.Column("created_at", _TEXT, nullable=False),
        sa.Column("expires_at", _TEXT),
        sa.Column("revoked_at", _TEXT),
        sa.Column("revoked_by", _TEXT),
        sa.Column("rotated_from", _TEXT),
        sa.Column("upstreams", _TEXT),
        sa.Column("models", _TEXT),
        sa.Column("requests_per_minute", sa.BigInteger()),
        sa.Column("tokens_per_minute", sa.BigInteger()),
        sa.Column("limit_nanodollars", sa.BigInteger()),
        sa.ForeignKeyConstraint(["account"], ["accounts.name"], name="fk_api_keys_account"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("sha256", name="uq_api_keys_sha256"),
    )
    op.create_index("ix_api_keys_account", "api_keys", ["account"])
    op.create_table(
        "credits",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("wallet", _TEXT, nullable=False),
        sa.Column("account", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("note", _TEXT, nullable=False),
        sa.Column("row_id", _TEXT),
        sa.Column("received_at", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(["wallet"], ["wallets.id"], name="fk_credits_wallet"),
        sa.PrimaryKeyConstraint("id", name="pk_credits"),
    )
    op.create_index("ix_credits_received_at_id", "credits", ["received_at", "id"])
    op.create_index("ix_credits_wallet", "credits", ["wallet"])
    op.create_table(
        "leases",
        sa.Column("wallet", _TEXT, nullable=False),
        sa.Column("instance", _TEXT, nullable=False),
        sa.Column("granted_total", sa.BigInteger(), nullable=False),
        sa.Column("spent_total", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name="fk_leases_instance"),
        sa.ForeignKeyConstraint(["wallet"], ["wallets.id"], name="fk_leases_wallet"),
        sa.PrimaryKeyConstraint("wallet", "instance", name="pk_leases"),
    )
    op.create_table(
        "ledger_rows",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("instance", _TEXT, nullable=False),
        sa.Column("received_at", _TEXT, nullable=False),
        sa.Column("day", _TEXT, nullable=False),
        sa.Column("account", _TEXT, nullable=False),
        sa.Column("key_id", _TEXT, nullable=False),
        sa.Column("wallets", _TEXT, nullable=False),
        sa.Column("upstream", _TEXT, nullable=False),
        sa.Column("endpoint", _TEXT, nullable=False),
        sa.Column("protocol", _TEXT, nullable=False),
        sa.Column("model", _TEXT, nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("opened_at", _TEXT, nullable=False),
        sa.Column("settled_at", _TEXT, nullable=False),
        sa.Column("settlement", _TEXT, nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("hold_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("estimated_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("input", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_5m", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_1h", sa.BigInteger(), nullable=False),
        sa.Column("cache_read", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.BigInteger(), nullable=False),
        sa.Column("reasoning", sa.BigInteger(), nullable=False),
        sa.Column("raw_usage", _TEXT),
        sa.Column("flags", _TEXT, nullable=False),
        sa.Column("price_version", _TEXT, nullable=False),
        sa.Column("prices", _TEXT, nullable=False),
        sa.Column("tier_up_to", sa.BigInteger()),
        sa.Column("multiplier", _TEXT, nullable=False),
        sa.Column("cost_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("adjustment_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("received_bytes", sa.BigInteger(), nullable=False),
        sa.Column("answered_bytes", sa.BigInteger(), nullable=False),
        sa.Column("upstream_request_id", _TEXT),
        sa.Column("upstream_model", _TEXT),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name="fk_ledger_rows_instance"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_rows"),
    )
    op.create_index("ix_ledger_rows_account_day", "ledger_rows", ["account", "day"])
    op.create_index("ix_ledger_rows_received_at_id", "ledger_rows", ["received_at", "id"])
    op.create_index("ix_ledger_rows_upstream_day", "ledger_rows", ["upstream", "day"])
