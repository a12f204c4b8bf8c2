"""The list prices: goproxy_price_book, read into models with dated and tiered prices."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Any

from .field import Field, listed, shown

AMOUNTS_REQUIRED = {"input": "give USD per million tokens", "output": "give USD per million tokens"}
AMOUNTS_OPTIONAL = ("cache_write_5m", "cache_write_1h", "cache_read", "reasoning")
STANDARD_TERMS = {  # by which a request can ask for a service at another price, and what the usual price is for
    "inference_geo": ("global", "not_available"),
    "service_tier": ("auto", "default", "standard", "standard_only", "on_demand"),
    "speed": ("standard",),
}
DEFAULT_CONTEXT_TOKENS = 200_000
DEFAULT_MAX_OUTPUT_TOKENS = 64_000
LOWEST_AMOUNT = 0.001  # USD: no million tokens is so cheap, and no single token so dear
LOWEST_FEE = 0.1  # USD: no thousand searches are so cheap, and no single one so dear
DATE_EXAMPLE = 'write the day from which it holds, like "2025-11-24"'


def read(book: Field) -> dict[str, dict[str, Any] | None]:
    """Every model of the book by its key; None where something in it is wrong."""
    if book.value is None:
        book.report("is missing", "add group_vars/all/price_book.yml (inventory/example has one)")
        return {}
    models = book.mapping("give a mapping of models")
    return {} if models is None else {key: read_model(model) for key, model in models.items()}


def read_model(model: Field) -> dict[str, Any] | None:
    count = len(model.problems)
    fields = model.record(
        {
            "name": "give the name that people see, like Claude Opus 4.5",
            "id": "give the provider's model id",
            "prices": "give at least one price with effective_from, input and output",
        },
        optional=("aliases", "context_tokens", "max_output_tokens"),
    )
    if fields is None:
        return None
    name = read_name(fields["name"]) if "name" in fields else None
    model_id = read_id(fields["id"]) if "id" in fields else None
    aliases = []
    if "aliases" in fields:
        aliases = [
            read_id(alias) for alias in fields["aliases"].items("give a list of other ids, or leave it out") or []
        ]
    context_tokens, max_output_tokens = read_limits(fields)
    prices = read_prices(fields["prices"]) if "prices" in fields else []
    if len(model.problems) > count:
        return None
    return {
        "name": name,
        "id": model_id,
        "aliases": aliases,
        "context_tokens": context_tokens,
        "max_output_tokens": max_output_tokens,
        "prices": prices,
    }


def read_name(field: Field) -> str | None:
    right = "give the name that people see, one line of up to 200 characters"
    text = field.text(right)
    if text is not None and not re.fullmatch(r"[^\x00-\x1f\x7f]{1,200}", text):
        field.report(f"is {shown(text)}", right)
        return None
    return text


def read_id(field: Field) -> str | None:
    right = "give a model id, like claude-opus-4-5: up to 200 ASCII characters without white space"
    text = field.text(right)
    if text is not None and not re.fullmatch(r"[!-~]{1,200}", text):
        field.report(f"is {shown(text)}", right)
        return None
    return text


def read_limits(fields: dict[str, Field]) -> tuple[int | None, int | None]:
    """The longest prompt and the longest answer: what a request can cost at the most is held before it goes out."""
    right = "give a number of tokens above 0, as the provider states it"
    context: int | None = DEFAULT_CONTEXT_TOKENS
    if "context_tokens" in fields:
        context = fields["context_tokens"].integer(1, 10**9, right)
    output: int | None = DEFAULT_MAX_OUTPUT_TOKENS
    if "max_output_tokens" in fields:
        output = fields["max_output_tokens"].integer(1, 10**9, right)
    if context is not None and output is not None and output > context:
        own = fields.get("max_output_tokens") or fields["context_tokens"]
        own.report(
            f"max_output_tokens is {output}, more than context_tokens, {context}",
            "give both as the provider states them",
        )
    return context, output


def read_prices(prices: Field) -> list[dict[str, Any]]:
    """Oldest first, whatever the order in the file."""
    entries = prices.items("give a list of prices, each with effective_from")
    if entries is None:
        return []
    if not entries:
        prices.report("is an empty list", "give at least one price with effective_from, input and output")
    read_entries: list[dict[str, Any]] = []
    for entry in entries:
        price = read_price(entry)
        if price is None:
            continue
        if any(price["effective_from"] == other["effective_from"] for other in read_entries):
            entry.child("effective_from", None).report(
                f"is {price['effective_from']}, the date of another price of this model", "give each price its own day"
            )
        read_entries.append(price)
    return sorted(read_entries, key=lambda price: str(price["effective_from"]))


def read_price(entry: Field) -> dict[str, Any] | None:
    """The prices of a model from a day on, and those of other terms than the standard ones where there are any."""
    fields, tiers = read_priced(entry, {"effective_from": DATE_EXAMPLE}, optional=("web_search", "terms"))
    date = read_date(fields["effective_from"]) if "effective_from" in fields else None
    fees = {"web_search": read_fee(fields["web_search"])} if "web_search" in fields else {}
    terms = read_terms(fields["terms"]) if "terms" in fields else []
    if date is None:
        return None
    return {"effective_from": date, **fees, "tiers": tiers} | ({"terms": terms} if terms else {})


def read_priced(
    entry: Field, required: dict[str, str], optional: tuple[str, ...]
) -> tuple[dict[str, Field], list[dict[str, Any]]]:
    """The other fields of an entry, and its prices: either amounts, or tiers of amounts by the prompt's length."""
    if isinstance(entry.value, dict) and "tiers" in entry.value:
        fields = entry.record({**required, "tiers": ""}, optional=optional) or {}
        tiers = read_tiers(fields.pop("tiers"))
    else:
        fields = entry.record({**required, **AMOUNTS_REQUIRED}, optional=(*AMOUNTS_OPTIONAL, *optional)) or {}
        kinds = [kind for kind in fields if kind in AMOUNTS_REQUIRED or kind in AMOUNTS_OPTIONAL]
        tiers = [{"up_to_prompt_tokens": None, **read_amounts({kind: fields.pop(kind) for kind in kinds})}]
    return fields, tiers


