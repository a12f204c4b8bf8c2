"""Event streams: byte for byte, each event at once, whatever way the provider slices them."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Lines
from tests.gateway import Running, chain
from tests.provider import ANTHROPIC_EVENTS, OPENAI_EVENTS, Provider, Received, Wire
from tests.raw import connected

ASK = {"model": "claude-opus-4-5-20251101", "stream": True, "max_tokens": 9, "messages": []}
STREAM = b"".join(ANTHROPIC_EVENTS)
ODD = (
    b"\xef\xbb\xbf: a comment\r\n\r\n",
    b"event: of_the_future\rdata: {not json}\r\r",
    b'data: "' + b"x" * 100_000 + b'"\n\n',
    b"data: a\ndata: b\nid: 7\nretry: 1\n\n",
    b"\x00\xff\xfe\n\n",
    b"data: no end",
)


def sliced(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(ANTHROPIC_EVENTS, id="events"),
        pytest.param(sliced(STREAM, 1), id="bytes"),
        pytest.param(sliced(STREAM, 13), id="thirteens"),
        pytest.param([STREAM], id="one"),
        pytest.param([b"".join(OPENAI_EVENTS)], id="openai"),
        pytest.param(ODD, id="odd"),
        pytest.param([], id="nothing"),
    ],
)
async def test_a_stream_arrives_byte_for_byte(
    client: aiohttp.ClientSession, provider: Provider, lines: Lines, pieces: list[bytes]
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.stream(pieces)

    provider.script = script
    async with client.post("v1/messages", json=ASK) as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert await answer.read() == b"".join(pieces)
    assert ((await lines.request())["outcome"], (await lines.request())["stream"]) == ("ok", True)
    assert (await lines.request())["bytes_out"] == len(b"".join(pieces))


def test_any_slicing_into_segments_arrives_byte_for_byte(keys: Path) -> None:
    """The slices cut through chunk headers, too: they are slices of the bytes on the wire."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in ANTHROPIC_EVENTS) + b"0\r\n\r\n"

    with chain(keys) as running:

        @given(st.lists(st.integers(1, len(framed) - 1), unique=True, max_size=12).map(sorted))
        def holds(cuts: list[int]) -> None:
            async def script(_: Received, wire: Wire) -> None:
                await wire.begin_stream()
                for start, end in itertools.pairwise([0, *cuts, len(framed)]):
                    await wire.send(framed[start:end])
                    await asyncio.sleep(0.0005)

            assert running.ask(json.dumps(ASK).encode(), script) == STREAM

        holds()


async def test_each_event_arrives_before_the_next_is_sent(gateway: Running, provider: Provider) -> None:
    taken = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        for event in ANTHROPIC_EVENTS:
            await wire.chunk(event)
            await asyncio.wait_for(taken.wait(), 30)  # nothing more before the client has this one
            taken.clear()
        await wire.end_stream()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        for event in ANTHROPIC_EVENTS:
            assert await raw.chunk() == event
            taken.set()
        assert await raw.chunk() == b""


async def test_the_head_arrives_before_the_first_event(gateway: Running, provider: Provider) -> None:
    seen = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await asyncio.wait_for(seen.wait(), 30)
        await wire.chunk(STREAM)
        await wire.end_stream()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.head())[0] == 200
        seen.set()
        assert await raw.chunk() == STREAM


async def test_streams_do_not_wait_for_each_other(client: aiohttp.ClientSession, provider: Provider) -> None:
    together = asyncio.Barrier(60)

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await asyncio.wait_for(together.wait(), 30)
        await wire.chunk(STREAM)
        await wire.end_stream()

    async def one() -> bytes:
        async with client.post("v1/messages", json=ASK) as answer:
            return await answer.read()

    provider.script = script
    assert await asyncio.gather(*(one() for _ in range(60))) == [STREAM] * 60


async def test_a_whole_answer_has_no_stream_header(client: aiohttp.ClientSession) -> None:
    async with client.post("v1/messages", json=ASK) as answer:
        assert "X-Accel-Buffering" not in answer.headers


async def test_the_metrics_count_streams_while_they_run(
    gateway: Running, client: aiohttp.ClientSession, provider: Provider
) -> None:
    go_on = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await go_on.wait()
        await wire.end_stream()

    async def metrics() -> str:
        async with client.get("metrics", headers={"x-api-key": ""}) as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            return await answer.text()

    provider.script = script
    async with client.post("v1/messages", json=ASK) as answer:
        assert 'goproxy_streams_in_flight{upstream="openhands"} 1.0\n' in await metrics()
        go_on.set()
        await answer.read()
    await gateway.rows()
    text = await metrics()
    assert 'goproxy_streams_in_flight{upstream="openhands"} 0.0\n' in text
    assert 'goproxy_requests_total{outcome="ok",protocol="anthropic",status="200",upstream="openhands"} 1.0\n' in text
