"""Usage and its cost, summed up from the ledger by account, key, upstream, model and day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select

from goproxy.control_plane.store.rows import Chosen
from goproxy.control_plane.store.schema import accounts, instances, leases, wallets
from goproxy.control_plane.store.walk import Place
from goproxy.core.usage import KINDS

AXES = {"account": "account", "key": "key_id", "upstream": "upstream", "model": "model", "day": "day"}
"""What can be summed up by, and its column."""

_SUMMED = (*KINDS, "cost_nanodollars")
_SUMS = ("requests", *_SUMMED)

_HALF = 2**32


@dataclass(frozen=True, slots=True)
class Totals:
    """What the metrics show of the store: sums only, nobody's name. In nano-dollars."""

    accounts: int
    balance: int
    """Of all wallets together: what can be lent."""
    held: Mapping[str, int]
    """By upstream: lent, and not reported as spent."""


def step(
    connection: Connection, by: Sequence[str], chosen: Chosen, after: Place | None
) -> tuple[Sequence[RowMapping], Place | None]:
    """Sums over the rows that a step of a walk comes by, one for each combination of the axes `by`; where it ends."""
    looked_at, conditions, end = chosen.step(connection, after)
    column = looked_at.c
    axes = [column[AXES[axis]].label(axis) for axis in by]
    sums = [part for kind in KINDS for part in _sum(column[kind], kind)]
    sums += _sum(column.cost_nanodollars + column.adjustment_nanodollars, "cost_nanodollars")
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
                sums[name] += _summed(line, name)
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


def totals(connection: Connection) -> Totals:
    """The sums over everything. A key's spending limit is no money of its own: its wallet is left out."""
    of_accounts = wallets.c.key_id.is_(None)
    credited = connection.execute(select(*_sum(wallets.c.credits, "credits")).where(of_accounts)).mappings().one()
    lent = connection.execute(
        select(
            instances.c.upstream,
            *_sum(leases.c.granted_total, "granted"),
            *_sum(leases.c.spent_total, "spent"),
        )
        .join(instances, instances.c.id == leases.c.instance)
        .join(wallets, wallets.c.id == leases.c.wallet)
        .where(of_accounts)
        .group_by(instances.c.upstream)
    ).mappings()
    loans = {each["upstream"]: (_summed(each, "granted"), _summed(each, "spent")) for each in lent}
    return Totals(
        accounts=connection.execute(select(func.count()).select_from(accounts)).scalar_one(),
        balance=_summed(credited, "credits") - sum(granted for granted, _ in loans.values()),
        held={upstream: granted - spent for upstream, (granted, spent) in loans.items()},
    )


def _sum(column: ColumnElement[int], name: str) -> list[ColumnElement[int]]:
    """The sum of a column, in two: SQLite's own is an error from 64 bits on, which a hundred wallets can come to."""
    return [func.sum(column // _HALF).label(f"{name}_high"), func.sum(column % _HALF).label(f"{name}_low")]


def _summed(record: RowMapping, name: str) -> int:
    """What both parts of a sum come to; of nothing: 0."""
    return int(record[f"{name}_high"] or 0) * _HALF + int(record[f"{name}_low"] or 0)
