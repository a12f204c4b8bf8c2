"""Requests for another service than the standard one, through a proxy and a backend: priced as they are served, or
refused before anything is held."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.gateway import ALICE, OPUS, Running, config_document, endpoints_at, running_gateway
from tests.provider import Provider, Received, Script, Wire
from tests.streams import anthropic_message, anthropic_stream, message_start, openai_completion, openai_stream

Client = aiohttp.ClientSession

PATHS = {"anthropic": "v1/messages", "openai": "v1/chat/completions"}
ASK = {"model": OPUS["id"], "max_tokens": 100, "messages": [{"role": "user", "content": "Why?"}]}
STANDARD, PRIORITY, US, FAST, FAST_US = (5, 25), (10, 50), (5.5, 27.5), (30, 150), (33, 165)


def costing(dollars: tuple[float, float], **terms: str) -> dict[str, Any]:
    """An entry of a price version: input and output."""
    return {**terms, "tiers": [{"up_to_prompt_tokens": None, "input": dollars[0], "output": dollars[1]}]}


PRICES = costing(STANDARD, effective_from="2025-11-24") | {
    "terms": [
        costing(PRIORITY, service_tier="priority"),
        costing(US, inference_geo="us"),
        costing(FAST, speed="fast"),
        costing(FAST_US, speed="fast", inference_geo="us"),
    ]
}
MULTIPLIER = 1.08
FIXED = {"service_tier": "default", "inference_geo": "global"}
"""Nothing is left to the provider."""


def cost(dollars: tuple[float, float], prompt: int = 9, output: int = 7) -> int:
    return round(1000 * (dollars[0] * prompt + dollars[1] * output) * MULTIPLIER)


@pytest.fixture
def document(provider: Provider) -> dict[str, Any]:
    return config_document(endpoints=endpoints_at(provider.url), models=[OPUS | {"prices": [PRICES]}])


def answer(protocol: str, told: dict[str, Any], *, stream: bool = False) -> Script:
    """An answer that tells on which terms it was served."""
    usage = {"input_tokens": 9, "output_tokens": 7, **told}
    body = (
        anthropic_message(usage)
        if protocol == "anthropic"
        else openai_completion({"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}, **told)
    )
    pieces = (
        anthropic_stream({**usage, "output_tokens": 1}, {"output_tokens": 7})
        if protocol == "anthropic"
        else openai_stream({"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}, **told)
    )

    async def script(_: Received, wire: Wire) -> None:
        await (wire.stream(pieces) if stream else wire.whole(body))

    return script


async def ask(client: Client, protocol: str, **fields: Any) -> tuple[int, Any]:
    async with client.post(PATHS[protocol], data=json.dumps(ASK | fields).encode()) as answered:
        body = await answered.read()
        return answered.status, body if fields.get("stream") else json.loads(body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("protocol", "asked", "told", "terms", "dollars", "flags"),
    [
        ("openai", {}, {"service_tier": "default"}, "", STANDARD, []),
        ("openai", {"service_tier": "priority"}, {}, "service_tier=priority", PRIORITY, []),
        *(
            (protocol, {"service_tier": "priority"}, {"service_tier": tier}, terms, dollars, [])
            for protocol in PATHS
            for tier, terms, dollars in (("priority", "service_tier=priority", PRIORITY), ("default", "", STANDARD))
        ),
        ("openai", {"service_tier": "auto"}, {"service_tier": "priority"}, "service_tier=priority", PRIORITY, []),
        ("openai", {}, {"service_tier": "flex"}, "service_tier=flex", STANDARD, ["service_tier_flex"]),
        ("openai", {"speed": "fast"}, {"service_tier": "default"}, "speed=fast", FAST, []),  # a gateway passes it on
        ("anthropic", {"speed": "fast"}, {"speed": "fast"}, "speed=fast", FAST, []),
        ("anthropic", {"speed": "fast"}, {"speed": "standard"}, "", STANDARD, []),
        ("anthropic", {"inference_geo": "us"}, {"inference_geo": "us"}, "inference_geo=us", US, []),
        (
            "anthropic",
            {"speed": "fast"},
            {"speed": "fast", "inference_geo": "us", "service_tier": "standard"},
            "inference_geo=us,speed=fast",
            FAST_US,
            [],
        ),
        ("anthropic", {}, {"inference_geo": "eu"}, "inference_geo=eu", STANDARD, ["inference_geo_other"]),
    ],
)
async def test_a_request_is_priced_as_it_was_served(
    gateway: Running,
    provider: Provider,
    client: Client,
    protocol: str,
    asked: dict[str, str],
    told: dict[str, Any],
    terms: str,
    dollars: tuple[float, float],
    flags: list[str],
    stream: bool,
) -> None:
    provider.script = answer(protocol, told, stream=stream)
    status, _ = await ask(client, protocol, stream=stream, **asked)
    assert status == 200
    assert json.loads(provider.last.body).items() >= asked.items(), "it is passed on as it was asked for"
    (row,) = await gateway.rows()
    assert (row["terms"], row["cost_nanodollars"], row["flags"]) == (terms, cost(dollars), flags)
    assert (row["settlement"], float(row["prices"]["output"])) == ("exact", dollars[1])
    assert row["cost_nanodollars"] <= row["hold_nanodollars"]


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize(
    ("asked", "named", "remedy"),
    [
        ({"service_tier": "flex"}, "service_tier: 'flex'", "Leave service_tier out."),
        ({"service_tier": "Priority"}, "service_tier: 'Priority'", "Leave service_tier out."),
        ({"inference_geo": "eu"}, "inference_geo: 'eu'", "Leave inference_geo out."),
        ({"speed": "fast", "inference_geo": "eu"}, "'eu'", "Leave inference_geo and speed out."),
        (
            {"speed": "fast", "service_tier": "priority"},
            "service_tier: 'priority' with speed: 'fast'",
            "Leave service_tier and speed out.",
        ),
        ({"service_tier": "priority,speed=fast"}, "service_tier: 'priority,speed=fast'", "Leave service_tier out."),
        ({"service_tier": "x" * 1000}, f"service_tier: '{'x' * 100}…'", "Leave service_tier out."),
        ({"service_tier": 1}, "service_tier: this field must be a string.", ""),
        ({"extra_body": {"speed": "fast"}}, "extra_body.speed: this field must stand at the top level", ""),
    ],
)
async def test_what_has_no_price_is_refused(
    gateway: Running, provider: Provider, client: Client, protocol: str, asked: dict[str, Any], named: str, remedy: str
) -> None:
    before = await gateway.backend.get("wallets", account="alice")
    status, body = await ask(client, protocol, **asked)
    error = body["error"]
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert named in error["message"]
    assert remedy in error["message"]
    if remedy:
        assert "has no price for claude-opus-4-5-20251101 here" in error["message"]
        assert "service_tier=priority; inference_geo=us; speed=fast; inference_geo=us,speed=fast." in error["message"]
    assert provider.received == []
    assert gateway.books.standing.held == 0
    assert await gateway.backend.get("wallets", account="alice") == before
    assert await gateway.rows() == []


async def test_without_prices_for_terms_only_the_standard_is_served(
    provider: Provider, keys: Path, client_of: Any
) -> None:
    document = config_document(endpoints=endpoints_at(provider.url))
    async with running_gateway(document, keys) as gateway, client_of(gateway) as client:
        status, body = await ask(client, "anthropic", speed="fast")
        assert (status, body["error"]["message"].rpartition(". ")[2]) == (400, "What has a price: the standard.")
        for standard in ({"service_tier": "auto"}, {"service_tier": "standard_only", "speed": None}, FIXED):
            assert (await ask(client, "anthropic", **standard))[0] == 200
        provider.script = answer("anthropic", {"service_tier": "priority"})  # of capacity that was bought
        await ask(client, "anthropic")
        *others, bought = sorted(await gateway.rows(), key=lambda row: str(row["terms"]))
    assert {(row["terms"], *row["flags"]) for row in others} == {("",)}
    assert (bought["terms"], bought["flags"]) == ("service_tier=priority", ["service_tier_priority"])
    assert bought["prices"] == others[0]["prices"]


@pytest.mark.parametrize(
    ("asked", "dollars"),
    [
        (FIXED, STANDARD),
        ({"service_tier": "default"}, US),
        ({"inference_geo": "global"}, PRIORITY),
        ({}, PRIORITY),
        ({"service_tier": "priority"} | {"inference_geo": "global"}, PRIORITY),
        (FIXED | {"speed": "fast"}, FAST),
        ({"speed": "fast"}, FAST_US),
    ],
)
async def test_the_hold_covers_what_can_come_of_it(
    gateway: Running, client: Client, asked: dict[str, str], dollars: tuple[float, float]
) -> None:
    await ask(client, "anthropic", **asked)
    (row,) = await gateway.rows()
    assert row["hold_nanodollars"] == cost(dollars, prompt=len(json.dumps(ASK | asked)), output=100)


async def test_counting_tokens_costs_nothing_on_any_terms(gateway: Running, provider: Provider, client: Client) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole({"input_tokens": 9})

    provider.script = script
    async with client.post("v1/messages/count_tokens", data=json.dumps(ASK | {"speed": "slow"}).encode()) as answered:
        assert answered.status == 200
    assert await gateway.rows() == []


async def test_an_answer_that_breaks_off_is_priced_as_far_as_it_told(
    gateway: Running, provider: Provider, client: Client
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(message_start({"input_tokens": 9, "output_tokens": 1, "speed": "fast"}))
        wire.hang_up()

    provider.script = script
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(client, "anthropic", speed="fast", stream=True)
    (row,) = await gateway.rows()
    assert (row["settlement"], row["terms"]) == ("estimated", "speed=fast")
    assert row["cost_nanodollars"] == cost(FAST, output=1)


async def test_what_a_running_answer_tells_is_noted(
    gateway: Running, provider: Provider, client: Client, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """For a crash, after which it is charged by that (test_books.py)."""
    noted: list[str] = []
    monkeypatch.setattr(gateway.books, "progress", lambda _id, _usage, terms: noted.append(terms))
    release = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        start, *rest = anthropic_stream(
            {"input_tokens": 9, "output_tokens": 1, "inference_geo": "us"}, {"output_tokens": 7}
        )
        await wire.begin_stream()
        await wire.chunk(start)
        await release.wait()
        await wire.chunk(b"".join(rest))
        await wire.end_stream()

    provider.script = script
    asking = asyncio.create_task(ask(client, "anthropic", speed="fast", stream=True))
    await eventually(lambda: noted == ["inference_geo=us,speed=fast"])
    release.set()
    await asking


@pytest.fixture
def client_of() -> Any:
    def opened(gateway: Running) -> Client:
        return Client(base_url=gateway.url + "/", headers={"x-api-key": ALICE})

    return opened
