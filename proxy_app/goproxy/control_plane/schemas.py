"""What the admin API takes and gives. The OpenAPI description is generated from these classes.

Amounts are whole nano-dollars (10⁻⁹ USD), times RFC 3339 in UTC.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticKnownError

from goproxy.control_plane.store import rows
from goproxy.core import wallet_name
from goproxy.core.ledger import Settlement
from goproxy.core.pricing import MOST_AT_ONCE, MULTIPLIER
from goproxy.core.renewal import Period
from goproxy.timestamps import text_of

ACCOUNT = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
KEY_ID = r"^key_[0-9a-f]{16}$"
INSTANCE = r"^[A-Za-z0-9_-]{1,64}$"
_UPSTREAM = r"^[a-z0-9][a-z0-9-]{0,40}$"
_MODEL = r"^[!-~]{1,200}$"
_ENTRY_ID = r"^[A-Za-z0-9._:-]{1,100}$"
_DAY = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
_CURSOR = r"^[0-9TZ:.-]{24}~[!-~]{1,200}$"
_MULTIPLIER = f"^(as_billed|current|{MULTIPLIER})$"
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
_LINE = r"^[^\u0000-\u001f\u007f-\u009f]*$"

MEANINGS = {
    ACCOUNT: "an account's name: up to 64 letters, digits, '.', '_', '@' and '-', the first one a letter or a digit",
    KEY_ID: "a key's id, such as key_0123456789abcdef; the list of keys has it",
    INSTANCE: "an instance's id; the list of leases has it",
    _UPSTREAM: "an upstream's name, such as openhands",
    _MODEL: "a model's id: up to 200 characters of ASCII without spaces",
    wallet_name.PATTERN: "a wallet: an account, <account>/<wallet>, or key:<key id>",
    _ENTRY_ID: "an id: up to 100 letters, digits, '.', '_', ':' and '-'",
    _DAY: "a day, such as 2026-11-23",
    _CURSOR: "`next` of the page before",
    _MULTIPLIER: "`as_billed`, `current`, or a decimal number such as 1.08",
    _MOMENT: "a time of RFC 3339 that can be, such as 2027-01-31T00:00:00Z",
    _LINE: "one line without control characters",
}
"""What those who did not write it are told of a pattern."""

LINES = 10_000
"""Of one answer about usage."""


def _moment(value: Any) -> datetime:
    """A time of RFC 3339 alone: pydantic would take digits, too, as seconds or milliseconds since 1970."""
    with suppress(ValueError, OverflowError):
        if isinstance(value, str) and re.fullmatch(_MOMENT, value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    raise PydanticKnownError("string_pattern_mismatch", {"pattern": _MOMENT})


def _in_the_calendar(day: str) -> str:
    try:
        date.fromisoformat(day)
    except ValueError:
        raise ValueError(f"{day!r} is not {MEANINGS[_DAY]}: that month is shorter") from None
    return day


AccountName = Annotated[str, StringConstraints(pattern=ACCOUNT)]
KeyId = Annotated[str, StringConstraints(pattern=KEY_ID)]
Instance = Annotated[str, StringConstraints(pattern=INSTANCE)]
WalletId = Annotated[str, StringConstraints(pattern=wallet_name.PATTERN)]
Upstream = Annotated[str, StringConstraints(pattern=_UPSTREAM)]
ModelId = Annotated[str, StringConstraints(pattern=_MODEL)]
Line = Annotated[str, StringConstraints(pattern=_LINE, max_length=200)]
Day = Annotated[str, StringConstraints(pattern=_DAY), AfterValidator(_in_the_calendar)]
Moment = Annotated[datetime, PlainValidator(_moment, json_schema_input_type=AwareDatetime)]
Nanodollars = Annotated[int, Field(ge=1, le=MOST_AT_ONCE)]
PerMinute = Annotated[int, Field(ge=1, le=10**12)]
Kind = Literal["request", "grant", "withdrawal", "opening", "limit", "renewal", "rerate"]
Axis = Literal["account", "key", "upstream", "model", "day"]


class Taken(BaseModel):
    """What comes in: nothing in it may be unknown."""

    model_config = ConfigDict(extra="forbid")


class Given(BaseModel):
    """What goes out."""


class NewAccount(Taken):
    name: AccountName
    note: Line = ""


class Account(Given):
    name: str
    note: str
    origin: Literal["declared", "operator"]
    """Declared: it stands in the inventory, and is disabled when it leaves it."""
    created_at: str
    disabled_at: str | None
    disabled_by: str | None


class Accounts(Given):
    accounts: list[Account]


class KeyLimits(Taken):
    """What a key may do; null: as much as its account."""

    expires_at: Moment | None = None
    upstreams: Annotated[list[Upstream], Field(min_length=1, max_length=100)] | None = None
    models: Annotated[list[ModelId], Field(min_length=1, max_length=100)] | None = None
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    limit_nanodollars: Nanodollars | None = None
    """What it may spend in all."""
    limit_renews: Period | None = None
    """When it may spend that again: with each day, week or month, in UTC. Null: never."""


class NewKey(KeyLimits):
    """A key and what it may do; null: as much as its account."""

    name: Line = ""


class KeyChanges(KeyLimits):
    """What a key may do from now on. What is left out stays; null: as much as its account.

    A new spending limit counts what the key has spent already and includes what its wallet was granted; for a limit
    that renews, only since the last renewal. A limit that begins to renew is filled up at once.
    """

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    @model_validator(mode="after")
    def _not_nothing(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"nothing would change: expected one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def changes(self) -> dict[str, Any]:
        """As they are stored, by name."""
        named = {name: getattr(self, name) for name in self.model_fields_set}
        return named | ({"expires_at": stored(self.expires_at)} if "expires_at" in named else {})


class Key(Given):
    id: str
    account: str
    name: str
    prefix: str
    """Its first characters, by which people tell keys apart."""
    origin: Literal["declared", "operator"]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    revoked_by: str | None
    rotated_from: str | None
    upstreams: list[str] | None
    models: list[str] | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    limit_nanodollars: int | None
    limit_renews: Period | None


class KeyShownOnce(Key):
    key: str
    """The key itself. Only its digest is stored: it is never shown again."""


class Keys(Given):
    keys: list[Key]


class Rotation(Taken):
    old_expires_at: Moment | None = None
    """When the first key ends, unless it ends before; null: when it would have ended anyway, or is revoked."""


class OfAccount(Taken):
    account: AccountName | None = None


class Wallet(Given):
    """Where the credits of a wallet are: credits = balance + held + spent."""

    id: str
    account: str
    key_id: str | None
    credits_nanodollars: int
    balance_nanodollars: int
    """What can be lent to a proxy. Below 0 where requests cost more than was held for them."""
    held_nanodollars: int
    """With the proxies, and not reported as spent."""
    spent_nanodollars: int
    renews: Period | None
    renews_to_nanodollars: int | None
    """Up to what it is filled then."""
    renews_at: str | None


class Wallets(Given):
    wallets: list[Wallet]


class NewCredit(Taken):
    id: Annotated[str, StringConstraints(pattern=_ENTRY_ID)]
    """Chosen by the caller: the same credit sent twice is one credit."""
    wallet: WalletId
    """`alice`, or `alice/team` for a wallet that upstreams name, or `key:<key id>` for a key's spending limit."""
    kind: Literal["grant", "withdrawal"]
    amount_nanodollars: Nanodollars
    note: Line = ""
    force: bool = False
    """Although no upstream pays from a wallet of this name: one may be about to."""


