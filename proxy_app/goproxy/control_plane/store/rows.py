"""The ledger of requests: rows as the proxies post them, kept once each, and never changed but for their correction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Subquery,
    Table,
    and_,
    bindparam,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from goproxy.control_plane.store import leases, walk, wallets
from goproxy.control_plane.store.schema import accounts, credit_entries, rows
from goproxy.control_plane.store.walk import Position
from goproxy.core import wallet_name
from goproxy.core.lease import spent_by_wallet
from goproxy.core.ledger import Row, cost_of
from goproxy.core.pricing import MOST_AT_ONCE
from goproxy.core.raw_usage import is_shallow
from goproxy.core.terms import TERMS
from goproxy.core.usage import KINDS
from goproxy.timestamps import now

REQUEST = "request"
"""The kind of a row that is a request; the others are credits and have kinds of their own."""

_LONGEST_TEXT = 1000
"""Characters. A model's id has 200 at most, a price 161; what the upstream calls things is cut instead."""

_OUR_TEXTS = (
    "opened_at",
    "account",
    "key_id",
    "endpoint",
    "protocol",
    "model",
    "settled_at",
    "outcome",
    "price_version",
)
"""Columns of text of which the length is looked at here; nothing else bounds it."""

_NUMBERS = (
    "hold_nanodollars",
    "estimated_input_tokens",
    "cost_nanodollars",
    "received_bytes",
    "answered_bytes",
    "tier_up_to",
)
_HIGHEST_STATUS = 999

_SHOWN = 100
"""Characters of a value in a message."""

_LONGEST_LIST = 10_000
"""Characters that all flags, or all prices, of a row may have: there are some forty flags and seven prices."""

_RAW_USAGE = 256 * 1024
"""Characters of JSON: four times what a proxy keeps of it (core/raw_usage.py)."""

_RAW_DEPTH = 32
"""Objects and lists within one another, four times as many as there; far below what can be written out again."""

_MOST_TOKENS = 10**12
"""Of one kind. A provider is believed up to 20 million; but a client that names a great many images in a body of a
gigabyte, and leaves, can come to an estimate of some 10**11."""

_WITHOUT_RAW = [column for column in rows.c if column.name != "raw_usage"]
"""For those that read many: two thousand raw usages at the bound are half a gigabyte."""

