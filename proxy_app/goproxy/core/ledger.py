"""A row of the ledger: what was held for one request, what it used, what it cost, and how that was settled.

A request that goes to the upstream is first a `Hold`, then for ever a `Row`. A row carries what its cost was computed
from (usage, prices, multiplier), so that anyone can compute it again. The rules of each `Settlement` are in
`docs/billing.md`; they decide from what was seen of the answer, and from nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any

from goproxy.core.meter import Reading
from goproxy.core.outcome import CLIENT_LEFT, UPSTREAM_FAILED, Outcome
from goproxy.core.pricing import Priced, PriceVersion, cost_as_written, price
from goproxy.core.terms import STANDARD, charged_terms
from goproxy.core.usage import Usage

ROWS_PER_POST = 500
"""So many a proxy posts at once, and the control plane takes at once: one transaction writes
them, and with SQLite whatever else would write waits for it."""

BYTES_PER_TOKEN = 4
"""What a token is taken for where the provider did not count: four bytes of text, the field's rule of thumb."""

FLAGS: Mapping[str, str] = {
    "above_hold": "It cost more than was held: the provider counted more than the body and the model's limits allow.",
    "capped_at_hold": "The estimate came to more than was held; what was held is charged.",
    "inference_geo_other": "Inference was bound to a region that has no price here; priced without it.",
    "input_estimated": "The prompt was not told, and is a quarter of what the body can come to.",
    "other_prices": "Its prices, or its multiplier, did not stand in the upstream's configuration when the row came.",
    "other_wallet": "Configuration or key say another wallet by now; the upstream's proxies were lent this one before.",
    "output_estimated": "The final output was not told, and is a quarter of the bytes that were seen.",
    "service_tier_batch": "Served at the batch tier, which has no price here; priced without it.",
    "service_tier_flex": "Served at the flex tier, which has no price here; priced without it.",
    "service_tier_other": "Served at another tier, which has no price here; priced without it.",
    "service_tier_priority": "Served at the priority tier, which has no price here; priced without it.",
    "speed_other": "Served at a speed that has no price here; priced without it.",
    "unknown_account": "The control plane did not know the account when the row came.",
    "unknown_key": "The control plane did not know the key when the row came.",
    "unknown_wallet": "The control plane did not know one of the wallets when the row came.",
    "unpriced": "The model had left the configuration before the request was settled; nothing is charged.",
    "web_search_estimated": "The searches were not told, and are those that were seen to begin.",
    "web_search_unpriced": "The provider searched the web, which has no price here; charged without it.",
}
"""What a row carries besides the flags of the meter, and what it means."""

_OF_TERMS = frozenset(flag for flag in FLAGS if flag.startswith(tuple(f"{name}_" for name in STANDARD)))


class Settlement(StrEnum):
    """How the cost of a request came to be known."""

    EXACT = "exact"
    """The provider's final word on the usage, passed on to the client."""
    DRAINED = "drained"
    """The same, but the client was gone before: the rest of the answer was read for the count alone."""
    ESTIMATED = "estimated"
    """The answer ended before the provider's final word; the flags say what is an estimate."""
    UPSTREAM_ERROR = "upstream_error"
    """The upstream failed: only what it had told before is charged."""
    INTERRUPTED = "interrupted"
    """The proxy stopped in the middle: what it had noted last is charged."""


class InvalidRow(ValueError):
    """A document is no hold or row; the text names the field."""


# Not frozen: that makes one of thirty fields twice as dear, for each request. Nor with slots: orjson writes what has
# a dictionary in half the time (and with slots in one of them, of another one's fields it would write none).
@dataclass(kw_only=True)
class _Request:
    """What is known of a request before it goes out."""

    id: str
    """Our own request id; it makes every later step idempotent."""
    opened_at: str
    """RFC 3339 in UTC with milliseconds, by the wall clock. Its day is the day of the prices."""
    account: str
    key_id: str
    wallets: tuple[str, ...]
    """The same amount counts in each of them."""
    upstream: str
    endpoint: str
    protocol: str
    model: str
    """The id of our catalogue, whatever alias was asked for."""
    stream: bool
    estimated_input_tokens: int
    """What the body can come to. Not fewer than the provider can count, unless it gets some of it from elsewhere."""
    terms: str = ""
    """See terms.py: what a hold was asked for, and a row was charged by. Rows of before have none."""

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        document = {name: getattr(self, name) for name in self.__dataclass_fields__}
        document["wallets"] = list(self.wallets)
        return document