class Renewal(Taken):
    """When a wallet is filled up to an amount: at the beginning of each day, week or month, in UTC."""

    wallet: WalletId
    period: Period | None
    """Null: it renews no more."""
    amount_nanodollars: Nanodollars | None = None
    force: bool = False
    """Although no upstream pays from a wallet of this name: one may be about to."""


class Credit(Given):
    kind: Literal["grant", "withdrawal", "opening", "limit", "renewal", "rerate"]
    id: str
    wallet: str
    account: str
    amount_nanodollars: int
    """Below 0: taken."""
    note: str
    row_id: str | None
    """The request whose price was corrected."""
    received_at: str


class Days(Taken):
    """The first and the last day, in UTC."""

    since: Day | None = None
    until: Day | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError(f"since {self.since} is after until {self.until}")
        return self


class Chosen(Days):
    """Which rows."""

    account: AccountName | None = None
    key: KeyId | None = None
    upstream: Upstream | None = None
    model: ModelId | None = None
    """By its id, or by an alias that it has now; rows have the id."""
    settlement: Settlement | None = None

    @property
    def chosen(self) -> rows.Chosen:
        """As the store is asked."""
        return rows.Chosen(
            account=self.account,
            key=self.key,
            upstream=self.upstream,
            model=self.model,
            settlement=self.settlement,
            since=self.since,
            until=self.until,
        )