_BY_DAY = (rows.c.day, rows.c.id)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which rows; None: whichever. Days are the first and the last one, such as 2026-11-23, in UTC."""

    account: str | None = None
    key: str | None = None
    upstream: str | None = None
    model: str | None = None
    aliased: tuple[tuple[str, str], ...] = ()
    """Where `model` is no id but an alias: upstreams, and the ids that it stands for there. Rows have those."""
    settlement: str | None = None
    id: str | None = None
    upstream_request_id: str | None = None
    since: str | None = None
    until: str | None = None

    def step(
        self, connection: Connection, after: Position | None
    ) -> tuple[Subquery, list[ColumnElement[bool]], Position | None]:
        """The requests of the next step of a walk, the conditions on those of them that are chosen, and its end."""
        begin: list[ColumnElement[bool]] = []
        if self.account is not None:
            begin.append(rows.c.account == self.account)
        elif self.upstream is not None:
            begin.append(rows.c.upstream == self.upstream)
        if after is not None:
            begin.append(walk.beyond(_BY_DAY, after))
        elif self.since is not None:
            begin.append(rows.c.day >= self.since)
        if self.until is not None:
            begin.append(rows.c.day <= self.until)
        looked_at, end = walk.step(connection, rows, _BY_DAY, begin)
        return looked_at, self._conditions(looked_at.c.__getitem__), end

    def in_order_of_arrival(self) -> list[ColumnElement[bool]]:
        """As conditions on the requests, of which those that arrived at some time are chosen by their own index."""
        conditions = self._conditions(lambda name: walk.aside(rows.c[name]))
        conditions += [] if self.since is None else [walk.aside(rows.c.day) >= self.since]
        conditions += [] if self.until is None else [walk.aside(rows.c.day) <= self.until]
        return conditions

    def of_credits(self) -> list[ColumnElement[bool]] | None:
        """As conditions on the credits; None: they have nothing that could be chosen like this."""
        if self.key or self.upstream or self.model or self.settlement or self.upstream_request_id:
            return None
        conditions: list[ColumnElement[bool]] = (
            [] if self.account is None else [credit_entries.c.account == self.account]
        )
        conditions += [] if self.since is None else [credit_entries.c.received_at >= self.since]
        conditions += [] if self.until is None else [credit_entries.c.received_at <= self.until + "T99"]
        return conditions

    def _conditions(self, column: Callable[[str], Any]) -> list[ColumnElement[bool]]:
        """What must stand in the columns of the requests."""
        named = (
            ("account", self.account),
            ("key_id", self.key),
            ("upstream", self.upstream),
            ("settlement", self.settlement),
            ("id", self.id),
            ("upstream_request_id", self.upstream_request_id),
        )
        conditions: list[ColumnElement[bool]] = [column(name) == value for name, value in named if value is not None]
        if self.model is not None:
            there = [and_(column("upstream") == upstream, column("model") == id_) for upstream, id_ in self.aliased]
            conditions.append(or_(column("model") == self.model, *there))
        return conditions


def problem_of(row: Row, upstream: str) -> str | None:
    """Why a row cannot be kept, if it cannot: no proxy of this upstream makes such a one, whatever it is configured to.

    What the store knows besides is in `authorization`.
    """
    if row.upstream != upstream:
        return f"upstream is {row.upstream[:100]!r}, but the proxy is one of {upstream}"
    if not _is_word(row.id) or not row.wallets or not all(map(_is_word, row.wallets)):
        return "id and wallets must be of 1 to 200 printable characters of ASCII without spaces"
    if len(set(row.wallets)) != len(row.wallets):
        return f"wallets are {', '.join(row.wallets)[:_SHOWN]}; expected each of them once"
    if problem := _too_great(row) or _too_large(row):
        return problem
    if not TERMS.fullmatch(row.terms):
        return f"terms is {row.terms[:_SHOWN]!r}; expected fields with values, such as service_tier=flex,speed=fast"
    if not _pays_for_itself(row):
        return "wallets are not those of its account and of its key"
    try:
        cost = cost_of(row)
    except ValueError as problem:
        return str(problem)
    if cost != row.cost_nanodollars:
        return (
            f"cost_nanodollars is {row.cost_nanodollars}, but by its own usage, prices and multiplier it costs {cost}"
        )
    return None


def ingest(connection: Connection, instance: str, upstream: str, posted: Sequence[Row]) -> list[Row]:
    """Keep the rows that are not known yet, and count their costs; those that were new.

    A row is known by its id: one that comes again, whatever it says, changes nothing. A row of an account or wallet
    that this store does not know is kept all the same, and flagged.

    Raises:
        Conflict: the instance is another upstream's.
    """
    leases.met(connection, instance, upstream)
    by_id = {row.id: row for row in reversed(posted)}
    known = set(connection.execute(select(rows.c.id).where(rows.c.id.in_(by_id))).scalars())
    new = [row for row in by_id.values() if row.id not in known]
    if not new:
        return []
    no_accounts, no_wallets = _unknown(connection, new)
    if no_accounts or no_wallets:
        new = [_flagged(row, no_accounts, no_wallets) for row in new]
    leases.spend(connection, instance, spent_by_wallet((row.wallets, row.cost_nanodollars) for row in new))
    received_at = now()
    connection.execute(insert(rows), [_values(row, instance, received_at) for row in new])
    return new


def page(
    connection: Connection, chosen: Chosen, *, kind: str | None, before: Position | None, limit: int
) -> tuple[list[RowMapping], Position | None]:
    """Records of requests and credits, the newest first: a step back in time, which may find less than there is.

    Args:
        kind: `request`, one of the credits' kinds, or None for all.
        before: those that came before this time of arrival and id.

    Returns:
        At most `limit` records, and where to go on; None: there are no more.
    """
    sources: list[tuple[Table, list[ColumnElement[bool]]]] = []
    if kind in (None, REQUEST):
        sources.append((rows, chosen.in_order_of_arrival()))
    conditions = chosen.of_credits()
    if kind != REQUEST and conditions is not None:
        sources.append((credit_entries, conditions + ([] if kind is None else [credit_entries.c.kind == kind])))
    if chosen.id is not None:  # found by its own index, and not on a walk
        by_id = [select(table).where(table.c.id == chosen.id, *conditions) for table, conditions in sources]
        return [record for query in by_id for record in connection.execute(query).mappings()][:limit], None
    ends = []
    for table, _ in sources:
        arrival = (table.c.received_at, table.c.id)
        begin = [] if before is None else [walk.beyond(arrival, before, backwards=True)]
        ends.append(walk.end_of_step(connection, arrival, begin, backwards=True))
    end = max((each for each in ends if each is not None), default=None)
    found: list[RowMapping] = []
    for table, conditions in sources:
        arrival = (table.c.received_at, table.c.id)
        within = [] if before is None else [walk.beyond(arrival, before, backwards=True)]
        within += [] if end is None else [tuple_(*arrival) >= end]
        query = select(table).where(*within, *conditions).order_by(*(column.desc() for column in arrival))
        found += connection.execute(query.limit(limit)).mappings().all()
    return sorted(found, key=lambda each: (each["received_at"], each["id"]), reverse=True)[:limit], end


def step(
    connection: Connection, chosen: Chosen, after: Position | None
) -> tuple[Sequence[RowMapping], Position | None]:
    """The records of the requests that a step of a walk comes by, without `raw_usage`, and where it ends."""
    looked_at, conditions, end = chosen.step(connection, after)
    columns = [looked_at.c[column.name] for column in _WITHOUT_RAW]
    return connection.execute(select(*columns).where(*conditions)).mappings().all(), end


def booked(
    connection: Connection, chosen: Chosen, after: Position | None
) -> tuple[Sequence[RowMapping], Position | None]:
    """The same, of what a provider's record can be held against alone."""
    looked_at, conditions, end = chosen.step(connection, after)
    columns = [looked_at.c[name] for name in ("id", "upstream_request_id", *KINDS)]
    return connection.execute(select(*columns).where(*conditions)).mappings().all(), end