@dataclass(kw_only=True)
class Hold(_Request):
    """The worst case of a request, set aside before the upstream is contacted."""

    amount: int
    """In nano-dollars."""

    @classmethod
    def from_json(cls, document: Any) -> Hold:
        """Read what `to_json` wrote; fields that are not known are left out.

        Raises:
            InvalidRow: a field is missing or has the wrong type.
        """
        return cls(**_read(cls, document))


@dataclass(kw_only=True)
class Row(_Request):
    """A request that reached the upstream, settled."""

    hold_nanodollars: int
    settled_at: str
    settlement: Settlement
    status: int
    """Of the upstream's answer; 0: there was none."""
    outcome: str
    usage: Usage
    """What is charged for."""
    raw_usage: Mapping[str, Any] | None
    """The provider's own words."""
    flags: tuple[str, ...]
    """Sorted; see `FLAGS` here, and of the meter."""
    price_version: str
    """The day from which these prices hold."""
    prices: Mapping[str, str]
    """List prices by kind, USD per million tokens; that of `web_search`, if it has one, per thousand."""
    tier_up_to: int | None
    multiplier: str
    cost_nanodollars: int
    received_bytes: int
    """Of the answer's body, by the client."""
    answered_bytes: int
    """Of the answer's body, from the upstream."""
    upstream_request_id: str | None
    upstream_model: str | None
    """The model that the answer names."""

    @classmethod
    def from_json(cls, document: Any) -> Row:
        """Read what `to_json` wrote; fields that are not known are left out.

        Raises:
            InvalidRow: a field is missing or has the wrong type.
        """
        return cls(**_read(cls, document))

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        document = _Request.to_json(self)
        document["usage"] = self.usage.to_json()
        document["flags"] = list(self.flags)
        document["prices"] = dict(self.prices)
        if self.raw_usage is not None:
            document["raw_usage"] = dict(self.raw_usage)
        return document


def settle(
    hold: Hold,
    *,
    reading: Reading,
    drained: bool,
    status: int,
    outcome: str,
    settled_at: str,
    received_bytes: int,
    answered_bytes: int,
    versions: Sequence[PriceVersion],
    multiplier: Decimal,
    upstream_request_id: str | None = None,
) -> Row:
    """The row of a request that is over, from what was seen of its answer.

    `status` is that of the upstream's answer, 0 where none came; `drained`: the rest of it was read after the client
    had left.
    """
    usage, settlement, flags = _charged(
        hold,
        reading,
        drained=drained,
        status=status,
        outcome=outcome,
        has_body=answered_bytes > 0 and not reading.is_blank,
    )
    return _row(
        hold,
        terms=charged_terms(hold.terms, reading.terms),
        usage=usage,
        settlement=settlement,
        flags={*flags, *reading.flags} if reading.flags else flags,
        raw_usage=reading.raw_usage,
        upstream_model=reading.model,
        status=status,
        outcome=outcome,
        settled_at=settled_at,
        received_bytes=received_bytes,
        answered_bytes=answered_bytes,
        versions=versions,
        multiplier=multiplier,
        upstream_request_id=upstream_request_id,
    )


def interrupted(
    hold: Hold,
    *,
    progress: Usage | None,
    settled_at: str,
    versions: Sequence[PriceVersion],
    multiplier: Decimal,
) -> Row:
    """The row of a request in whose middle the proxy stopped: charged is the usage that was noted last, if any was."""
    return _row(
        hold,
        terms=hold.terms,
        usage=progress or Usage(),
        settlement=Settlement.INTERRUPTED,
        flags=_NONE,
        versions=versions,
        multiplier=multiplier,
        settled_at=settled_at,
        outcome=Outcome.INTERRUPTED,
    )


