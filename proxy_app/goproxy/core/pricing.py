"""What a request costs: list price by kind and day, terms and length of the prompt, times the upstream's multiplier.

Money is integer nano-dollars (10⁻⁹ USD). Prices and multipliers are `Decimal` as they were written; every sum is exact
(integers over a common denominator), and one rounding at the end, half to even, makes it nano-dollars. No float comes
near it.

A kind of tokens that the price book does not name is never free: writing to a cache for an hour costs what writing for
five minutes costs, writing to and reading from a cache cost what input costs, and reasoning costs what output costs.
Searches without a price cost nothing, and `Priced` tells of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import cached_property, lru_cache

from goproxy.core.terms import can_come_of
from goproxy.core.usage import KINDS, TOKENS, Usage

NANODOLLARS = 10**9
"""In one dollar."""

MOST_AT_ONCE = 10**17
"""Nano-dollars of one request or one credit: a hundred million dollars. The databases' integers have 64 bits, and a
wallet adds many of them up."""

_OF_A_DOLLAR = {**dict.fromkeys(TOKENS, NANODOLLARS // 10**6), "web_search": NANODOLLARS // 10**3}
"""Nano-dollars for one, of each dollar of the price: for a million tokens, and for a thousand searches."""

REQUIRED_PRICES = ("input", "output")

MULTIPLIER = r"[0-9]{1,9}(\.[0-9]{1,18})?"
"""A multiplier as `written_number` has it. A configuration has no other, and no row with another is taken."""

_PRICE = re.compile(r"-0|[0-9]{1,80}(\.[0-9]{1,80})?")
"""A price as `written_number` has it; no configuration has a longer one."""

_INSTEAD = {
    "cache_write_1h": "cache_write_5m",
    "cache_write_5m": "input",
    "cache_read": "input",
    "reasoning": "output",
}
"""Whose price holds where a kind has none."""

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rates:
    """What tokens and searches cost at one multiplier: nano-dollars times `over` for one of each kind."""

    multiplier: Decimal
    written_multiplier: str
    over: int
    input: int
    cache_write_5m: int
    cache_write_1h: int
    cache_read: int
    output: int
    reasoning: int
    web_search: int

    @property
    def dearest_prompt_token(self) -> int:
        """Wherever a token of the prompt may come from."""
        return max(self.input, self.cache_write_5m, self.cache_write_1h, self.cache_read)

    @property
    def dearest_output_token(self) -> int:
        """Whatever is generated."""
        return max(self.output, self.reasoning)


@dataclass(frozen=True)
class Tier:
    """List prices for prompts of up to so many tokens (None: of any length), in USD per million tokens.

    That of `web_search` is USD per thousand, and there may be none.
    """

    up_to_prompt_tokens: int | None
    prices: Mapping[str, Decimal]

    def price(self, kind: str) -> Decimal | None:
        """The price of one of `KINDS`, its own or the one that holds instead; None: it has none."""
        while kind not in self.prices:
            if kind not in _INSTEAD:
                return None
            kind = _INSTEAD[kind]
        return self.prices[kind]

    @cached_property
    def written(self) -> Mapping[str, str]:
        """The price of each of `KINDS` that has one, as a decimal string."""
        return {kind: written_number(price) for kind in KINDS if (price := self.price(kind)) is not None}

    def rates(self, multiplier: Decimal) -> Rates:
        """These prices times `multiplier`, as integers."""
        for known in self._latest:
            if known.multiplier is multiplier:  # to compare decimals, or to hash them, takes longer than all the rest
                return known
        prices = {kind: (self.price(kind) or Decimal(0)).as_integer_ratio() for kind in KINDS}
        denominator = math.lcm(*(over for _, over in prices.values()))
        numerator, over = multiplier.as_integer_ratio()
        each = {
            kind: price * (denominator // below) * numerator * _OF_A_DOLLAR[kind]
            for kind, (price, below) in prices.items()
        }
        rates = Rates(multiplier, written_number(multiplier), denominator * over, **each)
        self._latest[:] = [rates]
        return rates

    @cached_property
    def _latest(self) -> list[Rates]:
        """At the multiplier that was asked for last: an upstream has one."""
        return []


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """The list prices that hold from a day on. The tiers ascend, and the last one is open."""

    effective_from: date
    tiers: tuple[Tier, ...]
    terms: Mapping[str, tuple[Tier, ...]] = field(default_factory=dict)
    """The same of a request on these terms (terms.py), and on no others."""


@dataclass(slots=True)  # not frozen: that makes one several times as dear, for each request
class Priced:
    """A cost, and all that it was computed from, so that it can be computed again."""

    cost: int
    """In nano-dollars."""
    price_version: str
    """The day from which these prices hold."""
    prices: Mapping[str, str]
    """As `Tier.written`."""
    tier_up_to: int | None
    multiplier: str
    unpriced: frozenset[str] = frozenset()
    """What of the terms has no price."""


def version_in_force(versions: Sequence[PriceVersion], day: date) -> PriceVersion:
    """The last of the versions that began on or before `day`; before the first one, the first."""
    if len(versions) == 1:
        return versions[0]
    begun = [version for version in versions if version.effective_from <= day]
    if begun:
        return max(begun, key=lambda version: version.effective_from)
    return min(versions, key=lambda version: version.effective_from)


def tier_for(tiers: Sequence[Tier], prompt_tokens: int) -> Tier:
    """The tier that prices every token of a request whose prompt is so long."""
    for tier in tiers:
        if tier.up_to_prompt_tokens is None or prompt_tokens <= tier.up_to_prompt_tokens:
            return tier
    return tiers[-1]


def cost(usage: Usage, tier: Tier, multiplier: Decimal) -> int:
    """The cost in nano-dollars, rounded once, half to even."""
    return _cost(usage, tier.rates(multiplier))


def cost_as_written(usage: Usage, prices: Mapping[str, str], multiplier: str) -> int:
    """The same, from prices and a multiplier as `Priced` has them.

    Raises:
        ValueError: they are none.
    """
    return _cost(usage, _rates_as_written(multiplier, *map(prices.get, KINDS)))


@lru_cache(maxsize=1024)
def _rates_as_written(multiplier: str, *prices: str | None) -> Rates:
    named = {kind: price for kind, price in zip(KINDS, prices, strict=True) if price is not None}
    if not all(kind in named for kind in REQUIRED_PRICES) or not all(map(_PRICE.fullmatch, named.values())):
        raise ValueError("prices must be decimal numbers, those of input and output among them")
    if not re.fullmatch(MULTIPLIER, multiplier):
        raise ValueError("multiplier is no decimal number with at most 9 digits before the point and 18 after it")
    return Tier(None, {kind: Decimal(price) for kind, price in named.items()}).rates(Decimal(multiplier))


def _cost(usage: Usage, rates: Rates) -> int:
    reasoning = min(usage.reasoning, usage.output)  # it is a part of the output, whatever a provider says
    whole, rest = divmod(
        usage.input * rates.input
        + usage.cache_write_5m * rates.cache_write_5m
        + usage.cache_write_1h * rates.cache_write_1h
        + usage.cache_read * rates.cache_read
        + (usage.output - reasoning) * rates.output
        + reasoning * rates.reasoning
        + usage.web_search * rates.web_search,
        rates.over,
    )
    return whole + (2 * rest > rates.over or (2 * rest == rates.over and whole % 2 == 1))


def price(usage: Usage, versions: Sequence[PriceVersion], multiplier: Decimal, day: date, terms: str = "") -> Priced:
    """What `usage` costs on `day`, on these terms (terms.py)."""
    version = version_in_force(versions, day)
    tier, unpriced = tier_for(version.tiers, usage.prompt), _NOTHING
    if terms:
        tier, unpriced = _tier_on(terms, version, usage, multiplier)
    rates = tier.rates(multiplier)
    return Priced(
        _cost(usage, rates),
        _written_day(version.effective_from),
        tier.written,
        tier.up_to_prompt_tokens,
        rates.written_multiplier,
        unpriced,
    )


def _tier_on(terms: str, version: PriceVersion, usage: Usage, multiplier: Decimal) -> tuple[Tier, frozenset[str]]:
    """The tier for a request on these terms, and what of them has no price.

    Where the version does not have them, the dearest counts of what it has for a part of them, or for none. What it has
    alone, and not with the others, lacks a price only where nothing else does.
    """
    if (tiers := version.terms.get(terms)) is not None:
        return tier_for(tiers, usage.prompt), _NOTHING
    parts = frozenset(terms.split(","))
    nowhere = parts.difference(*(priced.split(",") for priced in version.terms))
    found = [(tier_for(version.tiers, usage.prompt), parts)]
    for priced, tiers in version.terms.items():
        if parts.issuperset(of_them := priced.split(",")):
            found.append((tier_for(tiers, usage.prompt), parts.difference(of_them)))
    tier, uncovered = max(found, key=lambda each: (cost(usage, each[0], multiplier), -len(each[1])))
    return tier, nowhere or uncovered


def worst_case(
    version: PriceVersion,
    multiplier: Decimal,
    input_tokens: int,
    output_tokens: int,
    asked: Mapping[str, str],
    web_searches: int = 0,
) -> int:
    """The most that a request of at most so many tokens and searches can cost, in nano-dollars, rounded up.

    `asked`: the values of the fields that terms.py knows, of those that the request has. The provider may serve it on
    other terms than these, where it is free to choose, and may always fall back to the standard.
    """
    most = _worst_at(version.tiers, multiplier, input_tokens, output_tokens, web_searches)
    for terms, tiers in version.terms.items():
        if can_come_of(terms, asked):
            most = max(most, _worst_at(tiers, multiplier, input_tokens, output_tokens, web_searches))
    return most


def _worst_at(
    tiers: Sequence[Tier], multiplier: Decimal, input_tokens: int, output_tokens: int, web_searches: int
) -> int:
    """The same at these prices.

    The prompt may be shorter than `input_tokens`, so that every tier that begins below them counts, with the part of
    them that fits into it; each token at the dearest price that its side of the request has there.
    """
    dearest, over = 0, 1
    for tier in tiers:
        limit, rates = tier.up_to_prompt_tokens, tier.rates(multiplier)
        prompt = input_tokens if limit is None else min(input_tokens, limit)
        here = prompt * rates.dearest_prompt_token + output_tokens * rates.dearest_output_token
        here += web_searches * rates.web_search
        if here * over > dearest * rates.over:
            dearest, over = here, rates.over
        if limit is not None and input_tokens <= limit:
            break
    return -(-dearest // over)


@lru_cache(maxsize=16)
def _written_day(day: date) -> str:
    return day.isoformat()


@lru_cache(maxsize=256)
def written_number(number: Decimal) -> str:
    """A number without exponent and without zeros that say nothing: 5.40 and 5.4 are one price."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def dollars(nanodollars: int) -> str:
    """An amount as people read it: exact, at least the cents, without zeros that say nothing; -$0.50 below 0."""
    whole, rest = divmod(abs(nanodollars), NANODOLLARS)
    decimals = f"{rest:09}".rstrip("0")
    return f"{'-' if nanodollars < 0 else ''}${whole}.{decimals:0<2}"
