"""Where a key could ever be used, so that it can be taken away from upstreams: until now, where it can be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("served_upstreams", _TEXT))
    keys = sa.table("api_keys", sa.column("upstreams"), sa.column("served_upstreams"))
    op.execute(sa.update(keys).values(served_upstreams=keys.c.upstreams))
