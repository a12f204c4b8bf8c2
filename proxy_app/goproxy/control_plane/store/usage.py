"""Usage and its cost, summed up from the ledger by account, key, upstream, model and day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from goproxy.control_plane.store.rows import Chosen
from goproxy.control_plane.store.schema import accounts, instances, leases, rows, wallets

AXES = {"account": "account", "key": "key_id", "upstream": "upstream", "model": "model", "day": "day"}
"""What can be summed up by, and its column."""

_SUMS = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output", "reasoning")


@dataclass(frozen=True, slots=True)
class Totals:
    """What the metrics show of the store: sums only, nobody's name. In nano-dollars."""

    accounts: int
    balance: int
    """Of all wallets together: what can be lent."""
    held: Mapping[str, int]
    """By upstream: lent, and not reported as spent."""


def usage(connection: Connection, by: Sequence[str], chosen: Chosen, limit: int) -> list[dict[str, Any]]:
    """One line for each combination of the axes `by` that there is, in their order; without an axis, one line."""
    axes = [rows.c[AXES[axis]].label(axis) for axis in by]
    sums = [func.sum(rows.c[kind]).label(kind) for kind in _SUMS]
    cost = func.sum(rows.c.cost_nanodollars + rows.c.adjustment_nanodollars).label("cost_nanodollars")
    query = select(*axes, func.count().label("requests"), *sums, cost).where(*chosen.of_rows())
    query = query.group_by(*axes).order_by(*axes).limit(limit)
    return [
        {axis: line[axis] for axis in by}
        | {name: int(line[name] or 0) for name in ("requests", *_SUMS, "cost_nanodollars")}
        for line in connection.execute(query).mappings()
    ]


def totals(connection: Connection) -> Totals:
    """The sums over everything. A key's spending limit is no money of its own: its wallet is left out."""
    of_accounts = wallets.c.key_id.is_(None)
    credited = connection.execute(select(func.sum(wallets.c.credits)).where(of_accounts)).scalar()
    lent = connection.execute(
        select(instances.c.upstream, func.sum(leases.c.granted_total), func.sum(leases.c.spent_total))
        .join(instances, instances.c.id == leases.c.instance)
        .join(wallets, wallets.c.id == leases.c.wallet)
        .where(of_accounts)
        .group_by(instances.c.upstream)
    ).all()
    return Totals(
        accounts=connection.execute(select(func.count()).select_from(accounts)).scalar_one(),
        balance=int(credited or 0) - sum(int(granted) for _, granted, _ in lent),
        held={upstream: int(granted) - int(spent) for upstream, granted, spent in lent},
    )