@dataclass(frozen=True, slots=True)
class Correction:
    """A row that costs something else by other prices, or has another multiplier though it costs the same by it now."""

    row: Row
    """As it is by them."""
    before: int
    """What it cost until now."""
    adjustment: int
    """What it costs more than when it was settled."""

    @property
    def difference(self) -> int:
        """What it costs more; below 0: less."""
        return self.row.cost_nanodollars - self.before


Rate = Callable[[Row], Row | None]
"""A row by other prices; None: there are none for it."""


def corrections_of(records: Iterable[RowMapping], rated: Rate) -> tuple[list[Correction], int]:
    """Those of the rows that other prices or multipliers correct, and how many there are no prices for.

    One that would cost more than can be has none, too: the others must not wait for it.
    """
    corrections, unpriced = [], 0
    for record in records:
        standing = _as_it_stands(record)
        row = rated(standing)
        if row is None or row.cost_nanodollars > MOST_AT_ONCE:
            unpriced += 1
            continue
        before = record["cost_nanodollars"] + record["adjustment_nanodollars"]
        if (row.cost_nanodollars, row.multiplier) != (before, standing.multiplier):
            corrections.append(Correction(row, before, row.cost_nanodollars - record["cost_nanodollars"]))
    return corrections, unpriced


def correct(connection: Connection, ids: Iterable[str], rated: Rate) -> list[Correction]:
    """Price rows again as they are now, write the differences down, and settle them with the wallets."""
    query = select(*_WITHOUT_RAW).where(rows.c.id.in_(list(ids))).order_by(rows.c.id).with_for_update()
    corrections, _ = corrections_of(connection.execute(query).mappings().all(), rated)
    if corrections:
        _correct(connection, corrections)
    return corrections


def documents(records: Iterable[RowMapping]) -> list[dict[str, Any]]:
    """Records of requests and credits as the admin API shows them."""
    return [document(record) if "cost_nanodollars" in record else credit_document(record) for record in records]


def document(record: Any) -> dict[str, Any]:
    """A row as the admin API shows it: the proxy's words, and what this store has added."""
    return {
        "kind": REQUEST,
        **read(record).to_json(),
        "adjustment_nanodollars": record["adjustment_nanodollars"],
        "adjusted_multiplier": record["adjusted_multiplier"],
        "instance": record["instance"],
        "received_at": record["received_at"],
    }


def credit_document(record: Any) -> dict[str, Any]:
    """A credit as the admin API shows it."""
    taken = ("kind", "id", "wallet", "account", "note", "row_id", "received_at")
    return {name: record[name] for name in taken} | {"amount_nanodollars": record["amount"]}


def read(record: Any) -> Row:
    """A row as it was posted."""
    kept = dict(record)
    kept["usage"] = {kind: kept[kind] for kind in KINDS}
    for name in ("wallets", "flags", "prices", "raw_usage"):
        kept[name] = None if kept[name] is None else json.loads(kept[name])
    return Row.from_json(kept)


def _as_it_stands(record: Any) -> Row:
    """A row with the multiplier of its last correction: that is what it is billed at, whatever it was posted with.

    It comes without its raw usage, which bills nothing.
    """
    row, multiplier = read({**record, "raw_usage": None}), record["adjusted_multiplier"]
    if multiplier is None:
        return row
    return replace(row, multiplier=multiplier, flags=tuple(flag for flag in row.flags if flag != "unpriced"))


