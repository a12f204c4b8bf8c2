"""Credit that renews by itself. No wallet of before did, so that nothing is behind any of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("wallets", sa.Column("behind", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.create_table(
        "renewals",
        sa.Column("wallet", _TEXT, nullable=False),
        sa.Column("period", _TEXT, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("next_at", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("wallet", name="pk_renewals"),
        sa.ForeignKeyConstraint(["wallet"], ["wallets.id"], name="fk_renewals_wallet"),
    )
    op.create_index("ix_renewals_next_at", "renewals", ["next_at"])