def rerate(row: Row, versions: Sequence[PriceVersion], multiplier: Decimal | None = None) -> Row:
    """The row as it would be with other prices, or with another multiplier too. What was used stays as it is."""
    multiplier = Decimal(row.multiplier) if multiplier is None else multiplier
    priced = price(row.usage, versions, multiplier, day_of(row.opened_at), row.terms)
    cost, flag = _bounded(priced.cost, row.settlement, row.hold_nanodollars)
    return dataclasses.replace(
        row,
        price_version=priced.price_version,
        prices=priced.prices,
        tier_up_to=priced.tier_up_to,
        multiplier=priced.multiplier,
        cost_nanodollars=cost,
        flags=tuple(sorted({*row.flags} - _told_anew(row) | flag | _unpriced(priced, row.usage))),
    )


def cost_of(row: Row) -> int:
    """What a row must cost by what it says itself: usage, prices, multiplier, and the hold that bounds an estimate.

    Raises:
        ValueError: its prices or its multiplier are none.
    """
    priced = cost_as_written(row.usage, row.prices, row.multiplier)
    return _bounded(priced, row.settlement, row.hold_nanodollars)[0]


def _charged(
    hold: Hold, reading: Reading, *, drained: bool, status: int, outcome: str, has_body: bool
) -> tuple[Usage, Settlement, Set[str]]:
    """What of the usage is charged, by which rule, and what of it is an estimate."""
    refused = not 200 <= status < 300 if status else outcome in UPSTREAM_FAILED
    if refused:
        return Usage(), Settlement.UPSTREAM_ERROR, _NONE
    if reading.exact and reading.usage is not None:
        return reading.usage, Settlement.DRAINED if drained else Settlement.EXACT, _NONE
    seen = reading.usage or Usage()
    if reading.error is not None:
        return seen, Settlement.UPSTREAM_ERROR, _NONE
    flags = set()
    # No prompt is empty, whatever can be read of an answer.
    if not seen.prompt and (has_body or outcome in CLIENT_LEFT):
        seen = dataclasses.replace(seen, input=_tokens(hold.estimated_input_tokens))
        flags.add("input_estimated")
    generated = _tokens(reading.generated_bytes)
    if generated > seen.output:
        seen = dataclasses.replace(seen, output=generated)
        flags.add("output_estimated")
    if reading.searches > seen.web_search:
        seen = dataclasses.replace(seen, web_search=reading.searches)
        flags.add("web_search_estimated")
    return seen, Settlement.ESTIMATED, flags


