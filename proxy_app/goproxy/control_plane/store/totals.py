"""What the whole store comes to, for the metrics: accounts, what their wallets have, and what the proxies were lent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from goproxy.control_plane.store.schema import accounts, instances, leases, wallets
from goproxy.control_plane.store.wide_sum import sum_of, summed


@dataclass(frozen=True, slots=True)
class Totals:
    """What the metrics show of the store: sums only, nobody's name. In nano-dollars."""

    accounts: int
    balance: int
    """Of all wallets together: what can be lent."""
    held: Mapping[str, int]
    """By upstream: lent, and not reported as spent."""


def totals(connection: Connection) -> Totals:
    """The sums over everything. A key's spending limit is no money of its own: its wallet is left out."""
    of_accounts = wallets.c.key_id.is_(None)
    credited = connection.execute(select(*sum_of(wallets.c.credits, "credits")).where(of_accounts)).mappings().one()
    lent = connection.execute(
        select(
            instances.c.upstream,
            *sum_of(leases.c.granted_total, "granted"),
            *sum_of(leases.c.spent_total, "spent"),
        )
        .join(instances, instances.c.id == leases.c.instance)
        .join(wallets, wallets.c.id == leases.c.wallet)
        .where(of_accounts)
        .group_by(instances.c.upstream)
    ).mappings()
    loans = {each["upstream"]: (summed(each, "granted"), summed(each, "spent")) for each in lent}
    return Totals(
        accounts=connection.execute(select(func.count()).select_from(accounts)).scalar_one(),
        balance=summed(credited, "credits") - sum(granted for granted, _ in loans.values()),
        held={upstream: granted - spent for upstream, (granted, spent) in loans.items()},
    )
