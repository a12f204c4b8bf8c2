"""API keys: digests and limits, and the set of live ones that the proxies go by.

Every change of that set raises its version. The version also never falls behind the clock (milliseconds), so that a
store that was restored from a backup does not tell a version twice with different keys.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, literal, or_, select, update

from goproxy.control_plane.store import accounts, renewals, wallets
from goproxy.control_plane.store.database import keep_or_insert
from goproxy.control_plane.store.live_keys import is_live
from goproxy.control_plane.store.refusals import Conflict, NotFound
from goproxy.control_plane.store.schema import accounts as account_table
from goproxy.control_plane.store.schema import counters, keys
from goproxy.control_plane.store.schema import renewals as renewal_table
from goproxy.core import wallet_name
from goproxy.core.renewal import Period
from goproxy.timestamps import now

_VERSION = "keys"
_NOTHING_RENEWS = "a limit in dollars above 0 is what can renew, and the key has none"
_SHOWN = 11
"""Characters of a key that are kept for people to know it by: 48 of its 256 random bits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may do; None: as much as its account."""

    expires_at: str | None = None
    upstreams: Sequence[str] | None = None
    models: Sequence[str] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    nanodollars: int | None = None
    renews: Period | None = None
    """When it may spend that much again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All live keys, as a proxy is told them."""

    version: int
    entries: tuple[dict[str, Any], ...]

    def at(self, upstream: str) -> Snapshot:
        """Those of them that may be used at an upstream."""
        admitted = (each for each in self.entries if each["upstreams"] is None or upstream in each["upstreams"])
        return Snapshot(self.version, tuple(admitted))


def prefix(key: str) -> str:
    """What of a key is stored in clear."""
    return key[:_SHOWN]


def create(
    connection: Connection,
    account: str,
    sha256: str,
    shown: str,
    limits: Limits = Limits(),
    *,
    key_id: str | None = None,
    name: str = "",
    origin: str = accounts.OPERATOR,
    rotated_from: str | None = None,
    left: int | None = None,
) -> dict[str, Any]:
    """Store a key of an account. A spending limit becomes the first credit of a wallet of its own.

    Args:
        left: of its spending limit, if it is not the whole of it.

    Raises:
        NotFound: there is no such account.
        Conflict: there is such a key, or there is no spending limit that could renew.
    """
    if limits.renews is not None and limits.nanodollars is None:
        raise Conflict(_NOTHING_RENEWS)
    accounts.get(connection, account)
    key_id = key_id or f"key_{secrets.token_hex(8)}"
    inserted = keep_or_insert(
        connection,
        keys,
        id=key_id,
        account=account,
        name=name,
        prefix=shown,
        sha256=sha256,
        origin=origin,
        created_at=now(),
        expires_at=limits.expires_at,
        rotated_from=rotated_from,
        upstreams=_written(limits.upstreams),
        served_upstreams=_written(limits.upstreams),
        models=_written(limits.models),
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        limit_nanodollars=limits.nanodollars,
    )
    if not inserted:
        raise Conflict("there is such a key already")
    if limits.nanodollars is not None:
        wallet = wallet_name.of_key(key_id)
        wallets.ensure(connection, wallet, account=account, key_id=key_id)
        if first := limits.nanodollars if left is None else left:
            wallets.credit(connection, f"limit:{key_id}", wallet, "limit", first)
        if left is not None:
            wallets.leave_behind(connection, wallet, min(0, left - limits.nanodollars))
        if limits.renews is not None:
            renewals.schedule(connection, wallet, limits.renews, limits.nanodollars)
    return get(connection, key_id)


def get(connection: Connection, key_id: str) -> dict[str, Any]:
    """A key.

    Raises:
        NotFound: there is none of this id.
    """
    found = connection.execute(_with_renewals().where(keys.c.id == key_id)).mappings().first()
    if found is None:
        raise NotFound(f"there is no key {key_id!r}")
    return _read(found)


def all_of_them(connection: Connection, account: str | None = None) -> list[dict[str, Any]]:
    """All keys, of one account if it is named; the oldest first."""
    query = _with_renewals().order_by(keys.c.created_at, keys.c.id)
    if account is not None:
        query = query.where(keys.c.account == account)
    return [_read(found) for found in connection.execute(query).mappings()]


def revoke(connection: Connection, key_id: str, by: str = accounts.OPERATOR) -> dict[str, Any]:
    """Let a key in no more, for good. What the operator revokes was not revoked by a declaration, which may end.

    Raises:
        NotFound: there is none of this id.
    """
    get(connection, key_id)
    can_change = or_(keys.c.revoked_at.is_(None), literal(by == accounts.OPERATOR))
    values = {"revoked_at": func.coalesce(keys.c.revoked_at, now()), "revoked_by": by}
    connection.execute(update(keys).where(keys.c.id == key_id, can_change).values(values))
    if by == accounts.OPERATOR:
        renewals.stop(connection, wallet_name.of_key(key_id))
    return get(connection, key_id)


def rotate(
    connection: Connection,
    key_id: str,
    sha256: str,
    shown: str,
    old_expires_at: str | None,
) -> dict[str, Any]:
    """Store a second key that may do what the first one may; the first lives on until it is revoked or expires.

    It expires at `old_expires_at` at the latest: a rotation lengthens no key's life.

    Of a spending limit, the second key gets what the first has not spent; until the first is gone, each of them has
    that much.

    Raises:
        NotFound: there is none of this id.
        Conflict: it is revoked, or has expired: the second one would be just as dead.
    """
    old = _living(connection, key_id)
    limit, left = old["limit_nanodollars"], None
    if limit is not None:
        wallet = wallets.load(connection, wallet_name.of_key(key_id))
        left = max(0, wallet.credits - wallet.spent)
        limit = left if old["limit_renews"] is None else limit
    limits = Limits(
        expires_at=old["expires_at"],
        upstreams=old["upstreams"],
        models=old["models"],
        requests_per_minute=old["requests_per_minute"],
        tokens_per_minute=old["tokens_per_minute"],
        nanodollars=limit,
        renews=old["limit_renews"],
    )
    if old_expires_at is not None:
        ends = min(old_expires_at, old["expires_at"] or old_expires_at)  # as texts they sort by time
        connection.execute(update(keys).where(keys.c.id == key_id).values(expires_at=ends))
    return create(connection, old["account"], sha256, shown, limits, name=old["name"], rotated_from=key_id, left=left)


@dataclass(frozen=True, slots=True)
class Changed:
    """A key after its change."""

    key: dict[str, Any]
    holders: list[str]
    """The instances that hold more of its spending limit than there is by now."""


def change(connection: Connection, key_id: str, changes: Mapping[str, Any]) -> Changed:
    """Change what a living key may do, and what it may spend in all; by the names of `get`. What is not named stays.

    What it was served at an upstream that is taken from it may be in no ledger yet, and is taken later.

    Raises:
        NotFound: there is none of this id.
        Conflict: it is revoked, or has expired; or what shall renew is no limit.
    """
    old = _living(connection, key_id)
    values = {name: _written(value) if isinstance(value, list) else value for name, value in changes.items()}
    values.pop("limit_renews", None)
    if "upstreams" in changes:
        values["served_upstreams"] = _written(_joined(old["served_upstreams"], changes["upstreams"]))
    if values:
        connection.execute(update(keys).where(keys.c.id == key_id).values(**values))
    holders: list[str] = []
    if (limit := changes.get("limit_nanodollars")) is not None:
        wallets.ensure(connection, wallet_name.of_key(key_id), account=old["account"], key_id=key_id)
        holders = wallets.limit(connection, key_id, limit)
    if {"limit_nanodollars", "limit_renews"} & changes.keys():
        _renew(connection, key_id, changes, old)
    return Changed(get(connection, key_id), holders)


def _renew(connection: Connection, key_id: str, changes: Mapping[str, Any], old: Mapping[str, Any]) -> None:
    """Let a limit renew as it is asked for; one that is taken away renews no more."""
    wallet, limit = wallet_name.of_key(key_id), changes.get("limit_nanodollars", old["limit_nanodollars"])
    period = changes.get("limit_renews", old["limit_renews"] if limit else None)
    if period is None:
        renewals.stop(connection, wallet)
    elif not limit:
        raise Conflict(_NOTHING_RENEWS)
    else:
        renewals.begin(connection, wallet, period, limit)


def _joined(some: Sequence[str] | None, others: Sequence[str] | None) -> list[str] | None:
    return None if some is None or others is None else sorted({*some, *others})


def _written(names: Sequence[str] | None) -> str | None:
    return None if names is None else json.dumps(list(names))


def _living(connection: Connection, key_id: str) -> dict[str, Any]:
    """A key that is neither revoked nor over, locked until the transaction ends; and its limit, if it has renewed."""
    connection.execute(select(keys.c.id).where(keys.c.id == key_id).with_for_update())
    renewals.catch_up(connection, wallet_name.of_key(key_id))
    found = get(connection, key_id)
    if found["revoked_at"] is not None:
        raise Conflict(f"{key_id} is revoked; add a key instead")
    if found["expires_at"] is not None and found["expires_at"] <= now():
        raise Conflict(f"{key_id} has expired ({found['expires_at']}); add a key instead")
    return found


def changed(connection: Connection) -> Snapshot:
    """Raise the version, for the set of live keys has changed; the set as it is now."""
    keep_or_insert(connection, counters, name=_VERSION, value=0)
    last = select(counters.c.value).where(counters.c.name == _VERSION).with_for_update()
    following = max(connection.execute(last).scalar_one() + 1, time.time_ns() // 1_000_000)
    connection.execute(update(counters).where(counters.c.name == _VERSION).values(value=following))
    return snapshot(connection)


def version(connection: Connection) -> int:
    """Of the set of live keys; 0: there never was a key."""
    return connection.execute(select(counters.c.value).where(counters.c.name == _VERSION)).scalar() or 0


def snapshot(connection: Connection) -> Snapshot:
    """The keys that are live: not revoked, not expired, of an account that is not disabled."""
    live = select(keys).join(account_table, account_table.c.name == keys.c.account).where(is_live()).order_by(keys.c.id)
    return Snapshot(version(connection), tuple(_entry(_read(found)) for found in connection.execute(live).mappings()))


def _with_renewals() -> Select[Any]:
    mine = renewal_table.c.wallet == literal(wallet_name.OF_KEY) + keys.c.id
    return select(keys, renewal_table.c.period.label("limit_renews")).outerjoin(renewal_table, mine)


def _read(found: Any) -> dict[str, Any]:
    record = dict(found)
    for name in ("upstreams", "served_upstreams", "models"):
        record[name] = None if record[name] is None else json.loads(record[name])
    return record


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    taken = ("id", "account", "sha256", "expires_at", "upstreams", "models", "requests_per_minute", "tokens_per_minute")
    return {name: record[name] for name in taken} | {"wallets_limit": record["limit_nanodollars"] is not None}
