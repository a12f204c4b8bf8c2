"""docs/billing.md is right: its examples are computed with the price book and the upstreams of inventory/example."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from goproxy.control_plane import schemas
from goproxy.core import ledger, meter, terms
from goproxy.core.input_estimate import SEARCHES
from goproxy.core.ledger import Row, Settlement, interrupted, settle
from goproxy.core.pricing import PriceVersion, Tier, cost, price, version_in_force, worst_case
from goproxy.core.reconcile import ExportLine, read_export
from goproxy.core.usage import KINDS, Usage
from tests.bookkeeping import NOTHING, a_hold

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/billing.md").read_text()
EXAMPLE = REPOSITORY / "inventory/example/group_vars/all"
UPSTREAMS = ("openhands", "ohmygpt")


def read(path: str) -> Any:
    return yaml.safe_load((EXAMPLE / path).read_text())


BOOK = read("price_book.yml")["goproxy_price_book"]


@dataclass(frozen=True)
class Offer:
    """A model at an upstream."""

    versions: tuple[PriceVersion, ...]
    multiplier: Decimal
    context_tokens: int
    max_output_tokens: int


def decimal(number: object) -> Decimal:
    return Decimal(str(number))


def tiers_of(entry: dict[str, Any]) -> tuple[Tier, ...]:
    return tuple(
        Tier(tier.get("up_to_prompt_tokens"), {kind: decimal(tier[kind]) for kind in KINDS if kind in tier})
        for tier in entry.get("tiers", [entry])
    )


def version(entry: dict[str, Any]) -> PriceVersion:
    on_terms = {
        terms.written_terms({name: each[name] for name in terms.STANDARD if name in each}): tiers_of(each)
        for each in entry.get("terms", [])
    }
    return PriceVersion(date.fromisoformat(entry["effective_from"]), tiers_of(entry), on_terms)


def offers(upstream: str) -> dict[str, Offer]:
    models = read(f"upstreams/{upstream}.yml")[f"goproxy_upstream__{upstream}"]["models"]
    return {
        key: Offer(
            tuple(map(version, BOOK[key]["prices"])),
            decimal(terms["multiplier"]),
            BOOK[key]["context_tokens"],
            BOOK[key]["max_output_tokens"],
        )
        for key, terms in models.items()
    }


OFFERS = {upstream: offers(upstream) for upstream in UPSTREAMS}


def section(heading: str) -> str:
    """What stands under a heading, up to the next one."""
    _, found, rest = PAGE.partition(f"# {heading}\n")
    assert found, heading
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """The cells of the only table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert set(lines[1]) <= set("|-:"), "there is more than one table"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def number(text: str) -> int:
    return int(text.strip("*").replace(",", ""))


def offered(text: str) -> Offer:
    """`model` at `upstream`, as the text has it."""
    match = re.search(r"`([a-z0-9-]+)` at `([a-z]+)`", text)
    assert match, text
    return OFFERS[match[2]][match[1]]


def day_of(text: str) -> date:
    match = re.search(r"on (\d{4}-\d{2}-\d{2})", text)
    assert match, text
    return date.fromisoformat(match[1])


@pytest.mark.parametrize("heading", ["Example: every kind", "Example: a long prompt", "Example: missing prices"])
def test_an_example_of_a_cost(heading: str) -> None:
    text = section(heading)
    offer = offered(text)
    *kinds, (_, _, _, total), (factor, _, _, charged) = table(text)
    tokens = {kind.strip("`"): number(count) for kind, count, _, _ in kinds}
    usage = Usage(**tokens | {"output": tokens["output"] + tokens.get("reasoning", 0)})
    priced = price(usage, offer.versions, offer.multiplier, day_of(text))
    assert priced.cost == number(charged)
    assert factor.split()[1] == priced.multiplier
    for kind, count, list_price, nanodollars in kinds:
        assert priced.prices[kind.strip("`")] == list_price
        assert number(count) * Fraction(list_price) * 1000 == number(nanodollars)
    assert sum(number(nanodollars) for *_, nanodollars in kinds) == number(total)


def test_the_example_of_the_long_prompt_is_just_too_long() -> None:
    text = section("Example: a long prompt")
    prompt = sum(number(count) for kind, count, _, _ in table(text)[:-2] if kind != "`output`")
    first_tier = version_in_force(offered(text).versions, day_of(text)).tiers[0]
    assert first_tier.up_to_prompt_tokens == prompt - 1


