"""From what was seen of an answer to the row that is billed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core.ledger import Hold, InvalidRow, Row, Settlement, cost_of, interrupted, rerate, settle
from goproxy.core.meter import Reading
from goproxy.core.pricing import PriceVersion, Tier
from goproxy.core.usage import Usage
from tests.bookkeeping import NOTHING

VERSIONS = (
    PriceVersion(
        date(2025, 11, 24),
        (Tier(None, {"input": Decimal(5), "output": Decimal(25), "cache_read": Decimal("0.5")}),),
    ),
    PriceVersion(date(2026, 1, 1), (Tier(None, {"input": Decimal(4), "output": Decimal(20)}),)),
)
MULTIPLIER = Decimal("1.08")
PRIORITY = (Tier(None, {"input": Decimal(10), "output": Decimal(50)}),)

HOLD = Hold(
    id="req_0123456789",
    opened_at="2025-12-31T23:59:59.999Z",
    account="alice",
    key_id="key_1",
    wallets=("alice", "key:key_1"),
    upstream="openhands",
    endpoint="openhands-anthropic",
    protocol="anthropic",
    model="claude-opus-4-5-20251101",
    stream=True,
    estimated_input_tokens=1001,
    amount=100_000_000,
)
WHOLE = replace(
    NOTHING,
    usage=Usage(input=100, cache_read=1000, output=50),
    raw_usage={"input_tokens": 100, "cache_read_input_tokens": 1000, "output_tokens": 50},
    exact=True,
    ended=True,
    flags=("invalid_usage",),
    model="claude-opus-4-5-20251101",
    generated_bytes=200,
)
PARTIAL = replace(WHOLE, usage=Usage(input=100, cache_read=1000, output=1), exact=False, ended=False)
COST_OF_WHOLE = 2_430_000  # (100 * 5 + 1000 * 0.5 + 50 * 25) * 1.08 * 1000
COST_OF_PARTIAL = 1_107_000  # one token of output


SEARCHED = {"web_search_estimated", "web_search_unpriced"}


def settled(reading: Reading, **more: Any) -> Row:
    seen: dict[str, Any] = {
        "drained": False,
        "status": 200,
        "outcome": "ok",
        "settled_at": "2026-01-01T00:00:05.000Z",
        "received_bytes": 4000,
        "answered_bytes": 4096,
        "versions": VERSIONS,
        "multiplier": MULTIPLIER,
        "upstream_request_id": "req_upstream",
    }
    return settle(more.pop("hold", HOLD), reading=reading, **seen | more)


def test_a_row_has_its_fields_and_nothing_of_its_hold_besides() -> None:
    assert list(vars(settled(WHOLE))) == list(Row.__dataclass_fields__)


def test_a_whole_answer_is_billed_by_the_providers_final_word() -> None:
    row = settled(WHOLE)
    assert row == Row(
        id="req_0123456789",
        opened_at="2025-12-31T23:59:59.999Z",
        account="alice",
        key_id="key_1",
        wallets=("alice", "key:key_1"),
        upstream="openhands",
        endpoint="openhands-anthropic",
        protocol="anthropic",
        model="claude-opus-4-5-20251101",
        stream=True,
        estimated_input_tokens=1001,
        hold_nanodollars=100_000_000,
        settled_at="2026-01-01T00:00:05.000Z",
        settlement=Settlement.EXACT,
        status=200,
        outcome="ok",
        usage=Usage(input=100, cache_read=1000, output=50),
        raw_usage={"input_tokens": 100, "cache_read_input_tokens": 1000, "output_tokens": 50},
        flags=("invalid_usage",),
        price_version="2025-11-24",  # of the day on which it was opened
        prices={
            "input": "5",
            "cache_write_5m": "5",
            "cache_write_1h": "5",
            "cache_read": "0.5",
            "output": "25",
            "reasoning": "25",
        },
        tier_up_to=None,
        multiplier="1.08",
        cost_nanodollars=COST_OF_WHOLE,
        received_bytes=4000,
        answered_bytes=4096,
        upstream_request_id="req_upstream",
        upstream_model="claude-opus-4-5-20251101",
    )


@pytest.mark.parametrize(("for_1h", "flags"), [("10", ("cache_write_split_assumed",)), ("6.25", ())])
def test_for_how_long_a_cache_was_written_matters_where_it_costs_something_else(
    for_1h: str, flags: tuple[str, ...]
) -> None:
    prices = {"input": Decimal(5), "output": Decimal(25), "cache_write_5m": Decimal("6.25")}
    versions = (PriceVersion(date(2025, 11, 24), (Tier(None, prices | {"cache_write_1h": Decimal(for_1h)}),)),)
    row = settled(replace(WHOLE, flags=("cache_write_split_assumed",)), versions=versions)
    assert row.flags == flags


ERROR = replace(NOTHING, error="overloaded_error")
GENERATED = replace(NOTHING, generated_bytes=41)
IN, OUT = 5_400, 27_000  # a token's price times 1.08, in nano-dollars


@pytest.mark.parametrize(
    ("reading", "seen", "settlement", "cost", "flags"),
    [
        # the provider's final word
        (WHOLE, {}, "exact", COST_OF_WHOLE, set()),
        (WHOLE, {"drained": True, "outcome": "client_gone"}, "drained", COST_OF_WHOLE, set()),
        (WHOLE, {"outcome": "client_gone"}, "exact", COST_OF_WHOLE, set()),
        (replace(WHOLE, error="api_error"), {}, "exact", COST_OF_WHOLE, set()),
        # an error answer costs nothing, whatever stands in it
        (WHOLE, {"status": 529, "outcome": "upstream_error"}, "upstream_error", 0, set()),
        (GENERATED, {"status": 400, "outcome": "upstream_error"}, "upstream_error", 0, set()),
        (NOTHING, {"status": 302, "outcome": "upstream_error"}, "upstream_error", 0, set()),
        # no answer
        (NOTHING, {"status": 0, "outcome": "upstream_unreachable"}, "upstream_error", 0, set()),
        (NOTHING, {"status": 0, "outcome": "upstream_timeout"}, "upstream_error", 0, set()),
        (NOTHING, {"status": 0, "outcome": "shutdown", "answered_bytes": 0}, "estimated", 0, set()),
        (NOTHING, {"status": 0, "outcome": "client_gone"}, "estimated", 251 * IN, {"input_estimated"}),
        # an error event
        (ERROR, {}, "upstream_error", 0, set()),
        (replace(GENERATED, error="server_error"), {}, "upstream_error", 0, set()),
        (replace(PARTIAL, error="overloaded_error"), {}, "upstream_error", COST_OF_PARTIAL, set()),
        # an answer without its end
        (PARTIAL, {"outcome": "upstream_truncated"}, "estimated", COST_OF_WHOLE, {"output_estimated"}),
        (PARTIAL, {"outcome": "client_gone", "drained": True}, "estimated", COST_OF_WHOLE, {"output_estimated"}),
        (replace(PARTIAL, generated_bytes=4), {}, "estimated", COST_OF_PARTIAL, set()),
        (replace(WHOLE, exact=False, generated_bytes=4), {}, "estimated", COST_OF_WHOLE, set()),
        (replace(PARTIAL, generated_bytes=5), {}, "estimated", COST_OF_PARTIAL + OUT, {"output_estimated"}),
        (GENERATED, {}, "estimated", 251 * IN + 11 * OUT, {"input_estimated", "output_estimated"}),
        (NOTHING, {"outcome": "upstream_truncated", "answered_bytes": 0}, "estimated", 0, set()),
        (NOTHING, {"outcome": "upstream_truncated"}, "estimated", 251 * IN, {"input_estimated"}),
        (NOTHING, {}, "estimated", 251 * IN, {"input_estimated"}),  # a body that says nothing
        (replace(NOTHING, is_blank=True), {}, "estimated", 0, set()),  # one of comments
        (replace(NOTHING, is_blank=True), {"outcome": "client_gone"}, "estimated", 251 * IN, {"input_estimated"}),
        (NOTHING, {"outcome": "client_gone"}, "estimated", 251 * IN, {"input_estimated"}),
        (NOTHING, {"outcome": "client_stalled"}, "estimated", 251 * IN, {"input_estimated"}),
        (replace(NOTHING, exact=True), {"answered_bytes": 0}, "estimated", 0, set()),  # exact about nothing
        (replace(WHOLE, exact=False, searches=2), {}, "estimated", COST_OF_WHOLE, SEARCHED),
        (replace(WHOLE, searches=2), {}, "exact", COST_OF_WHOLE, set()),  # the provider told of none
        # usage that tells of no prompt
        (replace(NOTHING, usage=Usage(output=7)), {}, "estimated", 251 * IN + 7 * OUT, {"input_estimated"}),
        (
            replace(NOTHING, usage=Usage(cache_read=10, output=7)),
            {},
            "estimated",
            5 * 1080 + 7 * OUT,
            set(),
        ),
    ],
)
def test_what_was_seen_decides_how_it_is_settled(
    reading: Reading, seen: dict[str, Any], settlement: str, cost: int, flags: set[str]
) -> None:
    row = settled(reading, **seen)
    assert (row.settlement, row.cost_nanodollars) == (settlement, cost)
    assert set(row.flags) == flags | {*reading.flags}


def test_an_error_answer_keeps_what_the_provider_said() -> None:
    row = settled(WHOLE, status=529)
    assert (row.usage, row.raw_usage) == (Usage(), WHOLE.raw_usage)


@pytest.mark.parametrize(
    ("reading", "cost", "flag"),
    [
        (WHOLE, COST_OF_WHOLE, "above_hold"),  # the provider counted it
        (PARTIAL, 1_500_000, "capped_at_hold"),
        (replace(PARTIAL, error="overloaded_error"), COST_OF_PARTIAL, None),
    ],
)
def test_no_estimate_costs_more_than_was_held(reading: Reading, cost: int, flag: str | None) -> None:
    row = settled(reading, hold=replace(HOLD, amount=1_500_000))
    assert row.cost_nanodollars == cost
    assert {*row.flags} & {"above_hold", "capped_at_hold"} == ({flag} if flag else set())


@pytest.mark.parametrize(
    ("progress", "cost"), [(None, 0), (Usage(input=100, cache_read=1000, output=1), COST_OF_PARTIAL)]
)
def test_a_request_in_whose_middle_the_proxy_stopped(progress: Usage | None, cost: int) -> None:
    row = interrupted(
        HOLD, progress=progress, settled_at="2026-01-02T00:00:00.000Z", versions=VERSIONS, multiplier=MULTIPLIER
    )
    assert (row.settlement, row.outcome, row.status) == (Settlement.INTERRUPTED, "interrupted", 0)
    assert (row.cost_nanodollars, row.usage, row.raw_usage) == (cost, progress or Usage(), None)
    assert (row.received_bytes, row.answered_bytes) == (0, 0)
    assert (row.id, row.wallets, row.hold_nanodollars) == (HOLD.id, HOLD.wallets, HOLD.amount)
    small = replace(HOLD, amount=1000)
    capped = interrupted(small, progress=progress, settled_at="x", versions=VERSIONS, multiplier=MULTIPLIER)
    assert (capped.cost_nanodollars, capped.flags) == ((1000, ("capped_at_hold",)) if progress else (0, ()))


def test_rating_again_with_the_same_prices_changes_nothing() -> None:
    for row in (settled(WHOLE), settled(PARTIAL), settled(GENERATED), settled(WHOLE, status=500)):
        assert rerate(row, VERSIONS) == row


def test_rating_again_with_other_prices() -> None:
    cheaper = (PriceVersion(date(2025, 12, 1), (Tier(1_000_000, {"input": Decimal(1), "output": Decimal(1)}),)),)
    row = rerate(settled(WHOLE), cheaper)
    assert (row.cost_nanodollars, row.price_version, row.tier_up_to) == (1_242_000, "2025-12-01", 1_000_000)
    assert (row.prices["output"], row.multiplier, row.usage, row.settled_at) == (
        "1",
        "1.08",
        WHOLE.usage,
        "2026-01-01T00:00:05.000Z",
    )
    assert rerate(row, cheaper, Decimal(2)).cost_nanodollars == 2_300_000
    assert rerate(row, VERSIONS) == settled(WHOLE)


# Terms other than the standard.

DEAR = tuple(replace(version, terms={"service_tier=priority": PRIORITY}) for version in VERSIONS)
TOLD = replace(WHOLE, terms={"service_tier": "priority"})
ASKED = replace(HOLD, terms="service_tier=priority")


def on_terms(reading: Reading, hold: Hold = HOLD, **seen: Any) -> tuple[str, str, set[str]]:
    row = settled(reading, hold=hold, versions=DEAR, **seen)
    return row.terms, row.prices["output"], {*row.flags} - {*reading.flags}


@pytest.mark.parametrize(
    ("reading", "hold", "terms", "output", "flags"),
    [
        (WHOLE, HOLD, "", "25", set()),
        (TOLD, HOLD, "service_tier=priority", "50", set()),
        (WHOLE, ASKED, "service_tier=priority", "50", set()),
        (replace(WHOLE, terms={"service_tier": "default"}), ASKED, "", "25", set()),
        (
            replace(PARTIAL, terms={"service_tier": "priority"}),
            HOLD,
            "service_tier=priority",
            "50",
            {"output_estimated"},
        ),
        (replace(GENERATED, terms={}), ASKED, "service_tier=priority", "50", {"input_estimated", "output_estimated"}),
        (replace(WHOLE, terms={"service_tier": "flex"}), HOLD, "service_tier=flex", "25", {"service_tier_flex"}),
        (replace(WHOLE, terms={"service_tier": "gold"}), ASKED, "service_tier=gold", "25", {"service_tier_other"}),
        (replace(WHOLE, terms={"service_tier": "no word"}), HOLD, "service_tier=?", "25", {"service_tier_other"}),
        (
            replace(WHOLE, terms={"speed": "fast", "service_tier": "priority"}),
            HOLD,
            "service_tier=priority,speed=fast",
            "50",
            {"speed_other"},
        ),
        (replace(WHOLE, terms={"inference_geo": "us"}), HOLD, "inference_geo=us", "25", {"inference_geo_other"}),
    ],
)
def test_the_answer_tells_what_it_is_charged_by(
    reading: Reading, hold: Hold, terms: str, output: str, flags: set[str]
) -> None:
    assert on_terms(reading, hold) == (terms, output, flags)


def test_a_drained_answer_is_charged_by_what_it_tells() -> None:
    assert on_terms(TOLD, drained=True, outcome="client_gone") == ("service_tier=priority", "50", set())


def test_a_request_in_whose_middle_the_proxy_stopped_is_charged_by_what_was_noted() -> None:
    """The journal has what was told in the hold (journal_state.py)."""
    seen: Any = {"progress": Usage(input=100, output=1), "settled_at": "x", "multiplier": MULTIPLIER}
    row = interrupted(ASKED, versions=DEAR, **seen)
    assert (row.terms, row.prices["output"], row.flags) == ("service_tier=priority", "50", ())
    row = interrupted(ASKED, versions=VERSIONS, **seen)  # the price has left the configuration meanwhile
    assert (row.terms, row.prices["output"], row.flags) == ("service_tier=priority", "25", ("service_tier_priority",))


def test_rating_again_finds_the_price_of_the_terms() -> None:
    unpriced, priced = settled(TOLD), settled(TOLD, versions=DEAR)
    assert rerate(unpriced, DEAR) == priced
    assert rerate(priced, VERSIONS) == unpriced
    before = replace(settled(WHOLE), flags=("service_tier_priority",))  # by a version that kept no terms
    assert rerate(before, DEAR) == before


def test_searches_without_a_price_are_flagged_until_they_have_one() -> None:
    reading = replace(WHOLE, usage=Usage(input=100, cache_read=1000, output=50, web_search=2))
    (tier,) = VERSIONS[0].tiers
    fee = (PriceVersion(VERSIONS[0].effective_from, (Tier(None, {**tier.prices, "web_search": Decimal(10)}),)),)
    unpriced, priced = settled(reading), settled(reading, versions=fee)
    assert (unpriced.cost_nanodollars, {*unpriced.flags} - {*WHOLE.flags}) == (COST_OF_WHOLE, {"web_search_unpriced"})
    assert (priced.cost_nanodollars, priced.flags) == (COST_OF_WHOLE + 2 * 10_800_000, WHOLE.flags)
    assert rerate(unpriced, fee) == priced
    assert rerate(priced, VERSIONS) == unpriced
    assert settled(WHOLE, versions=fee).flags == WHOLE.flags


def test_a_document_of_before_has_the_standard_terms() -> None:
    for document, kind in ((HOLD.to_json(), Hold), (settled(WHOLE).to_json(), Row)):
        del document["terms"]
        assert kind.from_json(document).terms == ""


def test_rating_again_keeps_an_estimate_within_its_hold() -> None:
    row = settled(PARTIAL, hold=replace(HOLD, amount=COST_OF_WHOLE))
    assert "capped_at_hold" not in row.flags
    dearer = rerate(row, VERSIONS, Decimal(2))
    assert (dearer.cost_nanodollars, "capped_at_hold" in dearer.flags) == (COST_OF_WHOLE, True)
    assert rerate(dearer, VERSIONS, MULTIPLIER) == row


def test_rows_and_holds_pass_through_json() -> None:
    interrupted_row = interrupted(HOLD, progress=None, settled_at="x", versions=VERSIONS, multiplier=MULTIPLIER)
    for row in (settled(WHOLE), settled(NOTHING, upstream_request_id=None), interrupted_row):
        assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert Hold.from_json(json.loads(json.dumps(HOLD.to_json()))) == HOLD
    assert Hold.from_json(HOLD.to_json() | {"of_a_later_version": 1}) == HOLD


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("id", ..., "id is missing"),
        ("id", 7, "id is 7; expected text"),
        ("opened_at", "yesterday", 'opened_at is "yesterday"; expected a time of RFC 3339'),
        ("wallets", "alice", 'wallets is "alice"; expected a list of texts'),
        ("wallets", [1], "wallets is a list; expected a list of texts"),
        ("stream", 1, "stream is 1; expected true or false"),
        ("cost_nanodollars", 1.0, "cost_nanodollars is 1.0; expected a whole number of 0 or more"),
        ("cost_nanodollars", True, "cost_nanodollars is true; expected a whole number of 0 or more"),
        ("cost_nanodollars", -1, "cost_nanodollars is -1; expected a whole number of 0 or more"),
        (
            "settlement",
            "guessed",
            'settlement is "guessed"; expected one of exact, drained, estimated, upstream_error, interrupted',
        ),
        ("usage", None, "usage is null; expected an object of whole numbers of 0 or more"),
        ("usage", {"input": -1}, "usage is an object; expected an object of whole numbers of 0 or more"),
        ("prices", {"input": 5}, "prices is an object; expected an object of texts"),
        ("raw_usage", [], "raw_usage is a list; expected an object or null"),
        ("tier_up_to", "x", 'tier_up_to is "x"; expected a whole number of 0 or more, or null'),
    ],
)
def test_a_document_that_is_no_row(field: str, value: Any, complaint: str) -> None:
    document = settled(WHOLE).to_json() | {field: value}
    if value is ...:
        del document[field]
    with pytest.raises(InvalidRow, match=f"^{re.escape(complaint)}$"):
        Row.from_json(document)
    with pytest.raises(InvalidRow, match=r"^it is a list; expected an object$"):
        Row.from_json([document])


tokens = st.integers(0, 10**6)
readings = st.builds(
    Reading,
    usage=st.none() | st.builds(Usage, tokens, tokens, tokens, tokens, tokens, tokens),
    raw_usage=st.none(),
    exact=st.booleans(),
    ended=st.booleans(),
    error=st.none() | st.just("api_error"),
    flags=st.just(()),
    model=st.none(),
    generated_bytes=tokens,
)
outcomes = st.sampled_from(["ok", "client_gone", "upstream_truncated", "upstream_timeout", "shutdown"])


@given(readings, st.booleans(), st.sampled_from([0, 200, 404, 529]), outcomes, st.integers(0, 10**12))
def test_whatever_was_seen_the_row_can_be_computed_again(
    reading: Reading, drained: bool, status: int, outcome: str, amount: int
) -> None:
    hold = replace(HOLD, amount=amount)
    row = settled(reading, hold=hold, drained=drained, status=status, outcome=outcome)
    assert rerate(Row.from_json(row.to_json()), VERSIONS) == row
    assert cost_of(Row.from_json(row.to_json())) == row.cost_nanodollars
    if row.settlement is Settlement.ESTIMATED:
        assert row.cost_nanodollars <= amount
    if row.settlement in (Settlement.EXACT, Settlement.DRAINED):
        assert row.usage == reading.usage
    if status >= 400:
        assert row.cost_nanodollars == 0
    cut = interrupted(hold, progress=reading.usage, settled_at=row.settled_at, versions=VERSIONS, multiplier=MULTIPLIER)
    assert cost_of(cut) == cut.cost_nanodollars
