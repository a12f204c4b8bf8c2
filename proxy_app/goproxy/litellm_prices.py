"""LiteLLM's list of prices (model_prices_and_context_window.json), from which entries of the price book are made.

It has USD per token, and says in a field's name what a price is for: `input_cost_per_token_above_200k_tokens_priority`.
The price book has whole tiers and terms: what LiteLLM has no price for there, is taken at the dearest of those that it
has for a part of it, and is noted. Its own program takes one of them, too.

Sources: `sample_spec` of that file and `litellm_core_utils/llm_cost_calc/utils.py`, LiteLLM 1.106.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Context, Decimal
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from goproxy.config_reader import Fields, Problems, parse_json
from goproxy.core.pricing import REQUIRED_PRICES, written_number

_FIELDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_write_5m": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "cache_read": "cache_read_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
}
"""LiteLLM's field for each kind of tokens, in the order in which the price book has them."""

_SERVICES = ("priority", "flex", "balanced", "ultrafast")
"""Values of `service_tier` that LiteLLM has fields for."""

_KINDS = {field: kind for kind, field in _FIELDS.items()}
_PRICE = re.compile(rf"({'|'.join(_KINDS)})(?:_above_([1-9][0-9]{{0,5}}[0-9k]?)_tokens)?(?:_({'|'.join(_SERVICES)}))?")
_SEARCHES = "search_context_cost_per_query"
_OF_MONEY = re.compile(r"cost|pric|multiplier|billing_unit|provider_specific_entry")
_MODES = ("chat", "responses")
_FROM_THE_LIMIT_ON = ("xai",)
"""Whose dearer tier begins with its limit; those of others begin with the next token."""

_DIGITS = Context(prec=15)
"""What a float can hold of a decimal number: YAML's numbers are floats, and what LiteLLM has beyond is their noise."""

_LOWEST = Decimal("0.001"), Decimal("0.1")
"""USD for a million tokens, and a thousand searches: the price book takes what is lower for a price of one."""

_ID = re.compile(r"[A-Za-z0-9._:/@~+-]{1,200}")
"""No more, since Ansible evaluates what stands in braces."""

_PLAIN = re.compile(r"(?!(?:true|false|yes|no|on|off|null|y|n)$)[a-z][a-z0-9._/-]*", re.IGNORECASE)
"""What is text in YAML without quotes."""

_DATED = re.compile(r"(.+)-(?:20[0-9]{6}|20[0-9]{2}-[0-9]{2}-[0-9]{2})")