def read_terms(field: Field) -> list[dict[str, Any]]:
    """What requests cost that ask for another service than the standard one, by what they ask for."""
    entries = field.items("give a list of prices, each with service_tier, speed or inference_geo")
    if entries is None:
        return []
    if not entries:
        field.report("is an empty list", "leave it out, or give the prices of what requests may ask for")
    read_entries: list[dict[str, Any]] = []
    known: list[dict[str, str | None]] = []
    for entry in entries:
        fields, tiers = read_priced(entry, {}, optional=tuple(STANDARD_TERMS))
        values = {name: read_term(fields[name]) for name in STANDARD_TERMS if name in fields}
        if values.get("service_tier") == "fast":
            fields["service_tier"].report(
                'is "fast", which answers call priority', "write priority: it is for both, as with OpenAI"
            )
        if not isinstance(entry.value, dict) or None in values.values():
            continue
        differing = {name: value for name, value in values.items() if value not in STANDARD_TERMS[name]}
        if not values:
            entry.report("does not say what it is for", f"give {listed(STANDARD_TERMS)}")
        elif not differing:
            name, value = next(iter(values.items()))
            fields[name].report(
                f"is {shown(value)}, which is standard", "the price beside terms holds for it: leave this entry out"
            )
        elif differing in known:
            same = " and ".join(f"{name} {shown(value)}" for name, value in differing.items())
            entry.report(f"is for {same}, and another entry of this price is, too", "leave one of them out")
        known.append(differing)
        read_entries.append({**values, "tiers": tiers})
    return read_entries


def read_term(field: Field) -> str | None:
    right = "give the value that requests have, one word like priority"
    text = field.text(right)
    if text is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        field.report(f"is {shown(text)}", right)
        return None
    return text


def read_date(field: Field) -> str | None:
    """YAML reads an unquoted 2025-11-24 as a date, a quoted one as text. Both are fine."""
    value = field.value
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    text = field.text(DATE_EXAMPLE)
    if text is None:
        return None
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            raise ValueError(text)
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        field.report(f'is "{text}", no date', DATE_EXAMPLE)
        return None


def read_tiers(field: Field) -> list[dict[str, Any]]:
    entries = field.items("give a list of tiers, the last one without up_to_prompt_tokens")
    if entries is None:
        return []
    if not entries:
        field.report("is an empty list", "give at least one tier")
    tiers: list[dict[str, Any]] = []
    reached = 0
    for entry in entries:
        fields = entry.record(AMOUNTS_REQUIRED, optional=("up_to_prompt_tokens", *AMOUNTS_OPTIONAL))
        if fields is None:
            continue
        bound = fields.pop("up_to_prompt_tokens", None)
        limit: int | None = None
        if entry is entries[-1]:
            if bound is not None and bound.value is not None:
                bound.report(
                    f"is {bound.value} in the last tier, so that longer prompts have no price",
                    "leave it out of the last tier",
                )
        elif bound is None or bound.value is None:
            entry.child("up_to_prompt_tokens", None).report("is missing", "only the last tier is open")
        else:
            limit = bound.integer(1, 10**9, "give a number of tokens above 0")
            if limit is not None and limit <= reached:
                bound.report(
                    f"is {limit}, not above {reached} of the tier before it", "order the tiers by it, ascending"
                )
            reached = max(reached, limit or 0)
        tiers.append({"up_to_prompt_tokens": limit, **read_amounts(fields)})
    return tiers


def read_amounts(fields: dict[str, Field]) -> dict[str, int | float | None]:
    return {
        kind: read_amount(field, 10**6, "token", "million tokens, like 6.25", LOWEST_AMOUNT)
        for kind, field in fields.items()
    }


def read_fee(field: Field) -> int | float | None:
    """What a search costs is of no prompt's length, and of no terms."""
    return read_amount(field, 1000, "search", "thousand searches, like 10", LOWEST_FEE)


def read_amount(field: Field, units: int, unit: str, of: str, lowest: float) -> int | float | None:
    """USD for so many units; one that is as low as the price of a single unit is taken for that."""
    amount = field.number(f"give USD per {of}")
    if amount is not None and amount < 0:
        field.report(f"is {amount}", "a price is 0 or more")
    elif amount is not None and 0 < amount < lowest:
        written = Decimal(repr(amount))
        field.report(
            f"is {written:f}, as if it were USD per {unit}",
            f"give USD per {of.partition(',')[0]}: {(written * units).normalize():f}",
        )
    return amount


def holds_on(prices: list[dict[str, Any]], day: datetime.date) -> bool:
    return any(price["effective_from"] <= day.isoformat() for price in prices)
