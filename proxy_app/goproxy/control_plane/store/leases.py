"""Leases: what proxies were lent of wallets. `core.lease.Wallet` decides; this file loads it, applies it, stores it.

Whoever changes the leases of a wallet first locks the wallet's record (`wallets.load`), several wallets in the order
of their ids: two transactions that want the same money come one after the other, and never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from goproxy.control_plane.store import wallets
from goproxy.control_plane.store.database import keep_or_insert
from goproxy.control_plane.store.refusals import Conflict, NotFound
from goproxy.control_plane.store.schema import instances, leases
from goproxy.core.lease import Loan, Wallet
from goproxy.timestamps import now, text_of

CHUNK = 1_000_000_000
"""Nano-dollars that a proxy is lent beyond what it asks for, at most: a dollar, so that it need not ask each time."""

_NAMED_AT_ONCE = 500
"""Instances in one statement."""

SILENT_FOR = timedelta(minutes=5)
"""For so long nothing must have been heard of an instance that is taken for gone, beyond what it serves on when it is
cut off. One that reaches this backend polls for keys twice a minute, of which the store is told once a minute."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What is known of instances of which nothing is heard."""

    since: str
    """When the backend began to hear of whoever lives."""
    serves_on: Callable[[str], timedelta]
    """How long a proxy of an upstream that is cut off from here goes on, and spends what it was lent."""

    def may_live_until(self, upstream: str, last_seen: str) -> str:
        """When an instance of which nothing more is heard can spend nothing more."""
        cut_off = datetime.fromisoformat(last_seen) + self.serves_on(upstream)
        return text_of(max(cut_off, datetime.fromisoformat(self.since)) + SILENT_FOR)


@dataclass(frozen=True, slots=True)
class Ask:
    """A proxy's wish to be lent of one wallet (see `core.lease`)."""

    wallet: str
    known_total: int
    want: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What it is told."""

    wallet: str
    granted_total: int
    spent_total: int
    """By the rows of this instance that are here."""
    balance: int


@dataclass(frozen=True, slots=True)
class Lent:
    """The outcome of one call for leases."""

    grants: list[Grant] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Wallets that did not have what was wanted."""
    idle: dict[str, list[str]] = field(default_factory=dict)
    """By other instance: those of them of which it holds something, be it in use or not."""


def met(connection: Connection, instance: str, upstream: str) -> int:
    """Know of this proxy instance, and lock its record; the sequence number of its last call for leases.

    Raises:
        Conflict: it is an instance of another upstream.
    """
    keep_or_insert(connection, instances, id=instance, upstream=upstream, sequence=-1, last_seen=now())
    known = connection.execute(select(instances).where(instances.c.id == instance).with_for_update()).one()
    if known.upstream != upstream:
        raise Conflict(f"instance {instance} is one of {known.upstream}, not of {upstream}")
    connection.execute(update(instances).where(instances.c.id == instance).values(last_seen=now()))
    return int(known.sequence)


def heard(connection: Connection, ids: Collection[str]) -> None:
    """Note that these instances live, as far as they are known. A statement can name some ten thousands, no more."""
    named = sorted(ids)
    for begin in range(0, len(named), _NAMED_AT_ONCE):
        some = instances.c.id.in_(named[begin : begin + _NAMED_AT_ONCE])
        connection.execute(update(instances).where(some).values(last_seen=now()))


def lend(
    connection: Connection,
    instance: str,
    upstream: str,
    sequence: int,
    asks: Sequence[Ask],
    withheld: Collection[str] = (),
) -> Lent:
    """Answer one call for leases.

    Calls of one instance are numbered. One that is not newer than the last is late, or came twice: the instance goes
    by the answer to a later one, so this one must change nothing. An instance that was retired was given up together
    with what it was lent: should it live, it must become another one (its client does so when it is told 409).

    Args:
        withheld: wallets of which the instance is lent nothing, nor told what they have. None of them was ever lent to
            it (see `authorization.withheld`), so that it has nothing of them to give back.

    Raises:
        Conflict: the call is late, or the instance is retired, or another upstream's, or knows of what is no longer
            its own: it, or this store, is of a backup.
    """
    last = met(connection, instance, upstream)
    if connection.execute(select(instances.c.retired_at).where(instances.c.id == instance)).scalar() is not None:
        raise Conflict(f"instance {instance} is retired")
    if sequence <= last:
        raise Conflict(f"call {sequence} is not newer than call {last}, which was answered")
    connection.execute(update(instances).where(instances.c.id == instance).values(sequence=sequence))
    lent = Lent()
    for ask in sorted(asks, key=lambda ask: ask.wallet):
        if ask.wallet in withheld or not (ask.known_total or wallets.existing(connection, [ask.wallet])):
            lent.grants.append(Grant(ask.wallet, 0, 0, 0))
            lent.refused.extend([ask.wallet] if ask.want else [])
            continue
        wallet = _load(connection, ask.wallet)
        if wallet.is_exceeded(instance, ask.known_total):
            raise Conflict(f"instance {instance} knows of more of {ask.wallet} than it was lent")
        before = wallet.lend(instance, ask.known_total, 0, 0)
        total = wallet.lend(instance, before, ask.want, CHUNK)
        loan = wallet.loans[instance]
        _store_loan(connection, ask.wallet, instance, loan)
        lent.grants.append(Grant(ask.wallet, total, loan.spent_total, wallet.balance))
        if total - before < ask.want:
            lent.refused.append(ask.wallet)
            for other, its_loan in wallet.loans.items():
                if other != instance and its_loan.held > 0:
                    lent.idle.setdefault(other, []).append(ask.wallet)
    return lent


