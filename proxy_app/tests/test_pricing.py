"""What tokens cost, to the nano-dollar."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core.pricing import (
    PriceVersion,
    Tier,
    cost,
    cost_as_written,
    price,
    tier_for,
    version_in_force,
    worst_case,
    written_number,
)
from goproxy.core.usage import KINDS, Usage

ONE = Decimal(1)


def tier(up_to: int | None = None, /, **prices: str) -> Tier:
    return Tier(up_to, {kind: Decimal(amount) for kind, amount in prices.items()})


OPUS = tier(input="5", output="25", cache_write_5m="6.25", cache_write_1h="10", cache_read="0.5", web_search="10")
GEMINI = PriceVersion(
    date(2025, 11, 18),
    (tier(200_000, input="2", output="12", cache_read="0.2"), tier(input="4", output="18", cache_read="0.4")),
)


@pytest.mark.parametrize(
    ("usage", "nanodollars"),
    [
        (Usage(), 0),
        (Usage(input=1), 5_000),
        (Usage(cache_write_5m=1), 6_250),
        (Usage(cache_write_1h=1), 10_000),
        (Usage(cache_read=1), 500),
        (Usage(output=1), 25_000),
        (Usage(output=3, reasoning=2), 75_000),  # a part of the output, not on top of it
        (Usage(web_search=1), 10_000_000),  # of USD per thousand
        (Usage(10, 20, 30, 40, 50, 0, 2), 50_000 + 125_000 + 300_000 + 20_000 + 1_250_000 + 20_000_000),
    ],
)
def test_each_kind_has_its_price(usage: Usage, nanodollars: int) -> None:
    assert cost(usage, OPUS, ONE) == nanodollars


def test_the_multiplier_is_a_factor_on_all_of_it() -> None:
    assert cost(Usage(input=1000, output=100), OPUS, Decimal("1.08")) == 8_100_000


@pytest.mark.parametrize(
    ("prices", "kind", "usd_per_million"),
    [
        ({"cache_write_5m": "3"}, "cache_write_1h", "3"),
        ({}, "cache_write_1h", "2"),
        ({}, "cache_write_5m", "2"),
        ({"cache_write_1h": "9"}, "cache_write_5m", "2"),
        ({}, "cache_read", "2"),
        ({"cache_read": "0"}, "cache_read", "0"),  # a price of 0 is a price
        ({}, "reasoning", "7"),
        ({"reasoning": "8"}, "reasoning", "8"),
    ],
)
def test_what_has_no_price_of_its_own_is_not_free(prices: dict[str, str], kind: str, usd_per_million: str) -> None:
    assert tier(input="2", output="7", **prices).price(kind) == Decimal(usd_per_million)


def test_searches_without_a_price_cost_nothing_and_that_is_told() -> None:
    priced = price(Usage(input=1, web_search=3), [GEMINI], ONE, date(2026, 1, 1))
    assert (priced.cost, "web_search" in priced.prices) == (2_000, False)
    assert cost_as_written(Usage(input=1, web_search=3), priced.prices, priced.multiplier) == 2_000


def test_reasoning_has_its_own_price_where_the_book_has_one() -> None:
    thinking = tier(input="0", output="10", reasoning="3")
    assert cost(Usage(output=5, reasoning=2), thinking, ONE) == 3 * 10_000 + 2 * 3_000
    assert cost(Usage(output=5, reasoning=9), thinking, ONE) == 5 * 3_000  # it cannot be more than the output


@pytest.mark.parametrize(
    ("usd_per_million", "nanodollars"),
    [("0.0005", 0), ("0.00050001", 1), ("0.0015", 2), ("0.0025", 2), ("0.0035", 4), ("0.001", 1)],
)
def test_half_a_nanodollar_goes_to_the_even_one(usd_per_million: str, nanodollars: int) -> None:
    assert cost(Usage(input=1), tier(input=usd_per_million, output="0"), ONE) == nanodollars


def test_there_is_one_rounding_and_it_is_the_last_step() -> None:
    thirds = tier(input="0.0004", output="0.0004", cache_read="0.0004")  # 0.4 nano-dollars each
    assert cost(Usage(input=1, output=1, cache_read=1), thirds, ONE) == 1  # 1.2; rounded one by one it would be 0
    assert cost(Usage(input=1), tier(input="0.0005", output="0"), Decimal("1.9")) == 1  # 0.95, not 0 times 1.9


def test_no_digit_is_lost_that_a_float_or_a_decimal_context_would_lose() -> None:
    precise = tier(input="1.000000000000000000000000000000000001", output="0")
    assert cost(Usage(input=10**9), precise, Decimal("1.000000000000000000000000000000000001")) == 10**12
    just_above_half = tier(input="0.0005000000000000000000000000000000001", output="0")
    assert cost(Usage(input=1), just_above_half, ONE) == 1


def test_a_price_holds_from_its_day_on() -> None:
    early, late = (PriceVersion(day, (OPUS,)) for day in (date(2025, 11, 24), date(2026, 10, 7)))
    for versions in ((early, late), (late, early)):
        assert version_in_force(versions, date(2025, 11, 24)) is early
        assert version_in_force(versions, date(2026, 10, 6)) is early
        assert version_in_force(versions, date(2026, 10, 7)) is late
        assert version_in_force(versions, date(2030, 1, 1)) is late
        assert version_in_force(versions, date(2025, 11, 23)) is early  # before all of them: the first


@pytest.mark.parametrize(
    ("usage", "up_to", "nanodollars"),
    [
        (Usage(input=200_000, output=1), 200_000, 200_000 * 2_000 + 12_000),
        (Usage(input=200_001, output=1), None, 200_001 * 4_000 + 18_000),
        (Usage(input=1, cache_read=199_999), 200_000, 2_000 + 199_999 * 200),
        (Usage(input=1, cache_read=200_000), None, 4_000 + 200_000 * 400),  # cached tokens are a part of the prompt
        (Usage(input=1, cache_write_5m=100_000, cache_write_1h=100_000), None, 200_001 * 4_000),
        (Usage(output=300_000), 200_000, 300_000 * 12_000),  # the output is not
    ],
)
def test_the_length_of_the_prompt_decides_on_every_price(usage: Usage, up_to: int | None, nanodollars: int) -> None:
    priced = price(usage, [GEMINI], ONE, date(2026, 1, 1))
    assert (priced.tier_up_to, priced.cost) == (up_to, nanodollars)


def test_what_was_priced_can_be_priced_again_from_what_is_kept() -> None:
    priced = price(Usage(input=3, output=4), [GEMINI], Decimal("1.060"), date(2026, 1, 1))
    assert priced.price_version == "2025-11-18"
    assert priced.prices == {
        "input": "2",
        "cache_write_5m": "2",
        "cache_write_1h": "2",
        "cache_read": "0.2",
        "output": "12",
        "reasoning": "12",
    }
    assert (priced.tier_up_to, priced.multiplier) == (200_000, "1.06")


@pytest.mark.parametrize(
    ("number", "text"),
    [("5.40", "5.4"), ("5", "5"), ("100", "100"), ("1E+2", "100"), ("1e-7", "0.0000001"), ("0.00", "0"), ("0E+2", "0")],
)
def test_a_price_is_written_in_one_way(number: str, text: str) -> None:
    assert written_number(Decimal(number)) == text


@pytest.mark.parametrize("price", ["0", "-0", "1" * 41, f"0.{'0' * 79}1"])
def test_whatever_a_configuration_can_say_is_computed_again(price: str) -> None:
    tier = Tier(None, {"input": Decimal(price), "output": Decimal(price)})
    usage = Usage(input=10**9, output=10**9)
    assert cost_as_written(usage, tier.written, "1.06") == cost(usage, tier, Decimal("1.06"))


@pytest.mark.parametrize(
    ("prices", "multiplier"),
    [
        ({"input": "1"}, "1"),
        ({"input": "1", "output": "1e9"}, "1"),
        ({"input": "1", "output": "-1"}, "1"),
        ({"input": "1", "output": "1", "reasoning": ""}, "1"),
        ({"input": "1", "output": "1"}, "Infinity"),
    ],
)
def test_what_is_no_price_is_not_computed_with(prices: dict[str, str], multiplier: str) -> None:
    with pytest.raises(ValueError, match=r"must be decimal|no decimal"):
        cost_as_written(Usage(input=1), prices, multiplier)


counts = st.integers(0, 2_000_000)
amounts = st.decimals("0", "1000", allow_nan=False, allow_infinity=False, places=9)
multipliers = st.decimals("0.01", "10", allow_nan=False, allow_infinity=False, places=6)
usages = st.builds(Usage, counts, counts, counts, counts, counts, counts, counts)


@st.composite
def price_versions(draw: st.DrawFn) -> PriceVersion:
    limits = [*sorted(draw(st.sets(st.integers(1, 1_000_000), max_size=3))), None]
    optional = {kind: amounts for kind in KINDS if kind not in ("input", "output")}
    kinds = st.fixed_dictionaries({"input": amounts, "output": amounts}, optional=optional)
    day = date(2025, 1, 1) + timedelta(days=draw(st.integers(0, 1000)))
    return PriceVersion(day, tuple(Tier(limit, draw(kinds)) for limit in limits))


@given(usages, price_versions(), multipliers)
def test_the_cost_is_within_half_a_nanodollar_of_the_truth(
    usage: Usage, version: PriceVersion, multiplier: Decimal
) -> None:
    priced = price(usage, [version], multiplier, date(2026, 1, 1))
    kept = {kind: Fraction(amount) for kind, amount in priced.prices.items()}
    reasoning = min(usage.reasoning, usage.output)
    truth = (
        usage.input * kept["input"]
        + usage.cache_write_5m * kept["cache_write_5m"]
        + usage.cache_write_1h * kept["cache_write_1h"]
        + usage.cache_read * kept["cache_read"]
        + (usage.output - reasoning) * kept["output"]
        + reasoning * kept["reasoning"]
        + usage.web_search * 1000 * kept.get("web_search", Fraction(0))
    )
    truth *= Fraction(priced.multiplier) * 1000
    assert type(priced.cost) is int
    assert cost_as_written(usage, priced.prices, priced.multiplier) == priced.cost
    assert abs(priced.cost - truth) <= Fraction(1, 2)
    assert priced.tier_up_to == tier_for(version.tiers, usage.prompt).up_to_prompt_tokens


@given(price_versions(), multipliers, usages, st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_no_request_within_its_bounds_costs_more_than_the_worst_case(
    version: PriceVersion, multiplier: Decimal, usage: Usage, more_input: int, more_output: int
) -> None:
    usage = replace(usage, reasoning=min(usage.reasoning, usage.output))
    most = worst_case(version, multiplier, usage.prompt + more_input, usage.output + more_output, {}, usage.web_search)
    assert price(usage, [version], multiplier, date(2026, 1, 1)).cost <= most


def test_the_worst_case_is_no_more_than_it_must_be() -> None:
    assert worst_case(PriceVersion(date(2025, 1, 1), (OPUS,)), Decimal("1.08"), 1000, 100, {}) == math.ceil(
        Fraction("1.08") * (1000 * 10_000 + 100 * 25_000)
    )
    of_two_searches = worst_case(PriceVersion(date(2025, 1, 1), (OPUS,)), ONE, 1000, 100, {}, 2)
    assert of_two_searches == 1000 * 10_000 + 100 * 25_000 + 2 * 10_000_000
    assert worst_case(GEMINI, ONE, 200_000, 10, {}) == 200_000 * 2_000 + 10 * 12_000  # cannot reach the second tier
    assert worst_case(GEMINI, ONE, 200_001, 10, {}) == 200_001 * 4_000 + 10 * 18_000
    falling = PriceVersion(date(2025, 1, 1), (tier(100, input="9", output="9"), tier(input="1", output="1")))
    assert worst_case(falling, ONE, 200, 10, {}) == 100 * 9_000 + 10 * 9_000  # a short prompt would be the dear one
    fraction = PriceVersion(date(2025, 1, 1), (tier(input="0.0001", output="0"),))
    assert worst_case(fraction, ONE, 1, 0, {}) == 1
