"""How far a proxy's token reaches: to the wallets that its upstream pays from, and to the keys that may be used there.

Only what no honest proxy says is refused, and configurations change: one with the former wallet still runs while the
new one is rolled out, and a journal of then may be posted long after. Such a proxy was lent the wallet before it spent
anything of it, and the leases are kept. So a wallet that an upstream's proxies were lent is theirs for good, unless the
instance that was lent it is retired. Rows of a key are taken of every upstream that it ever was for, and keys are never
deleted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, select

from goproxy.control_plane.store.schema import accounts, instances, keys, leases, rows
from goproxy.core import wallet_name
from goproxy.core.ledger import Row
from goproxy.core.usage import KINDS

Listed = tuple[Any, ...]
"""A price of a model as rows say it: see `listed`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an upstream's configuration says, as it stands now."""

    upstream: str
    wallets: Set[str | None] | None
    """What the wallets are called that are paid from there, `<account>/<wallet>`, None being the account's own; none at
    all: the upstream has no configuration here. None: whichever, for what its file says now cannot be read."""
    prices: Set[Listed]

    def pays_from(self, wallet: str) -> bool:
        """Whether requests there are paid from this wallet of an account."""
        return self.wallets is None or wallet_name.name_of(wallet) in self.wallets

    def has_listed(self, row: Row) -> bool:
        """Whether its prices and its multiplier are those of its model, of whichever day, length and terms."""
        return (
            listed(row.model, row.price_version, row.tier_up_to, row.multiplier, map(row.prices.get, KINDS))
            in self.prices
        )


@dataclass(frozen=True, slots=True)
class _Key:
    account: str
    upstreams: Sequence[str] | None
    served: Sequence[str] | None

    def may_be_used_at(self, upstream: str) -> bool:
        return self.upstreams is None or upstream in self.upstreams

    def may_have_been_used_at(self, upstream: str) -> bool:
        return self.served is None or upstream in self.served


def listed(model: str, version: str, tier_up_to: int | None, multiplier: str, prices: Iterable[str | None]) -> Listed:
    """A price of a model, to be compared; the prices are in the order of `KINDS`."""
    return (model, version, tier_up_to, multiplier, *prices)


def withheld(connection: Connection, scope: Scope, wanted: Set[str]) -> set[str]:
    """Those of the wallets that proxies of this upstream are not lent.

    They pay from others, or no key of the account may be used there, or the key itself may not. (Of an account or a key
    that this store does not know there is nothing to be lent.)
    """
    of_accounts = {wallet: wallet_name.account_of(wallet) for wallet in wanted if wallet_name.key_of(wallet) is None}
    doubtful = {wallet for wallet in of_accounts if not scope.pays_from(wallet)}
    named = set(of_accounts.values())
    known = _keys(connection, keys.c.id.in_([wallet_name.key_of(wallet) for wallet in wanted - of_accounts.keys()]))
    doubtful |= {wallet_name.of_key(id_) for id_, key in known.items() if not key.may_be_used_at(scope.upstream)}
    without = named - _with_a_key_for(connection, scope.upstream, named)
    if without:
        without = set(connection.execute(select(accounts.c.name).where(accounts.c.name.in_(without))).scalars())
        doubtful |= {wallet for wallet, account in of_accounts.items() if account in without}
    doubtful &= {*wanted}
    return doubtful - _lent_before(connection, scope.upstream, doubtful)


def examine(connection: Connection, scope: Scope, posted: Sequence[Row]) -> tuple[list[Row], dict[str, str]]:
    """Those of the rows that can be kept, with flags that say what is special about them; by id, why others cannot.

    What is in the ledger already is not examined again: it changes nothing.
    """
    verdicts = _judge(connection, scope, {_payer(row) for row in posted})
    kept, problems = [], {}
    for row in posted:
        verdict = verdicts[_payer(row)]
        if verdict.problem is not None:
            problems[row.id] = verdict.problem
            continue
        flags = verdict.flags
        if not scope.has_listed(row) and "unpriced" not in row.flags:
            flags |= {"other_prices"}
        kept.append(replace(row, flags=tuple(sorted(flags.union(row.flags)))) if flags else row)
    if problems:
        there = set(connection.execute(select(rows.c.id).where(rows.c.id.in_(problems))).scalars())
        kept += [row for row in posted if row.id in there]
        problems = {id_: problem for id_, problem in problems.items() if id_ not in there}
    return kept, problems