def spend(connection: Connection, instance: str, costs: Mapping[str, int]) -> None:
    """Count what this instance's rows cost, by wallet. A wallet that is not known is made: no cost is dropped."""
    for wallet_id, cost in sorted(costs.items()):
        wallet = _load(connection, wallet_id)
        wallet.spend(instance, cost)
        _store_loan(connection, wallet_id, instance, wallet.loans[instance])


def retire(connection: Connection, instance: str, hearing: Hearing | None) -> dict[str, int]:
    """Take back what an instance that is gone for good did not spend; by wallet, how much that was.

    Args:
        hearing: None: it is retired whether it lives or not, and what it holds is lent twice if it does.

    Raises:
        NotFound: there is no such instance.
        Conflict: it may live: it was heard of lately, or could not have been, or goes on without being heard.
    """
    found = connection.execute(select(instances).where(instances.c.id == instance).with_for_update()).one_or_none()
    if found is None:
        raise NotFound(f"there is no instance {instance!r}")
    if hearing is not None and found.retired_at is None:
        until = hearing.may_live_until(found.upstream, found.last_seen)
        if until > now():
            raise Conflict(
                f"instance {instance} of {found.upstream} may live until {until}, and spend what it was lent: it was "
                f"heard of at {found.last_seen}, this backend listens since {hearing.since}, and a proxy that is cut "
                f"off serves on for {hearing.serves_on(found.upstream)} (h:mm:ss). Retire it then, or at once with "
                f"`force` (`--force`) if you know that it has ended: if it has not, what it holds is lent twice, and "
                f"its wallets may fall below 0"
            )
    connection.execute(update(instances).where(instances.c.id == instance).values(retired_at=now()))
    returned = {}
    of_it = select(leases.c.wallet).where(leases.c.instance == instance).order_by(leases.c.wallet)
    for wallet_id in sorted(connection.execute(of_it).scalars()):
        wallet = wallets.load(connection, wallet_id)
        returned[wallet_id] = wallet.retire(instance)
        _store_loan(connection, wallet_id, instance, wallet.loans[instance])
    return returned


def upstreams(connection: Connection) -> set[str]:
    """Those whose proxies have ever been heard of here: whoever a row is of is among them."""
    return set(connection.execute(select(instances.c.upstream).distinct()).scalars())


def all_of_them(connection: Connection) -> list[dict[str, Any]]:
    """All leases, by wallet and instance."""
    query = (
        select(leases, instances.c.upstream, instances.c.last_seen, instances.c.retired_at)
        .join(instances, instances.c.id == leases.c.instance)
        .order_by(leases.c.wallet, instances.c.upstream, leases.c.instance)
    )
    return [
        {
            "wallet": found["wallet"],
            "instance": found["instance"],
            "upstream": found["upstream"],
            "granted_total_nanodollars": found["granted_total"],
            "spent_total_nanodollars": found["spent_total"],
            "held_nanodollars": found["granted_total"] - found["spent_total"],
            "last_seen": found["last_seen"],
            "retired_at": found["retired_at"],
        }
        for found in connection.execute(query).mappings()
    ]


def _load(connection: Connection, wallet_id: str) -> Wallet:
    try:
        return wallets.load(connection, wallet_id)
    except NotFound:
        wallets.remember(connection, wallet_id)
        return wallets.load(connection, wallet_id)


def _store_loan(connection: Connection, wallet: str, instance: str, loan: Loan) -> None:
    values = {"granted_total": loan.granted_total, "spent_total": loan.spent_total, "updated_at": now()}
    if not keep_or_insert(connection, leases, wallet=wallet, instance=instance, **values):
        connection.execute(
            update(leases).where(leases.c.wallet == wallet, leases.c.instance == instance).values(**values)
        )