class RowsAsked(Chosen):
    id: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")] | None = None
    """Of a request, as its client got it in X-Request-Id; or of a credit."""
    upstream_request_id: Line | None = None
    """The provider's. It is looked for in the whole ledger."""
    kind: Kind | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    before: Annotated[str, StringConstraints(pattern=_CURSOR)] | None = None
    """`next` of the page before."""

    @property
    def chosen(self) -> rows.Chosen:
        """As the store is asked."""
        return replace(super().chosen, id=self.id, upstream_request_id=self.upstream_request_id)


class Usage(Given):
    input: int
    cache_write_5m: int
    cache_write_1h: int
    cache_read: int
    output: int
    reasoning: int
    web_search: int
    """Searches of the web, no tokens."""


class Row(Given):
    """One request that reached an upstream."""

    kind: Literal["request"]
    id: str
    opened_at: str
    account: str
    key_id: str
    wallets: list[str]
    upstream: str
    endpoint: str
    protocol: str
    model: str
    stream: bool
    estimated_input_tokens: int
    terms: str
    """What the provider served it on, such as `service_tier=priority`; empty: the standard."""
    hold_nanodollars: int
    settled_at: str
    settlement: Settlement
    status: int
    outcome: str
    usage: Usage
    raw_usage: dict[str, Any] | None
    flags: list[str]
    price_version: str
    prices: dict[str, str]
    tier_up_to: int | None
    multiplier: str
    cost_nanodollars: int
    """As it was settled."""
    received_bytes: int
    answered_bytes: int
    upstream_request_id: str | None
    upstream_model: str | None
    adjustment_nanodollars: int
    """By rerating: what the request costs is the sum of both."""
    adjusted_multiplier: str | None
    """Of the last rerating that corrected it; null: none has."""
    instance: str
    received_at: str


class Rows(Given):
    rows: list[Annotated[Row | Credit, Field(discriminator="kind")]]
    """The newest first."""
    next: str | None
    """What to ask for with `before`; null: there are no more."""


class UsageAsked(Chosen):
    by: Annotated[list[Axis], Field(max_length=5)] = []


class UsageLine(Usage):
    account: str | None = None
    key: str | None = None
    upstream: str | None = None
    model: str | None = None
    day: str | None = None
    requests: int
    cost_nanodollars: int


class UsageTable(Given):
    usage: list[UsageLine]
    complete: bool
    """Whether these are all lines; if not, choose fewer days."""


class Lease(Given):
    wallet: str
    instance: str
    upstream: str
    granted_total_nanodollars: int
    spent_total_nanodollars: int
    held_nanodollars: int
    last_seen: str
    retired_at: str | None


class Leases(Given):
    leases: list[Lease]


class Returned(Given):
    wallet: str
    amount_nanodollars: int


class RetireAsked(Taken):
    force: bool = False
    """Although it may live. If it does, what it holds is lent a second time, and its wallets may fall below 0."""


class Retired(Given):
    instance: str
    returned: list[Returned]


class RerateAsked(Chosen):
    """Rows to be priced again, by the price book as it stands now and the price version of the row's own day."""

    multiplier: Annotated[str, StringConstraints(pattern=_MULTIPLIER)] = "as_billed"
    apply: bool = False
    """Write the differences down, and settle them with the wallets; else only tell them."""


class RowRerated(Given):
    id: str
    account: str
    before_nanodollars: int
    after_nanodollars: int


class Rerated(Given):
    rows: int
    differing: int
    unpriced: int
    """Rows whose upstream or model the configurations do not have."""
    difference_nanodollars: int
    """What all of them cost more; below 0: less."""
    applied: bool
    differences: list[RowRerated]
    """The first hundred."""


class ReconcileAsked(Days):
    upstream: Upstream


class RowDifference(Given):
    request_id: str
    row_ids: list[str]
    ledger: dict[str, int]
    export: dict[str, int]


class LeftOut(Given):
    differing: int
    missing: int
    extra: int
    unnamed: int


class Reconciled(Given):
    """How ledger and export agree: of each list the first thousand."""

    matched: int
    differing: list[RowDifference]
    missing: list[str]
    """In the export, not in the ledger."""
    extra: list[str]
    """In the ledger, not in the export."""
    unnamed: list[str]
    """Our ids of rows that carry no request id of the provider."""
    left_out: LeftOut
    """How many more there are of each list; to see them, choose fewer days."""
    ledger_tokens: dict[str, int]
    export_tokens: dict[str, int]


class RestoreAsked(Taken):
    replace: bool = False
    """Take the place of what is stored."""


class Restored(Given):
    records: dict[str, int]


class ErrorText(Given):
    type: str
    message: str


class Error(Given):
    error: ErrorText


def stored(moment: datetime | None) -> str | None:
    """A moment as it is stored."""
    return None if moment is None else text_of(moment)