def _values(row: Row, instance: str, received_at: str) -> dict[str, Any]:
    posted = row.to_json()
    values = {name: _storable(value) for name, value in posted.items() if name in rows.c}
    for name in ("upstream_request_id", "upstream_model"):
        values[name] = None if values[name] is None else values[name][:_LONGEST_TEXT]
    for name in ("wallets", "flags", "prices", "raw_usage"):
        values[name] = None if posted[name] is None else _storable(_written(posted[name]))
    return values | {
        **row.usage.to_json(),
        "instance": instance,
        "received_at": received_at,
        "day": date.fromisoformat(row.opened_at[:10]).isoformat(),
        "settlement": row.settlement.value,
        "adjustment_nanodollars": 0,
    }


def _written(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _storable(value: Any) -> Any:
    """What the upstream or a client called something, without what PostgreSQL cannot keep: U+0000, lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return value


def _too_great(row: Row) -> str | None:
    """Which number of a row no proxy could come to."""
    for name in _NUMBERS:
        if (number := getattr(row, name) or 0) > MOST_AT_ONCE:
            return f"{name} is {str(number)[:_SHOWN]}; expected {MOST_AT_ONCE} or less"
    if row.status > _HIGHEST_STATUS:
        return f"status is {str(row.status)[:_SHOWN]}; expected {_HIGHEST_STATUS} or less"
    for kind, count in row.usage.to_json().items():
        if count > _MOST_TOKENS:
            return f"usage.{kind} is {str(count)[:_SHOWN]}; expected {_MOST_TOKENS} or less"
    return None


def _too_large(row: Row) -> str | None:
    """What of a row is larger than any proxy makes it. One such row would be in the way of all that look at others."""
    for name in _OUR_TEXTS:
        if (length := len(getattr(row, name))) > _LONGEST_TEXT:
            return f"{name} has {length} characters, more than {_LONGEST_TEXT}"
    for name, texts in (("flags", row.flags), ("prices", (*row.prices, *row.prices.values()))):
        if (length := sum(map(len, texts)) + len(texts)) > _LONGEST_LIST:
            return f"{name} have {length} characters, more than {_LONGEST_LIST}"
    if not is_shallow(row.raw_usage, _RAW_DEPTH):
        return f"raw_usage has more than {_RAW_DEPTH} objects and lists within one another"
    if (length := len(_written(row.raw_usage))) > _RAW_USAGE:
        return f"raw_usage has {length} characters of JSON, more than {_RAW_USAGE}"
    return None


def _is_word(text: str) -> bool:
    return 0 < len(text) <= 200 and text.isascii() and text.isprintable() and " " not in text


def _pays_for_itself(row: Row) -> bool:
    """Whether its wallets are one of its account and, if there is a second one, that of its key."""
    account, paying = row.account, row.wallets
    if paying[0] != account and not (account and paying[0].startswith(wallet_name.of_account(account, ""))):
        return False
    of_account = wallet_name.key_of(paying[0]) is None
    return of_account and (len(paying) == 1 or paying[1:] == (wallet_name.of_key(row.key_id),))


def _unknown(connection: Connection, posted: Sequence[Row]) -> tuple[set[str], set[str]]:
    """The accounts and the wallets of these rows that are not known."""
    named = {_storable(row.account) for row in posted}
    paying = {wallet for row in posted for wallet in row.wallets}
    known = set(connection.execute(select(accounts.c.name).where(accounts.c.name.in_(named))).scalars())
    return named - known, paying - wallets.existing(connection, paying)


def _flagged(row: Row, no_accounts: set[str], no_wallets: set[str]) -> Row:
    flags = {*row.flags}
    flags |= {"unknown_account"} if _storable(row.account) in no_accounts else set()
    flags |= {"unknown_wallet"} if no_wallets.intersection(row.wallets) else set()
    return replace(row, flags=tuple(sorted(flags)))


def _correct(connection: Connection, corrections: Sequence[Correction]) -> None:
    """Write corrections down, and settle them with the wallets."""
    adjust = (
        update(rows)
        .where(rows.c.id == bindparam("row_id"))
        .values(adjustment_nanodollars=bindparam("adjustment"), adjusted_multiplier=bindparam("multiplied"))
    )
    connection.execute(
        adjust,
        [
            {"row_id": each.row.id, "adjustment": each.adjustment, "multiplied": each.row.multiplier}
            for each in corrections
        ],
    )
    by_wallet: dict[str, list[wallets.Adjustment]] = {}
    for each in corrections:
        if not each.difference:
            continue
        row = each.row
        note = f"{row.model} by the prices of {row.price_version}, multiplier {row.multiplier}"
        for wallet in row.wallets:
            by_wallet.setdefault(wallet, []).append(wallets.Adjustment(row.id, -each.difference, note))
    for wallet, adjustments in sorted(by_wallet.items()):
        wallets.adjust(connection, wallet, adjustments)
