"""Terms other than the standard: how they are written, what they cost, and what a request may come to with them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core.pricing import PriceVersion, Tier, price, worst_case
from goproxy.core.terms import STANDARD, TERMS, can_come_of, charged_terms, written_terms
from goproxy.core.usage import Usage

DAY = date(2026, 1, 15)
ONE = Decimal(1)
USAGE = Usage(input=1000, output=100)


def costing(output: int, tokens: int | None = None) -> tuple[Tier, ...]:
    """The prices of an entry: a dollar for input; with `tokens`, ten times as much above them."""
    prices = {"input": Decimal(1), "output": Decimal(output)}
    if tokens is None:
        return (Tier(None, prices),)
    return Tier(tokens, prices), Tier(None, {kind: 10 * amount for kind, amount in prices.items()})


def version(**terms: tuple[Tier, ...]) -> PriceVersion:
    return PriceVersion(date(2025, 1, 1), costing(5), {name.replace("__", "="): at for name, at in terms.items()})


CLAUDE = PriceVersion(
    date(2025, 1, 1),
    costing(5),
    {"speed=fast": costing(30), "inference_geo=us": costing(6), "inference_geo=us,speed=fast": costing(33)},
)
GPT = version(service_tier__priority=costing(10), service_tier__flex=costing(2))


def test_the_standard_is_not_written() -> None:
    for name, values in STANDARD.items():
        for value in values:
            assert written_terms({name: value}) == ""
    assert written_terms({}) == ""


@pytest.mark.parametrize(
    ("values", "terms"),
    [
        ({"speed": "fast", "inference_geo": "us", "service_tier": "auto"}, "inference_geo=us,speed=fast"),
        ({"service_tier": "on_demand"}, ""),  # Groq's word for its standard
        ({"service_tier": "fast", "speed": "fast"}, "service_tier=priority,speed=fast"),  # OpenAI's own two names
        ({"service_tier": "Priority"}, "service_tier=Priority"),  # which is not what the provider knows: nor do we
        ({"service_tier": "priority,speed=fast"}, "service_tier=?"),  # nobody gets a price by a trick
        ({"service_tier": ""}, "service_tier=?"),
        ({"speed": "x" * 65}, "speed=?"),
        ({"colour": "red"}, ""),
    ],
)
def test_terms_are_written_in_one_way(values: dict[str, str], terms: str) -> None:
    assert written_terms(values) == terms
    assert TERMS.fullmatch(terms)


@given(st.dictionaries(st.sampled_from([*STANDARD]), st.text()))
def test_whatever_is_told_can_be_written(values: dict[str, str]) -> None:
    assert TERMS.fullmatch(written_terms(values))


@pytest.mark.parametrize("text", ["speed", "speed=", "speed=fast,", ",", "speed=a b", "speed=fast;x=y", "speed=\n"])
def test_what_is_no_terms(text: str) -> None:
    assert not TERMS.fullmatch(text)


@pytest.mark.parametrize(
    ("asked", "told", "terms"),
    [
        ("", {}, ""),
        ("", {"service_tier": "priority"}, "service_tier=priority"),
        ("service_tier=priority", {}, "service_tier=priority"),
        ("service_tier=priority", {"service_tier": "default"}, ""),
        ("service_tier=flex", {"service_tier": "priority"}, "service_tier=priority"),
        ("speed=fast", {"inference_geo": "us"}, "inference_geo=us,speed=fast"),
        ("inference_geo=us,speed=fast", {"speed": "standard"}, "inference_geo=us"),
        ("inference_geo=us", {"inference_geo": ""}, "inference_geo=us"),
        ("service_tier=priority", {"service_tier": "auto"}, "service_tier=priority"),
    ],
)
def test_what_is_told_counts_before_what_was_asked_for(asked: str, told: dict[str, str], terms: str) -> None:
    assert charged_terms(asked, told) == terms


def costs(version: PriceVersion, terms: str, usage: Usage = USAGE) -> tuple[str, set[str]]:
    priced = price(usage, [version], ONE, DAY, terms)
    return priced.prices["output"], {*priced.unpriced}


@pytest.mark.parametrize(
    ("prices", "terms", "output", "unpriced"),
    [
        (CLAUDE, "", "5", set()),
        (CLAUDE, "speed=fast", "30", set()),
        (CLAUDE, "inference_geo=us,speed=fast", "33", set()),
        (CLAUDE, "inference_geo=eu", "5", {"inference_geo=eu"}),
        # Bought capacity is no price of its own, and takes no other price away.
        (CLAUDE, "service_tier=priority", "5", {"service_tier=priority"}),
        (CLAUDE, "service_tier=priority,speed=fast", "30", {"service_tier=priority"}),
        (CLAUDE, "inference_geo=us,service_tier=priority", "6", {"service_tier=priority"}),
        # Of what is not priced together the dearest counts, be it the standard.
        (
            version(speed__fast=costing(30), inference_geo__us=costing(6)),
            "inference_geo=us,speed=fast",
            "30",
            {"inference_geo=us"},
        ),
        (GPT, "inference_geo=us,service_tier=flex", "5", {"inference_geo=us"}),
        (GPT, "service_tier=flex", "2", set()),
        (version(), "service_tier=flex", "5", {"service_tier=flex"}),
    ],
)
def test_terms_have_the_price_that_is_for_them(
    prices: PriceVersion, terms: str, output: str, unpriced: set[str]
) -> None:
    assert costs(prices, terms) == (output, unpriced)


def test_terms_have_tiers_of_their_own() -> None:
    tiered = version(speed__fast=costing(30, tokens=1000))
    assert costs(tiered, "speed=fast", Usage(input=1000, output=1))[0] == "30"
    assert costs(tiered, "speed=fast", Usage(input=1001, output=1))[0] == "300"


def test_terms_hold_in_the_version_that_has_them() -> None:
    later = PriceVersion(date(2026, 2, 1), costing(5))
    for day, output in ((date(2026, 1, 31), "30"), (date(2026, 2, 1), "5")):
        assert price(USAGE, [CLAUDE, later], ONE, day, "speed=fast").prices["output"] == output


@pytest.mark.parametrize(
    ("prices", "asked", "output"),
    [
        (GPT, {}, 10),  # the project may have another default
        (GPT, {"service_tier": "auto"}, 10),
        (GPT, {"service_tier": "default"}, 5),
        (GPT, {"service_tier": "priority"}, 10),
        (GPT, {"service_tier": "flex"}, 5),  # it may fall back to the standard
        (CLAUDE, {}, 6),  # so may the workspace; speed has none
        (CLAUDE, {"inference_geo": ""}, 6),
        (CLAUDE, {"inference_geo": "global"}, 5),
        (CLAUDE, {"speed": "fast"}, 33),
        (CLAUDE, {"speed": "fast", "inference_geo": "global"}, 30),
        (CLAUDE, {"speed": "fast", "inference_geo": "us"}, 33),
    ],
)
def test_the_worst_case_is_of_all_that_can_come_of_it(prices: PriceVersion, asked: dict[str, str], output: int) -> None:
    assert worst_case(prices, ONE, 0, 100, asked) == 100 * output * 1000


@given(
    st.dictionaries(
        st.sampled_from(["a", "b"]).map(lambda value: f"speed={value}"), st.integers(0, 50).map(costing), max_size=2
    ),
    st.dictionaries(
        st.sampled_from(["a", "b"]).map(lambda value: f"inference_geo={value},speed=a"),
        st.integers(0, 50).map(costing),
        max_size=2,
    ),
    st.fixed_dictionaries({}, optional={"speed": st.sampled_from(["a", "b", "standard"])}),
    st.fixed_dictionaries({}, optional={"inference_geo": st.sampled_from(["a", "b", "c", "global"])}),
    st.booleans(),
)
def test_nothing_that_may_be_told_costs_more_than_the_worst_case(
    one: dict[str, Any], two: dict[str, Any], asked: dict[str, str], told: dict[str, str], falls_back: bool
) -> None:
    prices = PriceVersion(date(2025, 1, 1), costing(5), one | two)
    terms = charged_terms(written_terms(asked), told | ({"speed": "standard"} if falls_back else {}))
    assert price(USAGE, [prices], ONE, DAY, terms).cost <= worst_case(prices, ONE, 1000, 100, asked)


def test_what_a_request_has_settled_itself_comes_of_nothing_else() -> None:
    assert can_come_of("service_tier=flex", {})
    assert can_come_of("service_tier=flex", {"service_tier": "flex"})
    assert can_come_of("service_tier=priority", {"service_tier": "fast"})
    assert not can_come_of("service_tier=flex", {"service_tier": "standard_only"})
    assert not can_come_of("service_tier=flex,speed=fast", {"service_tier": "flex"})
