"""The multiplier of a row's last correction, which was in the note of its credit alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_BATCH = 1000
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("ledger_rows", sa.Column("adjusted_multiplier", _TEXT))
    rows = sa.table("ledger_rows", sa.column("id"), sa.column("multiplier"), sa.column("adjusted_multiplier"))
    entries = sa.table("credits", *map(sa.column, ("kind", "row_id", "note", "received_at", "id")))
    # The row's own is left out: of a row that was `unpriced`, it is no multiplier that anyone gave.
    corrected = (
        sa.update(rows)
        .where(rows.c.id == sa.bindparam("row"))
        .values(adjusted_multiplier=sa.func.nullif(sa.bindparam("last", type_=sa.Text()), rows.c.multiplier))
    )
    made = sa.select(entries.c.row_id, entries.c.note).where(entries.c.kind == "rerate")
    connection = op.get_bind()
    found = connection.execute(
        made.order_by(entries.c.row_id, entries.c.received_at, entries.c.id), execution_options={"yield_per": _BATCH}
    )
    for some in _batches(groupby(found, lambda entry: entry.row_id)):
        connection.execute(corrected, some)


def _batches(rows: Iterable[tuple[str, Iterator[Any]]]) -> Iterator[list[dict[str, str]]]:
    """The multiplier in the last note of each row: it has one of each correction, for each of its wallets."""
    batch: list[dict[str, str]] = []
    for row, entries in rows:
        *_, last = entries
        batch.append({"row": row, "last": last.note.rpartition(" multiplier ")[2]})
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