def test_the_example_of_the_missing_prices_misses_them() -> None:
    text = section("Example: missing prices")
    tier = version_in_force(offered(text).versions, day_of(text)).tiers[0]
    assert not {"cache_write_1h", "reasoning"} & tier.prices.keys()


def test_the_example_of_the_rounding() -> None:
    text = section("Example: rounding")
    offer = offered(text)
    (tier,) = version_in_force(offer.versions, day_of(text)).tiers
    for tokens, exactly, nanodollars in table(text):
        per_token = Fraction(tier.prices["cache_write_5m"]) * Fraction(offer.multiplier) * 1000
        assert number(tokens) * per_token == Fraction(exactly.replace(",", ""))
        assert cost(Usage(cache_write_5m=number(tokens)), tier, offer.multiplier) == number(nanodollars)
    assert f"{tier.price('cache_write_5m')} USD per million, times {offer.multiplier}." in text


def test_what_holds_where_a_price_is_missing() -> None:
    rows = table(section("What a token costs"))
    assert [row[0].strip("`") for row in rows] == list(KINDS)
    required = {"input": Decimal(1), "output": Decimal(2)}
    for kind, _, instead in rows:
        if instead == "always has one":
            assert kind.strip("`") in required
        elif instead.startswith("none"):
            assert Tier(None, required).price(kind.strip("`")) is None
        else:
            with_it = Tier(None, required | {instead.strip("`"): Decimal(3)})
            assert with_it.price(kind.strip("`")) == 3


def test_the_example_of_the_searches() -> None:
    text = " ".join(section("Searches of the web").split())
    told = re.search(r"With `web_search: (\d+)` and a multiplier of ([\d.]+), three searches cost ([\d,]+)", text)
    assert told is not None
    tier = Tier(None, {"input": Decimal(1), "output": Decimal(1), "web_search": Decimal(told[1])})
    assert cost(Usage(web_search=3), tier, Decimal(told[2])) == number(told[3])
    assert text.count(f" {SEARCHES} ") == 2


def test_the_examples_of_what_is_held() -> None:
    rows = table(section("What is held"))
    offer = offered(rows[0][0])
    for request, prompt, answer, held in rows:
        if not request.startswith("the same"):
            offer = offered(request)
        if "without `max_tokens`" in request:
            assert number(answer) == offer.max_output_tokens
        if "address" in request:
            assert number(prompt) == offer.context_tokens
        in_force = version_in_force(offer.versions, date(2026, 1, 15))
        assert worst_case(in_force, offer.multiplier, number(prompt), number(answer), {}) == number(held)


def test_what_an_agent_s_request_holds_and_costs() -> None:
    text = section("What is held")
    (request, _, _, held) = table(text)[2]
    told = re.search(
        r"the third line\) each request that runs holds ([\d.]+) US dollars, and costs ([\d.]+) where ([\d,]+) of the "
        r"tokens come from a cache, ([\d,]+) are written to it and ([\d,]+) are generated",
        " ".join(text.split()),
    )
    assert told is not None
    offer = offered(request)
    usage = Usage(cache_read=number(told[3]), cache_write_5m=number(told[4]), output=number(told[5]))
    priced = price(usage, offer.versions, offer.multiplier, date(2026, 1, 15))
    assert f"{number(held) / 10**9:.2f}" == told[1]
    assert f"{priced.cost / 10**9:.2f}" == told[2]
    assert usage.prompt == offer.context_tokens


def fields(cell: str) -> dict[str, str]:
    return dict(re.findall(r"`(\w+): (\w+)`", cell))


