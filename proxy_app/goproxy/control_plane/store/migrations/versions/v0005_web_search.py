"""The searches of the web that a provider made for a request; rows of before have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("ledger_rows", sa.Column("web_search", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
