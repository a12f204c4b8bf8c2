"""Usage and its cost, summed up from the ledger by account, key, upstream, model and day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from goproxy.control_plane.store.rows import Chosen
from goproxy.control_plane.store.walk import Position
from goproxy.control_plane.store.wide_sum import sum_of, summed
from goproxy.core.usage import KINDS

AXES = {"account": "account", "key": "key_id", "upstream": "upstream", "model": "model", "day": "day"}
"""What can be summed up by, and its column."""

_SUMMED = (*KINDS, "cost_nanodollars")
_SUMS = ("requests", *_SUMMED)


def step(
    connection: Connection, by: Sequence[str], chosen: Chosen, after: Position | None
) -> tuple[Sequence[RowMapping], Position | None]:
    """Sums over the rows that a step of a walk comes by, one for each combination of the axes `by`; where it ends."""
    looked_at, conditions, end = chosen.step(connection, after)
    column = looked_at.c
    axes = [column[AXES[axis]].label(axis) for axis in by]
    sums = [part for kind in KINDS for part in sum_of(column[kind], kind)]
    sums += sum_of(column.cost_nanodollars + column.adjustment_nanodollars, "cost_nanodollars")
    query = select(*axes, func.count().label("requests"), *sums).select_from(looked_at).where(*conditions)
    return connection.execute(query.group_by(*axes)).mappings().all(), end


class Summary:
    """The lines of all steps, added up. Of more lines than it may have, it keeps the first ones."""

    def __init__(self, by: Sequence[str], limit: int) -> None:
        self._by = by
        self._limit = limit
        self._lines: dict[tuple[str, ...], Counter[str]] = {}
        self.complete = True
        """Whether it has all lines."""

    def add(self, lines: Sequence[RowMapping]) -> None:
        """Add the lines of a step."""
        for line in lines:
            sums = self._lines.setdefault(tuple(line[axis] for axis in self._by), Counter())
            sums["requests"] += line["requests"]
            for name in _SUMMED:
                sums[name] += summed(line, name)
        if len(self._lines) > 2 * self._limit:
            self._cut()

    def lines(self) -> list[dict[str, Any]]:
        """One for each combination of the axes that there is, in their order; without an axis, one line."""
        self._cut()
        nothing = {} if self._by else {(): Counter[str]()}
        return [
            dict(zip(self._by, values, strict=True)) | {name: sums[name] for name in _SUMS}
            for values, sums in sorted((nothing | self._lines).items())
        ]

    def _cut(self) -> None:
        """A line that goes here has as many before it as there may be, and so would have gone at last."""
        if len(self._lines) > self._limit:
            self.complete = False
            self._lines = {values: self._lines[values] for values in sorted(self._lines)[: self._limit]}