def test_the_example_of_terms() -> None:
    text = section("Example: a fast answer")
    _, block, _ = re.split(r"```(?:yaml)?\n", text)
    in_force = version(*yaml.safe_load(block))
    multiplier = Decimal(re.findall(r"multiplier of ([0-9.]+)", text)[0])
    (facts,) = re.findall(r"Its prompt is .*", text)
    prompt, cached, output, longest_prompt, longest_answer = map(number, re.findall(r"[\d,]*\d", facts))
    usage = Usage(input=prompt, cache_read=cached, output=output)
    refused = 0
    for asked, answer, served, flags, held, charged in table(text):
        wanted = terms.written_terms(fields(asked))
        if answer == "refused":
            refused += wanted not in in_force.terms
            continue
        assert not wanted or wanted in in_force.terms
        assert worst_case(in_force, multiplier, longest_prompt, longest_answer, fields(asked)) == number(held)
        hold = replace(HOLD, terms=wanted, amount=number(held), opened_at="2026-03-01T00:00:00.000Z")
        reading = replace(NOTHING, usage=usage, exact=True, terms=fields(answer))
        row = settle(hold, reading=reading, versions=[in_force], multiplier=multiplier, **SEEN)
        assert (row.terms, row.flags) == (served.strip("`"), tuple(re.findall(r"\w+", flags)))
        assert row.cost_nanodollars == number(charged)
    assert refused == 1


def told(cell: str) -> Usage | None:
    if cell == "none":
        return None
    prompt, answer = map(number, cell.split(" / "))
    return Usage(input=prompt, output=answer)


ONE_REQUEST = section("Example: one request, eleven ways")


HOLD = replace(
    a_hold("r", 0),
    opened_at=f"{day_of(ONE_REQUEST)}T12:00:00.000Z",
    model="claude-sonnet-4-5-20250929",
    estimated_input_tokens=0,
)
SEEN: dict[str, Any] = {
    "drained": False,
    "status": 200,
    "outcome": "ok",
    "settled_at": "later",
    "received_bytes": 0,
    "answered_bytes": 0,
}


def row_of(cells: list[str]) -> Row:
    """The row of the ledger that follows from what a line says was seen."""
    _, status, outcome, last_word, usage, generated, *_ = cells
    offer = offered(ONE_REQUEST)
    prompt, held = next(
        (number(prompt), number(held)) for request, prompt, _, held in table(section("What is held")) if request
    )
    hold = replace(HOLD, estimated_input_tokens=prompt, amount=held)
    prices: dict[str, Any] = {"versions": offer.versions, "multiplier": offer.multiplier}
    if outcome == "`interrupted`":
        return interrupted(hold, progress=told(usage), settled_at="later", **prices)
    reading = replace(
        NOTHING,
        usage=told(usage),
        exact=last_word.startswith("final usage"),
        ended=last_word.startswith("final usage"),
        error="overloaded_error" if last_word == "error event" else None,
        generated_bytes=number(generated),
    )
    seen = {
        "drained": "drained" in last_word,
        "status": int(status),
        "outcome": outcome.strip("`"),
        "answered_bytes": number(generated),
    }
    return settle(hold, reading=reading, **prices, **SEEN | seen)


@pytest.mark.parametrize("cells", table(ONE_REQUEST), ids=lambda cells: cells[0].replace(" ", "-"))
def test_the_example_of_one_request(cells: list[str]) -> None:
    *_, settlement, charged, nanodollars = cells
    row = row_of(cells)
    assert (row.settlement, row.usage, row.cost_nanodollars) == (
        settlement.strip("`"),
        told(charged),
        number(nanodollars),
    )


def test_the_example_of_one_request_shows_every_settlement() -> None:
    rows = table(ONE_REQUEST)
    assert {row_of(cells).settlement for cells in rows} == {*Settlement}
    assert {cells[0].strip("`") for cells in table(section("What is settled"))} == {*Settlement}
    assert len(rows) == 11
    assert f"with {max(row_of(cells).hold_nanodollars for cells in rows):,} nano-dollars held" in ONE_REQUEST


def test_every_flag_is_explained() -> None:
    _, _, flags = section("What a row says").partition("The flags:")
    assert {flag.strip("`"): meaning for flag, meaning in table(flags)} == {**meter.FLAGS, **ledger.FLAGS}


def test_every_field_of_a_row_that_is_named_is_there() -> None:
    fields, _, _ = section("What a row says").partition("The flags:")
    named = {name for cells in table(fields) for name in re.findall(r"`(\w+)`", cells[0])}
    assert named <= schemas.Row.model_fields.keys()


def test_every_column_of_an_export_is_known() -> None:
    rows = table(section("Prices that were wrong, and the provider's invoice"))
    for kind, columns in rows:
        for column in re.findall(r"`(\w+)`", columns):
            export = read_export(f"request_id,{column}\nup1,7\n".encode())
            assert export == [ExportLine("up1", {kind.split("`")[1]: 7})]