class UnusablePrices(Exception):
    """What cannot be made into entries, with all its problems."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Entries:
    """What belongs below `goproxy_price_book`, and what one should know of it."""

    yaml: str
    notes: list[str]


_Tier = tuple[int | None, Mapping[str, Decimal]]
"""The longest prompt that it is for, and USD per million tokens by kind."""

_Told = dict[tuple[str, int, str], Decimal]
"""USD per million tokens, by kind, by the longest prompt that it is not for (0: none), and by service tier."""


@dataclass(frozen=True, slots=True)
class _Model:
    id: str
    context_tokens: int
    max_output_tokens: int
    web_search: Decimal | None
    """USD per thousand."""
    tiers: Sequence[_Tier]
    terms: Mapping[str, Sequence[_Tier]]
    """By service tier."""
    alias: str | None = None


def entries(data: bytes, asked: Iterable[str], day: date) -> Entries:
    """Entries for the models that are `asked` for, by LiteLLM's names or patterns of them, with prices from `day` on.

    Raises:
        UnusablePrices: the file is none, or one of the models cannot be had.
    """
    problems, notes = Problems(), list[str]()
    listed = parse_json(data, problems)
    if not problems and not isinstance(listed, dict):
        problems.note("the document", "is no object", "LiteLLM's model_prices_and_context_window.json")
    if problems:
        raise UnusablePrices(problems.found)
    models: dict[str, _Model] = {}
    for key in _chosen(listed, asked, problems, notes):
        if (model := _model(key, listed[key], problems, notes)) is not None:
            for other in [other for other, known in models.items() if known.id == model.id]:
                problems.note(key, f"has the id {model.id}, and {other} has it, too", "one of them at a time")
            models[key] = model
    if problems:
        raise UnusablePrices(problems.found)
    names: set[str | None] = {model.id for model in models.values()}
    for key, model in models.items():
        if (alias := _alias(key, model, listed)) not in names:
            models[key] = replace(model, alias=alias)
            names.add(alias)
    return Entries("".join(f"{line}\n" for model in models.values() for line in _written(model, day)), notes)


def _chosen(listed: Mapping[str, Any], asked: Iterable[str], problems: Problems, notes: list[str]) -> Iterable[str]:
    """The names of the file that were meant, each of them once."""
    chosen: dict[str, None] = {}
    for name in asked:
        provider, _, rest = name.partition("/")
        if name in listed:
            chosen[name] = None
        elif rest in listed and _field(listed[rest], "litellm_provider") == provider:
            chosen[rest] = None  # so does LiteLLM
        elif found := [key for key in listed if fnmatchcase(key, name)]:
            served = [key for key in found if _field(listed[key], "mode") in _MODES]
            chosen.update(dict.fromkeys(served))
            others = [f"{key} ({_field(listed[key], 'mode')})" for key in found if key not in served]
            if not served:
                problems.note(name, f"names none that is served here, but {', '.join(others)}", "models of mode chat")
            elif others:
                notes.append(f"{name}: without {', '.join(others)}, which are not served here")
        else:
            problems.note(name, "is not in the file", _nearest(name, listed))
    return chosen


def _nearest(name: str, listed: Iterable[str]) -> str:
    found = get_close_matches(name, listed, n=3) or get_close_matches(name.rpartition("/")[2], listed, n=3)
    return f"a name of it: {' or '.join(found)}" if found else "a name of it, or a pattern such as 'claude-*'"


def _model(key: str, value: Any, problems: Problems, notes: list[str]) -> _Model | None:
    """One model; None: it has a problem."""
    known = len(problems.found)
    given = {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value
    fields = Fields(given, key, problems)
    if not isinstance(given, dict):
        return None
    if (mode := given.get("mode")) not in _MODES:
        fields.complain("mode", f"{_shown(mode)} is not served here", " or ".join(_MODES))
        return None
    model_id = _id_of(key, given)
    if not _ID.fullmatch(model_id):
        fields.complain("id", f"{_shown(model_id)} is none that the price book takes", "letters, digits and ._:/@~+-")
    if "tiered_pricing" in given:
        fields.complain("tiered_pricing", "is not read here", "an entry that you write by hand, with these as tiers")
        return None
    told, rest = _told(fields, given, notes, key)
    search = _web_search(fields, given[_SEARCHES]) if _SEARCHES in given else None
    others = [f"{name} {_shown(given[name])}" for name in rest if _OF_MONEY.search(name)]
    if not any(kind in REQUIRED_PRICES for kind, _, _ in told) and others:
        fields.complain("input_cost_per_token", f"is missing: it has {', '.join(others)}", "a price by tokens")
        return None
    for kind in REQUIRED_PRICES:
        if (kind, 0, "") not in told and _FIELDS[kind] not in given:
            fields.complain(_FIELDS[kind], "is missing", "USD per token, as the provider states it")
    context, longest = _limits(fields)
    if len(problems.found) > known:
        return None
    if others:
        notes.append(f"{key}: the price book has no field for {', '.join(others)}")
    if free := [kind for kind in _FIELDS if told.get((kind, 0, "")) == 0]:
        notes.append(f"{key}: {', '.join(free)} would be free of charge: a price of 0")
    terms = {service: _tiers(told, service, key, notes) for service in _services(told, key, notes)}
    return _Model(model_id, context, longest, search, _tiers(told, "", key, notes), terms)


def _limits(fields: Fields) -> tuple[int, int]:
    """The longest prompt and the longest answer, in tokens."""
    context = fields.whole("max_input_tokens", 1, 10**9)
    name = "max_output_tokens" if "max_output_tokens" in fields or "max_tokens" not in fields else "max_tokens"
    longest = fields.whole(name, 1, 10**9)
    if fields.is_sound("max_input_tokens") and fields.is_sound(name) and longest > context:
        fields.complain(name, f"{longest} is more than max_input_tokens", f"at most {context}")
    return context, longest


def _told(fields: Fields, given: Mapping[str, Any], notes: list[str], key: str) -> tuple[_Told, list[str]]:
    """The prices of tokens, and the names of the fields that are none."""
    told: _Told = {}
    rest = []
    early = given.get("litellm_provider") in _FROM_THE_LIMIT_ON
    for name in given:
        if not (parts := _PRICE.fullmatch(name)):
            if name != _SEARCHES:
                rest.append(name)
            continue
        amount = _amount(fields, name, 6, "million tokens", _LOWEST[0])
        above = int(parts[2].replace("k", "000")) - early if parts[2] else 0
        told[_KINDS[parts[1]], above, parts[3] or ""] = rounded = _DIGITS.plus(amount)
        if rounded != amount:
            notes.append(f"{key}: {name} is {written_number(rounded)} per million tokens, and not exactly {amount:f}")
    if told.get(("reasoning", 0, "")) == told.get(("output", 0, ""), -1):
        del told["reasoning", 0, ""]  # it has no price of its own, in whatever tier
    return told, rest


def _amount(fields: Fields, name: str, places: int, unit: str, lowest: Decimal) -> Decimal:
    """USD for 10 to the power of `places`, exactly."""
    amount = Decimal(f"{written_number(fields.number(name))}e{places}")
    if fields.is_sound(name) and not (amount == 0 or amount >= lowest):
        fields.complain(name, f"is {amount:f} USD per {unit}", f"0, or {lowest} and more")
    return amount


def _web_search(fields: Fields, sizes: Any) -> Decimal | None:
    """The dearest, in USD per thousand."""
    each = fields.object(_SEARCHES)
    named = sizes if isinstance(sizes, dict) else {}
    return max((_amount(each, name, 3, "thousand searches", _LOWEST[1]) for name in named), default=None)


def _services(told: _Told, key: str, notes: list[str]) -> Iterator[str]:
    """Those with prices of their own for what must have one. What requests ask for otherwise is refused."""
    for service in _SERVICES:
        lacking = [_FIELDS[kind] for kind in REQUIRED_PRICES if (kind, 0, service) not in told]
        if not lacking:
            yield service
        elif has := [f"{kind} {written_number(price)}" for (kind, _, of), price in told.items() if of == service]:
            without = " and ".join(f"{name}_{service}" for name in lacking)
            notes.append(f"{key}: no terms for service_tier {service}, without {without}; it has {', '.join(has)}")


def _tiers(told: _Told, service: str, key: str, notes: list[str]) -> list[_Tier]:
    """The whole tiers of a service; "" is the standard one."""
    known = {of: price for of, price in told.items() if of[2] in ("", service)}
    begins = sorted({0, *(above for _, above, _ in known)})
    tiers = []
    for begin in begins:
        tier, lacking = {}, []
        for kind in _FIELDS:
            if (price := told.get((kind, begin, service))) is None:
                parts = [price for (of, above, _), price in known.items() if of == kind and above <= begin]
                if (price := max(parts, default=None)) is not None:
                    lacking.append(f"{kind} {written_number(price)}")
            if price is not None:
                tier[kind] = price
        if lacking:
            where = [f"prompts above {begin} tokens"] * (begin > 0) + [f"service_tier {service}"] * bool(service)
            taken = f"taken is the dearest of what it has for a part of that: {', '.join(lacking)}"
            notes.append(f"{key}: LiteLLM lacks prices for {' with '.join(where)}; {taken}")
        tiers.append(tier)
    return list(zip([*begins[1:], None], tiers, strict=True))


def _alias(key: str, model: _Model, listed: Mapping[str, Any]) -> str | None:
    """The id without its date, if LiteLLM has the same for it, and no other date of it."""
    dated = _DATED.fullmatch(key)
    if not dated or dated[1] not in listed:
        return None
    same = [other for other in listed if (parts := _DATED.fullmatch(other)) and parts[1] == dated[1]]
    undated = _model(dated[1], listed[dated[1]], Problems(), [])
    return undated.id if undated and same == [key] and replace(undated, id=model.id) == model else None


def _id_of(key: str, given: Mapping[str, Any]) -> str:
    """The provider's own id: LiteLLM's name for it, without the provider that may stand before it."""
    provider, _, rest = key.partition("/")
    return rest if rest and str(given.get("litellm_provider", "")).startswith(provider) else key


def _written(model: _Model, day: date) -> Iterator[str]:
    """Lines of YAML."""
    yield ""
    yield f"  {_text(model.id)}:"
    yield f"    name: {_text(model.id)}"
    yield f"    id: {_text(model.id)}"
    if model.alias:
        yield f"    aliases: [{_text(model.alias)}]"
    yield f"    context_tokens: {model.context_tokens}"
    yield f"    max_output_tokens: {model.max_output_tokens}"
    yield "    prices:"
    yield f'      - effective_from: "{day.isoformat()}"'
    if len(model.tiers) == 1:
        for amount in _amounts(model.tiers[0]):
            yield f"        {amount}"
    if model.web_search is not None:
        yield f"        web_search: {written_number(model.web_search)}"
    if len(model.tiers) > 1:
        yield "        tiers:"
        for tier in model.tiers:
            yield f"          - {{{', '.join(_amounts(tier))}}}"
    if model.terms:
        yield "        terms:"
    for service, tiers in model.terms.items():
        if len(tiers) == 1:
            yield f"          - {{service_tier: {service}, {', '.join(_amounts(tiers[0]))}}}"
        else:
            yield f"          - service_tier: {service}"
            yield "            tiers:"
            for tier in tiers:
                yield f"              - {{{', '.join(_amounts(tier))}}}"


def _amounts(tier: _Tier) -> list[str]:
    limit, prices = tier
    bound = [] if limit is None else [f"up_to_prompt_tokens: {limit}"]
    return bound + [f"{kind}: {written_number(price)}" for kind, price in prices.items()]


def _text(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else f'"{text}"'


def _field(model: Any, name: str) -> Any:
    return model.get(name) if isinstance(model, dict) else None


def _shown(value: Any) -> str:
    """As it stands in the file."""
    return json.dumps(value, default=float)
