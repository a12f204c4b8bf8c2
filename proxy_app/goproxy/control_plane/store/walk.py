"""Going through the ledger in steps, so that a reading of any length keeps nobody waiting.

While a transaction reads from SQLite, no other can be committed. So a reading that may meet any number of rows is cut
into steps, each a transaction of its own that looks at no more than `STEP` rows, whether they are wanted or not. All
steps of a reading go along one index; what else is asked of a row must not tempt the database to another one, along
which the same step could be long.

Rows are not changed and not removed, and where they stand in an index they stay: each row that was there at the
beginning is met once. One that comes in the meantime is met or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Subquery, Table, select, tuple_

STEP = 2000

Position = tuple[str, str]
"""Where a step ends: the values of the index's last two columns, which no two rows have in common."""


def beyond(columns: Sequence[Any], position: Position, *, backwards: bool = False) -> ColumnElement[bool]:
    """The condition on what comes after a position."""
    return tuple_(*columns) < position if backwards else tuple_(*columns) > position


def step(
    connection: Connection, table: Table, columns: Sequence[Any], begin: Sequence[ColumnElement[bool]]
) -> tuple[Subquery, Position | None]:
    """The rows of a step that begins with these conditions, and where it ends; None: it is the last one."""
    looked_at = select(table).where(*begin).order_by(*columns).limit(STEP).subquery()
    return looked_at, end_of_step(connection, columns, begin)


def end_of_step(
    connection: Connection, columns: Sequence[Any], begin: Sequence[ColumnElement[bool]], *, backwards: bool = False
) -> Position | None:
    """Where a step ends that begins with these conditions; None: it is the last one."""
    order = [column.desc() if backwards else column for column in columns]
    last = select(*columns).where(*begin).order_by(*order).offset(STEP - 1).limit(1)
    found = connection.execute(last).first()
    return None if found is None else (found[0], found[1])


def aside(column: Any) -> Any:
    """A column in a condition for which no index is to be used."""
    return column.concat("")
