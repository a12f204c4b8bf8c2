"""Indexes that walks through the ledger go along."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_ledger_rows_day_id", "ledger_rows", ["day", "id"])
    op.create_index("ix_ledger_rows_account_day_id", "ledger_rows", ["account", "day", "id"])
    op.create_index("ix_ledger_rows_upstream_day_id", "ledger_rows", ["upstream", "day", "id"])
    op.drop_index("ix_ledger_rows_account_day", "ledger_rows")
    op.drop_index("ix_ledger_rows_upstream_day", "ledger_rows")
