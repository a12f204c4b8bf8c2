"""The terms on which a request was served; rows of before have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("ledger_rows", sa.Column("terms", _TEXT, nullable=False, server_default=sa.text("''")))
