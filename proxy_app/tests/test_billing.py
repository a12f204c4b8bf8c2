"""What is charged: each answer through a proxy and a backend, down to the nano-dollar, however it ended."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from goproxy.core.protocols import PROTOCOLS
from goproxy.core.usage import Usage
from goproxy.data_plane.decoding import Decoded
from goproxy.data_plane.upstream_connection import UpstreamConnection
from goproxy.data_plane.upstream_pool import UpstreamPool
from tests.conftest import Lines
from tests.gateway import ALICE, OPUS, UPSTREAM_SECRET, Running, running_gateway
from tests.provider import Provider, Received, Script, Wire
from tests.raw import RawClient, connected
from tests.streams import (
    ANSWERS,
    DONE,
    GENERATED,
    MESSAGE_STOP,
    OVERLOADED,
    Answer,
    anthropic_message,
    anthropic_stream,
    message_delta,
    message_start,
    openai_chunk,
    openai_completion,
    openai_content,
    openai_stream,
    openai_usage,
    text_block,
)

Client = aiohttp.ClientSession
Row = dict[str, Any]

PATHS = {"anthropic": "v1/messages", "openai": "v1/chat/completions", "responses": "v1/responses"}
ASK = {
    "model": "claude-opus-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Why is the sky blue? " * 100}],
    "stream": True,
}
GEMINI = OPUS | {
    "name": "Gemini 3 Pro Preview",
    "id": "gemini-3-pro-preview",
    "id_aliases": ["gemini-3-pro"],
    "upstream_model_id": "gemini/gemini-3-pro",
    "billing_multiplier": 1.06,
    "context_tokens": 1000000,
    "prices": [
        {
            "effective_from": "2025-11-18",
            "tiers": [
                {"up_to_prompt_tokens": 200000, "input": 2, "output": 12, "cache_read": 0.20},
                {"up_to_prompt_tokens": None, "input": 4, "output": 18, "cache_read": 0.40},
            ],
        }
    ],
}


def opus(usage: Usage) -> int:
    """What it costs: a dollar per million tokens is 1,000 nano-dollars per token, and 1.08 is the multiplier."""
    return (
        5400 * usage.input
        + 6750 * usage.cache_write_5m
        + 10800 * usage.cache_write_1h
        + 540 * usage.cache_read
        + 27000 * usage.output
    )


def tokens(row: Row) -> Usage:
    return Usage.from_json(row["usage"])


def answering(*pieces: bytes, stream: bool = True) -> Script:
    async def script(_: Received, wire: Wire) -> None:
        if stream:
            await wire.stream(pieces)
        else:
            await wire.whole(b"".join(pieces), 200, ("request-id", "req_upstream"))

    return script


class Answered(NamedTuple):
    id: str
    body: bytes


async def ask(client: Client, protocol: str = "anthropic", **changes: Any) -> Answered:
    """Ask, and read the whole answer."""
    async with client.post(PATHS[protocol], data=json.dumps(ASK | changes).encode()) as answer:
        assert answer.status == 200, await answer.text()
        return Answered(answer.headers["X-Request-Id"], await answer.read())


async def rows_of(gateway: Running, count: int) -> dict[str, Row]:
    """The rows by the ids that clients were told, once there are so many."""
    rows: list[Row] = []
    async with asyncio.timeout(30):
        while len(rows) < count:
            await asyncio.sleep(0.01)
            rows = await gateway.rows()
    assert len(rows) == count
    return {row["id"]: row for row in rows}


async def only_row(gateway: Running) -> Row:
    return (await rows_of(gateway, 1)).popitem()[1]


# Complete answers.


def expected(answer: Answer, row: Row) -> tuple[str, Usage]:
    """How an answer is settled that came to an end: by the provider's last word, or by the rules of an estimate."""
    if answer.exact:
        assert answer.usage is not None
        return "exact", answer.usage
    if answer.error:
        return "upstream_error", answer.usage or Usage()
    told = answer.usage or Usage()
    if not told.prompt:
        told = replace(told, input=-(-row["estimated_input_tokens"] // 4))
    return "estimated", Usage(
        *(told.input, told.cache_write_5m, told.cache_write_1h, told.cache_read),
        output=max(told.output, -(-answer.generated_bytes // 4)),
    )


CHUNKED = ("Transfer-Encoding", "chunked")


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZip, identity", lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
    ],
    ids=["gzip", "gzip twice", "deflate", "raw deflate", "identity"],
)
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_in_a_content_encoding_is_read_and_passes_as_it_is(
    gateway: Running, provider: Provider, client: Client, coding: str, pack: Callable[[bytes], bytes], is_stream: bool
) -> None:
    usage = openai_usage(9, 700)
    packed = pack(b"".join(openai_stream(usage)) if is_stream else openai_completion(usage))

    async def script(_: Received, wire: Wire) -> None:
        content_type = "text/event-stream" if is_stream else "application/json"
        await wire.head(200, ("Content-Type", content_type), ("Content-Encoding", coding), CHUNKED)
        for at in range(0, len(packed), 40):
            await wire.chunk(packed[at : at + 40])
        await wire.end_stream()

    provider.script = script
    wish = {"stream_options": {"include_usage": coding == "identity"}}  # else the chunk would be taken out
    answered = await ask(client, "openai", stream=is_stream, **wish)
    assert answered.body == packed
    row = await only_row(gateway)
    assert (row["settlement"], row["flags"], tokens(row)) == ("exact", [], Usage(input=9, output=700))
    assert row["answered_bytes"] == len(packed)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("compress", b"x" * 500),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}"))),
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(b" " * 2**26)),
    ],
    ids=["unknown", "two", "broken", "bomb"],
)
async def test_an_answer_in_a_coding_that_cannot_be_read_is_estimated(
    gateway: Running, provider: Provider, client: Client, lines: Lines, coding: str, body: bytes
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(body, 200, ("Content-Encoding", coding))

    provider.script = script
    for _ in range(2):
        assert (await ask(client, stream=False)).body == body
    for row in (await rows_of(gateway, 2)).values():
        assert row["settlement"] == "estimated"
        assert {"undecoded_body", "input_estimated"} <= {*row["flags"]}
        assert tokens(row) == Usage(input=-(-row["estimated_input_tokens"] // 4))
        assert row["answered_bytes"] == len(body)
    assert len(lines.all("answer cannot be decoded")) == 1


def test_what_a_coded_answer_says_is_unpacked_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few bytes that unpack to as many as one likes, no more is in memory at once than of others."""
    meter, pieces = PROTOCOLS["openai"].meter(stream=True), list[int]()
    monkeypatch.setattr(meter, "feed", lambda data: pieces.append(len(data)))
    decoded = Decoded(meter, "gzip")
    decoded.feed(gzip.compress(b" " * 2**20))
    assert sum(pieces) == 2**20
    assert max(pieces) <= 2**17


async def test_every_shape_of_answer_is_charged_to_the_nanodollar(
    gateway: Running, provider: Provider, client: Client
) -> None:
    ids = []
    for answer in ANSWERS:
        provider.script = answering(*answer.pieces, stream=answer.stream)
        ids.append((await ask(client, answer.protocol, stream=answer.stream)).id)
    rows = await rows_of(gateway, len(ANSWERS))
    for answer, row in zip(ANSWERS, map(rows.get, ids), strict=True):
        assert row is not None
        settlement, usage = expected(answer, row)
        assert (row["settlement"], tokens(row), row["cost_nanodollars"]) == (settlement, usage, opus(usage)), answer
        flags = {*answer.flags, *answer.unpriced}
        assert flags <= {*row["flags"]} <= {*flags, "input_estimated", "output_estimated"}, answer
        assert row["received_bytes"] <= row["answered_bytes"] == len(answer.body), answer
    (wallet,) = (await gateway.backend.get("wallets", account="alice"))["wallets"]
    assert wallet["spent_nanodollars"] == sum(row["cost_nanodollars"] for row in rows.values())
    assert wallet["credits_nanodollars"] == sum(wallet[f"{part}_nanodollars"] for part in ("balance", "held", "spent"))


async def test_a_row_says_whose_request_it_was_and_what_its_price_was_made_of(
    gateway: Running, provider: Provider, client: Client
) -> None:
    usage = {"input_tokens": 9, "output_tokens": 7, "cache_read_input_tokens": 3}
    provider.script = answering(anthropic_message(usage), stream=False)
    async with client.post("v1/messages", data=json.dumps(ASK | {"stream": False}).encode()) as answer:
        request_id, body = answer.headers["X-Request-Id"], await answer.read()
    row = await only_row(gateway)
    (key,) = (await gateway.backend.get("keys", account="alice"))["keys"]
    assert row["cost_nanodollars"] == 9 * 5400 + 3 * 540 + 7 * 27000 == 239_220
    assert {name: row[name] for name in ("id", "account", "key_id", "wallets", "raw_usage")} == {
        "id": request_id,
        "account": "alice",
        "key_id": key["id"],
        "wallets": ["alice"],
        "raw_usage": usage,
    }
    assert {name: row[name] for name in ("upstream", "endpoint", "protocol", "model", "stream", "status")} == {
        "upstream": "openhands",
        "endpoint": "openhands-anthropic",
        "protocol": "anthropic",
        "model": "claude-opus-4-5-20251101",
        "stream": False,
        "status": 200,
    }
    assert (row["price_version"], row["multiplier"], row["tier_up_to"]) == ("2025-11-24", "1.08", None)
    assert row["prices"] | {"input": "5", "output": "25", "cache_read": "0.5"} == row["prices"]
    assert (row["upstream_request_id"], row["upstream_model"]) == ("req_upstream", "claude-opus-4-5-20251101")
    assert row["received_bytes"] == row["answered_bytes"] == len(body)
    # The body's bytes at the dearest kind of input, and max_tokens.
    assert row["hold_nanodollars"] == len(json.dumps(ASK | {"stream": False})) * 10800 + 100 * 27000


@pytest.mark.parametrize(
    ("prompt", "tier", "cost"),
    [
        (200_000, 200_000, (199_000 * 200 + 1_000 * 20 + 7 * 1200) * 106 // 10),
        (200_001, None, (199_001 * 400 + 1_000 * 40 + 7 * 1800) * 106 // 10),
    ],
)
async def test_the_length_of_the_prompt_and_the_multiplier_of_the_model_decide_by_any_of_its_names(
    document: dict[str, Any], keys: Path, provider: Provider, prompt: int, tier: int | None, cost: int
) -> None:
    usage = openai_usage(prompt, 7, prompt_tokens_details={"cached_tokens": 1000})
    provider.script = answering(*openai_stream(usage))
    image = {"type": "image_url", "image_url": {"url": "https://example.org/large.png"}}  # the hold is the context
    async with (
        running_gateway(document | {"models": [OPUS, GEMINI]}, keys) as gateway,
        Client(base_url=gateway.url + "/", headers={"x-api-key": ALICE}) as client,
    ):
        for name in ("gemini-3-pro-preview", "gemini-3-pro"):
            await ask(client, "openai", model=name, messages=[{"role": "user", "content": [image]}])
        rows = await rows_of(gateway, 2)
    assert [json.loads(each.body)["model"] for each in provider.received] == ["gemini/gemini-3-pro"] * 2
    for row in rows.values():
        assert (row["model"], row["multiplier"], row["tier_up_to"]) == ("gemini-3-pro-preview", "1.06", tier)
        assert (row["cost_nanodollars"], row["flags"]) == (cost, [])


# The usage of OpenAI streams.

USAGE_CHUNK = openai_chunk(usage=openai_usage(9, 7))


async def generous(request: Received, wire: Wire) -> None:
    """A provider that tells the usage of a stream to whom asked for it."""
    asked = json.loads(request.body).get("stream_options", {}).get("include_usage")
    events = (*openai_content(), USAGE_CHUNK, DONE) if asked else (*openai_content(), DONE)
    await wire.stream(events)


async def test_usage_is_asked_for_and_its_chunk_withheld_from_a_client_that_did_not_ask(
    gateway: Running, provider: Provider, client: Client
) -> None:
    provider.script = generous
    body = b'{ "model":"claude-opus-4-5-20251101" ,\n "stream" : true, "messages":[], "max_tokens": 20}\n'
    async with client.post(PATHS["openai"], data=body) as answer:
        got = await answer.read()
    asked = b',"stream_options":{"include_usage":true}'
    assert provider.last.body == body.replace(b' ,\n "stream"', asked + b' ,\n "stream"')
    assert got == b"".join((*openai_content(), DONE))
    row = await only_row(gateway)
    assert (row["settlement"], row["cost_nanodollars"]) == ("exact", 9 * 5400 + 7 * 27000)
    assert row["answered_bytes"] - row["received_bytes"] == len(USAGE_CHUNK)


async def test_a_usage_chunk_that_comes_byte_by_byte_is_withheld_too(
    gateway: Running, provider: Provider, client: Client
) -> None:
    whole = b"".join((*openai_content(), USAGE_CHUNK, DONE))
    provider.script = answering(*(whole[at : at + 1] for at in range(len(whole))))
    assert (await ask(client, "openai")).body == whole.replace(USAGE_CHUNK, b"")


async def test_a_client_that_asks_for_usage_gets_it_and_nothing_is_changed(
    gateway: Running, provider: Provider, client: Client
) -> None:
    provider.script = generous
    body = json.dumps(ASK | {"model": OPUS["id"], "stream_options": {"include_usage": True}}, indent=1).encode()
    async with client.post(PATHS["openai"], data=body) as answer:
        assert await answer.read() == b"".join((*openai_content(), USAGE_CHUNK, DONE))
    assert provider.last.body == body
    assert (await only_row(gateway))["settlement"] == "exact"


async def test_an_upstream_that_must_not_be_asked_for_usage_is_not(
    document: dict[str, Any], keys: Path, provider: Provider
) -> None:
    provider.script = generous
    body = json.dumps(ASK | {"model": OPUS["id"]}).encode()
    async with (
        running_gateway(document | {"include_usage": False}, keys) as gateway,
        Client(base_url=gateway.url + "/", headers={"x-api-key": ALICE}) as client,
        client.post(PATHS["openai"], data=body) as answer,
    ):
        assert await answer.read() == b"".join((*openai_content(), DONE))
        assert provider.last.body == body
        row = await only_row(gateway)
    assert (row["settlement"], row["flags"]) == (
        "estimated",
        ["final_usage_missing", "input_estimated", "output_estimated"],
    )


async def test_counting_tokens_is_not_charged(gateway: Running, provider: Provider, client: Client) -> None:
    provider.script = answering(b'{"input_tokens": 2095}', stream=False)
    async with client.post("v1/messages/count_tokens", data=json.dumps(ASK).encode()) as answer:
        assert await answer.json() == {"input_tokens": 2095}
    assert len(provider.received) == 1
    assert await gateway.rows() == []
    (wallet,) = (await gateway.backend.get("wallets", account="alice"))["wallets"]
    assert wallet["credits_nanodollars"] == wallet["balance_nanodollars"]


async def test_the_line_in_the_log_has_settlement_and_cost_and_no_secret(
    gateway: Running, provider: Provider, client: Client, lines: Lines
) -> None:
    provider.script = answering(*anthropic_stream({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 7}))
    await ask(client)
    row = await only_row(gateway)
    line = await lines.request()
    assert {name: line[name] for name in ("request_id", "outcome", "settlement", "cost_nanodollars", "tokens")} == {
        "request_id": row["id"],
        "outcome": "ok",
        "settlement": "exact",
        "cost_nanodollars": 9 * 5400 + 7 * 27000,
        "tokens": {"input": 9, "output": 7},
    }
    written = "".join(lines.text)
    for secret in (ALICE, UPSTREAM_SECRET, "sky blue", "proxy-token"):
        assert secret not in written


# Answers that end otherwise.

START = message_start({"input_tokens": 9, "output_tokens": 1})
BEGUN = (START, *text_block()[:-1])
FINAL = message_delta({"output_tokens": 700})
REST = (text_block()[-1], FINAL, MESSAGE_STOP)
SEEN = Usage(input=9, output=-(-GENERATED // 4))
"""What is charged of BEGUN: its content at four bytes a token."""


async def begin_and_leave(gateway: Running) -> None:
    """Ask, read BEGUN, and go; on return the proxy has noticed."""
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        got = b""
        while got != b"".join(BEGUN):
            got += await raw.chunk()
            assert b"".join(BEGUN).startswith(got)
        await leave(raw, gateway)


async def leave(raw: RawClient, gateway: Running) -> None:
    raw.reset()
    async with asyncio.timeout(30):
        while gateway.front.connections:
            await asyncio.sleep(0.005)


def in_two_parts(left: asyncio.Event) -> Script:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        for event in BEGUN:
            await wire.chunk(event)
        await left.wait()
        for event in REST:
            await wire.chunk(event)
        await wire.end_stream()

    return script


async def test_the_rest_is_read_for_the_count_when_the_client_has_left(gateway: Running, provider: Provider) -> None:
    left = asyncio.Event()
    provider.script = in_two_parts(left)
    await begin_and_leave(gateway)
    left.set()
    row = await only_row(gateway)
    assert (row["settlement"], row["outcome"], row["flags"]) == ("drained", "client_gone", [])
    assert (tokens(row), row["cost_nanodollars"]) == (Usage(input=9, output=700), 9 * 5400 + 700 * 27000)
    assert row["received_bytes"] == len(b"".join(BEGUN))
    assert row["answered_bytes"] == len(b"".join((*BEGUN, *REST)))


async def test_an_upstream_that_is_left_with_its_client_is_paid_by_estimate(
    document: dict[str, Any], keys: Path, provider: Provider
) -> None:
    provider.script = in_two_parts(asyncio.Event())
    async with running_gateway(document | {"disconnect": {"policy": "abort"}}, keys) as gateway:
        await begin_and_leave(gateway)
        row = await only_row(gateway)
    assert (row["settlement"], row["outcome"], row["flags"]) == ("estimated", "client_gone", ["output_estimated"])
    assert (tokens(row), row["cost_nanodollars"]) == (SEEN, opus(SEEN))
    assert row["received_bytes"] == row["answered_bytes"] == len(b"".join(BEGUN))


async def test_an_estimate_is_not_of_the_context_that_is_held_for(
    document: dict[str, Any], keys: Path, provider: Provider, eventually: Callable[..., Any]
) -> None:
    async def script(_: Received, __: Wire) -> None:
        await asyncio.Event().wait()

    provider.script = script
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/large.png"}}
    async with running_gateway(document | {"disconnect": {"policy": "abort"}}, keys) as gateway:
        async with connected(gateway.port) as raw:
            await raw.post(ASK | {"messages": [{"role": "user", "content": [image]}]})
            await eventually(lambda: bool(provider.received))
        row = await only_row(gateway)
    assert row["flags"] == ["input_estimated"]
    assert tokens(row).input < 3000
    assert row["hold_nanodollars"] > 100 * row["cost_nanodollars"]


@pytest.mark.parametrize("policy", ["drain", "abort"])
async def test_a_client_that_left_before_the_first_byte(
    document: dict[str, Any], keys: Path, provider: Provider, eventually: Callable[..., Any], policy: str
) -> None:
    left = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        await left.wait()
        await wire.stream((*BEGUN, *REST))

    provider.script = script
    async with running_gateway(document | {"disconnect": {"policy": policy}}, keys) as gateway:
        async with connected(gateway.port) as raw:
            await raw.post(ASK)
            await eventually(lambda: bool(provider.received))
            await leave(raw, gateway)
        if policy == "drain":
            left.set()
        row = await only_row(gateway)
    assert (row["outcome"], row["received_bytes"]) == ("client_gone", 0)
    if policy == "drain":
        assert (row["settlement"], row["cost_nanodollars"]) == ("drained", 9 * 5400 + 700 * 27000)
    else:
        guess = Usage(input=-(-row["estimated_input_tokens"] // 4))
        assert (row["settlement"], row["flags"], row["status"]) == ("estimated", ["input_estimated"], 0)
        assert (tokens(row), row["cost_nanodollars"]) == (guess, opus(guess))


async def test_what_is_drained_has_one_time_for_its_beginning_and_its_rest(
    document: dict[str, Any], keys: Path, provider: Provider, eventually: Callable[..., Any]
) -> None:
    left = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        await left.wait()
        await asyncio.sleep(1.5)
        await wire.begin_stream()
        for event in BEGUN:
            await wire.chunk(event)
        await asyncio.sleep(1)
        for event in REST:
            await wire.chunk(event)
        await wire.end_stream()

    provider.script = script
    async with running_gateway(document | {"disconnect": {"policy": "drain", "seconds": 2}}, keys) as gateway:
        async with connected(gateway.port) as raw:
            await raw.post(ASK)
            await eventually(lambda: bool(provider.received))
            await leave(raw, gateway)
        left.set()
        row = await only_row(gateway)
    assert (row["settlement"], row["outcome"]) == ("estimated", "client_gone")


@pytest.mark.parametrize("policy", ["drain", "abort"])
async def test_a_client_that_left_before_there_was_a_connection_pays_nothing(
    document: dict[str, Any],
    keys: Path,
    provider: Provider,
    lines: Lines,
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    """Nor is the request sent: nobody wants its answer."""
    asked, go_on, connect = asyncio.Event(), asyncio.Event(), UpstreamPool.connect

    async def connect_late(pool: UpstreamPool) -> UpstreamConnection:
        asked.set()
        await go_on.wait()
        return await connect(pool)

    monkeypatch.setattr(UpstreamPool, "connect", connect_late)
    async with running_gateway(document | {"disconnect": {"policy": policy}}, keys) as gateway:
        async with connected(gateway.port) as raw:
            await raw.post(ASK)
            await asked.wait()
            await leave(raw, gateway)
        go_on.set()
        await gateway.gateway.settler.settled()
        await eventually(lambda: gateway.books.standing.open_requests == 0)
        line = await lines.request()
        assert (line["status"], line["outcome"], "settlement" in line) == (499, "client_gone", False)
        assert (await gateway.rows(), gateway.books.standing.held, provider.received) == ([], 0, [])
        async with connected(gateway.port) as raw:  # and the proxy is none the worse for it
            await raw.post(ASK)
            await raw.head()
    assert len(provider.received) == 1


async def test_no_more_answers_are_drained_at_once_than_may_be(
    document: dict[str, Any], keys: Path, provider: Provider, eventually: Callable[..., Any]
) -> None:
    left = asyncio.Event()
    provider.script = in_two_parts(left)
    async with running_gateway(document | {"disconnect": {"policy": "drain", "concurrent": 1}}, keys) as gateway:
        await begin_and_leave(gateway)
        await begin_and_leave(gateway)
        await eventually(lambda: gateway.books.standing.open_requests == 1)
        left.set()
        rows = await rows_of(gateway, 2)
    assert sorted(row["settlement"] for row in rows.values()) == ["drained", "estimated"]


@pytest.mark.parametrize("protocol", PATHS)
async def test_an_upstream_that_fails_at_once_costs_nothing(
    gateway: Running, provider: Provider, client: Client, protocol: str
) -> None:
    async def overloaded(_: Received, wire: Wire) -> None:
        usage = {"input_tokens": 9, "output_tokens": 7, "prompt_tokens": 9, "completion_tokens": 7}
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "usage": usage}
        await wire.whole(error, 529)

    provider.script = overloaded
    async with client.post(PATHS[protocol], data=json.dumps(ASK).encode()) as answer:
        assert answer.status == 529
    row = await only_row(gateway)
    assert (row["settlement"], row["status"], row["cost_nanodollars"]) == ("upstream_error", 529, 0)


async def test_an_upstream_that_nobody_is_at_costs_nothing(gateway: Running, provider: Provider) -> None:
    async def hang_up(_: Received, wire: Wire) -> None:
        wire.reset()

    provider.script = hang_up
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.answer())[0] == 502
    row = await only_row(gateway)
    assert (row["settlement"], row["status"], row["cost_nanodollars"]) == ("upstream_error", 0, 0)


async def test_an_error_in_the_middle_costs_what_was_told_before_it(
    gateway: Running, provider: Provider, client: Client
) -> None:
    provider.script = answering(*BEGUN, OVERLOADED)
    assert (await ask(client)).body == b"".join((*BEGUN, OVERLOADED))
    row = await only_row(gateway)
    told = Usage(input=9, output=1)
    assert (row["settlement"], tokens(row), row["cost_nanodollars"]) == ("upstream_error", told, opus(told))


@pytest.mark.parametrize("is_reset", [False, True])
async def test_an_answer_that_breaks_off_is_estimated_and_one_with_its_usage_is_exact(
    gateway: Running, provider: Provider, is_reset: bool
) -> None:
    events: tuple[bytes, ...] = ()

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        for event in events:
            await wire.chunk(event)
        await asyncio.sleep(0.05)  # a reset takes with it what was not read by then
        wire.reset() if is_reset else wire.hang_up()

    provider.script = script
    ids = []
    for events in (BEGUN, (*BEGUN, FINAL), (*BEGUN, FINAL[:-1])):
        async with connected(gateway.port) as raw:
            await raw.post(ASK)
            ids.append((await raw.head())[1]["x-request-id"])
            assert await raw.chunks_until_broken() == b"".join(events)
    rows = await rows_of(gateway, 3)
    assert {row["outcome"] for row in rows.values()} == {"upstream_truncated"}
    assert [(rows[id_]["settlement"], tokens(rows[id_])) for id_ in ids] == [
        ("estimated", SEEN),
        ("exact", Usage(input=9, output=700)),
        ("estimated", SEEN),
    ]


async def test_an_answer_that_falls_silent_is_estimated(
    document: dict[str, Any], keys: Path, provider: Provider
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        for event in BEGUN:
            await wire.chunk(event)
        await wire.until_closed()

    provider.script = script
    timeouts = {"connect": 5, "first_byte": 5, "idle": 0.2, "total": 10}
    async with running_gateway(document | {"timeouts": timeouts}, keys) as gateway, connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        await raw.chunks_until_broken()
        row = await only_row(gateway)
    assert (row["outcome"], row["settlement"], tokens(row)) == ("upstream_stalled", "estimated", SEEN)