def _tokens(length: int) -> int:
    return -(-length // BYTES_PER_TOKEN)


def _row(
    hold: Hold,
    *,
    terms: str,
    usage: Usage,
    settlement: Settlement,
    flags: Set[str],
    versions: Sequence[PriceVersion],
    multiplier: Decimal,
    settled_at: str,
    raw_usage: Mapping[str, Any] | None = None,
    upstream_model: str | None = None,
    status: int = 0,
    outcome: str,
    received_bytes: int = 0,
    answered_bytes: int = 0,
    upstream_request_id: str | None = None,
) -> Row:
    priced = price(usage, versions, multiplier, day_of(hold.opened_at), terms)
    cost, flag = _bounded(priced.cost, settlement, hold.amount)
    unpriced = _unpriced(priced, usage)
    if _SPLIT in flags and priced.prices["cache_write_5m"] == priced.prices["cache_write_1h"]:
        flags = flags - {_SPLIT}  # it makes no difference
    # What `Row(...)` makes of thirty names, in half the time; and orjson writes it sooner, too.
    fields = {
        **hold.__dict__,
        "terms": terms,
        "hold_nanodollars": hold.amount,
        "settled_at": settled_at,
        "settlement": settlement,
        "status": status,
        "outcome": outcome,
        "usage": usage,
        "raw_usage": raw_usage,
        "flags": tuple(sorted({*flags, *flag, *unpriced})) if flags or flag or unpriced else (),
        "price_version": priced.price_version,
        "prices": priced.prices,
        "tier_up_to": priced.tier_up_to,
        "multiplier": priced.multiplier,
        "cost_nanodollars": cost,
        "received_bytes": received_bytes,
        "answered_bytes": answered_bytes,
        "upstream_request_id": upstream_request_id,
        "upstream_model": upstream_model,
    }
    del fields["amount"]
    row = Row.__new__(Row)
    row.__dict__ = fields
    return row


def _unpriced(priced: Priced, usage: Usage) -> Set[str]:
    """The flags of terms and searches that have no price."""
    flags = _NO_SEARCHES if usage.web_search and "web_search" not in priced.prices else _NONE
    if priced.unpriced:
        named = {part: part.replace("=", "_") for part in priced.unpriced}
        flags |= {flag if flag in FLAGS else f"{part.partition('=')[0]}_other" for part, flag in named.items()}
    return flags


def _told_anew(row: Row) -> set[str]:
    """The flags that another price may change."""
    return {"capped_at_hold", "above_hold", _SEARCHES} | (_OF_TERMS if row.terms else set())


_SPLIT = "cache_write_split_assumed"
_SEARCHES = "web_search_unpriced"
_NO_SEARCHES = frozenset({_SEARCHES})
_NONE: frozenset[str] = frozenset()
"""Nearly every row has no flags: it costs no set of its own."""


def _bounded(cost: int, settlement: Settlement, hold: int) -> tuple[int, Set[str]]:
    """No estimate costs more than was held. What the provider counted does, should it come to that."""
    if cost <= hold:
        return cost, _NONE
    if settlement in (Settlement.ESTIMATED, Settlement.INTERRUPTED):
        return hold, {"capped_at_hold"}
    return cost, {"above_hold"}


@lru_cache(maxsize=16)
def _read_day(day: str) -> date:
    return date.fromisoformat(day)


def day_of(timestamp: str) -> date:
    """The day of a timestamp as the ledger writes it."""
    return _read_day(timestamp[:10])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


_READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "str": (_text, "text"),
    "str | None": (_or_none(_text), "text or null"),
    "int": (_count, "a whole number of 0 or more"),
    "int | None": (_or_none(_count), "a whole number of 0 or more, or null"),
    "bool": (_truth, "true or false"),
    "tuple[str, ...]": (_texts, "a list of texts"),
    "Mapping[str, str]": (
        lambda value: {kind: _text(price) for kind, price in _object(value).items()},
        "an object of texts",
    ),
    "Mapping[str, Any] | None": (_or_none(_object), "an object or null"),
    "Usage": (lambda value: Usage.from_json(_object(value)), "an object of whole numbers of 0 or more"),
    "Settlement": (Settlement, f"one of {', '.join(Settlement)}"),
}
"""By the annotation of a field; and what is said of it to who gave something else."""


def _shown(value: Any) -> str:
    """A value of a document, cut short; of what may be nested deeply, the kind."""
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return json.dumps(value[:_SHOWN])
    return json.dumps(value)[:_SHOWN]


_SHOWN = 100
"""Characters of a value in a message."""


def _read(cls: type[Hold | Row], document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InvalidRow(f"it is {_shown(document)}; expected an object")
    values = {}
    for field in dataclasses.fields(cls):
        if field.name not in document:
            if field.default is not dataclasses.MISSING:
                continue  # a field of today, and a document of before
            raise InvalidRow(f"{field.name} is missing")
        value = document[field.name]
        read, expected = _READERS[str(field.type)]
        try:
            values[field.name] = read(value)
            if field.name == "opened_at":
                expected = "a time of RFC 3339"
                date.fromisoformat(values[field.name][:10])
        except (TypeError, ValueError):
            raise InvalidRow(f"{field.name} is {_shown(value)}; expected {expected}") from None
    return values