_Payer = tuple[str, str, str]
"""Account, key, and wallet of the account."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    problem: str | None
    flags: frozenset[str] = frozenset()


def _payer(row: Row) -> _Payer:
    return row.account, row.key_id, row.wallets[0]


def _judge(connection: Connection, scope: Scope, payers: Set[_Payer]) -> dict[_Payer, _Verdict]:
    known = _keys(connection, keys.c.id.in_([id_ for _, id_, _ in payers if id_.isascii() and id_.isprintable()]))
    strange = {payer for payer in payers if _is_strange(payer, known, scope)}
    lent = _lent_before(connection, scope.upstream, {wallet for _, _, wallet in strange})
    verdicts = {}
    for payer in payers:
        _, id_, wallet = payer
        if id_ in known and not known[id_].may_have_been_used_at(scope.upstream):
            verdicts[payer] = _Verdict(f"its key may not be used at {scope.upstream}, nor ever might")
        elif payer in strange and wallet not in lent:
            verdicts[payer] = _Verdict(f"nothing with its key is paid from {wallet} at {scope.upstream}, nor ever was")
        else:
            flags = {"other_wallet": payer in strange, "unknown_key": id_ not in known}
            verdicts[payer] = _Verdict(None, frozenset(name for name, is_so in flags.items() if is_so))
    return verdicts


def _is_strange(payer: _Payer, known: Mapping[str, _Key], scope: Scope) -> bool:
    """Whether it pays from elsewhere than today's configuration and today's owner of the key would have it.

    A key of the inventory can become another account's.
    """
    account, id_, wallet = payer
    return not scope.pays_from(wallet) or (id_ in known and known[id_].account != account)


def _keys(connection: Connection, condition: ColumnElement[bool]) -> dict[str, _Key]:
    columns = (keys.c.id, keys.c.account, keys.c.upstreams, keys.c.served_upstreams)
    found = connection.execute(select(*columns).where(condition))
    return {
        id_: _Key(account, upstreams and json.loads(upstreams), served and json.loads(served))
        for id_, account, upstreams, served in found
    }


def _with_a_key_for(connection: Connection, upstream: str, named: Set[str]) -> set[str]:
    """Those of the accounts that have a key that may be used there, be it live or not.

    An account can have had ten thousands of keys. Mostly the first one that is looked at may be used everywhere; else
    they differ in few sets of upstreams.
    """
    if not named:
        return set()
    unlimited = exists().where(keys.c.account == accounts.c.name, keys.c.upstreams.is_(None))
    found = set(connection.execute(select(accounts.c.name).where(accounts.c.name.in_(named), unlimited)).scalars())
    if rest := named - found:
        limited = select(keys.c.account, keys.c.upstreams).where(keys.c.account.in_(rest)).distinct()
        for account, limits in connection.execute(limited):
            if limits is None or upstream in json.loads(limits):  # None: it was made in this moment
                found.add(account)
    return found


def _lent_before(connection: Connection, upstream: str, some: Collection[str]) -> set[str]:
    """Those of the wallets that proxies of this upstream have leases of, be they of nothing by now."""
    if not some:
        return set()
    query = (
        select(leases.c.wallet)
        .join(instances, instances.c.id == leases.c.instance)
        .where(
            leases.c.wallet.in_(some),
            instances.c.upstream == upstream,
            instances.c.retired_at.is_(None),
        )
    )
    return set(connection.execute(query).scalars())
