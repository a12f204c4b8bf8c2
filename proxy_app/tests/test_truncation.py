"""An answer that breaks off at the upstream breaks off at the client, after every byte that did arrive."""

from __future__ import annotations

import asyncio

import pytest

from goproxy.core.ledger import BYTES_PER_TOKEN
from tests.conftest import Lines
from tests.gateway import Running
from tests.provider import ANTHROPIC_EVENTS, Provider, Received, Wire
from tests.raw import connected

ASK = {"model": "claude-opus-4-5-20251101", "stream": True}
FRAMED = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in ANTHROPIC_EVENTS[1:3]) + b"0\r\n\r\n"


def arrived(framed: bytes) -> bytes:
    """The part of a chunked body that `framed` holds."""
    data = b""
    while b"\r\n" in framed:
        size, _, rest = framed.partition(b"\r\n")
        data += rest[: int(size, 16)]
        framed = rest[int(size, 16) + 2 :]
    return data


async def test_a_stream_cut_at_every_byte(gateway: Running, provider: Provider, lines: Lines) -> None:
    cut = 0

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.send(FRAMED[:cut])
        wire.hang_up()

    provider.script = script
    for cut in range(len(FRAMED)):
        async with connected(gateway.port) as raw:
            await raw.post(ASK)
            await raw.head()
            assert await raw.chunks_until_broken() == arrived(FRAMED[:cut])
    assert {line["outcome"] for line in lines.all("request")} == {"upstream_truncated"}


async def test_a_reset_stream_is_broken_too(gateway: Running, provider: Provider) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(ANTHROPIC_EVENTS[0])
        await asyncio.sleep(0.05)
        wire.reset()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert await raw.chunks_until_broken() == ANTHROPIC_EVENTS[0]


async def test_an_answer_shorter_than_its_length(gateway: Running, provider: Provider, lines: Lines) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.head(200, ("Content-Type", "application/json"), ("Content-Length", "10"))
        await wire.send(b"12345")
        wire.hang_up()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.head())[1]["content-length"] == "10"
        assert await raw.reader.read() == b"12345"
    assert (await lines.request())["outcome"] == "upstream_truncated"


async def test_chunks_that_are_framed_wrongly(gateway: Running, provider: Provider, lines: Lines) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(ANTHROPIC_EVENTS[0])
        await asyncio.sleep(0.05)
        await wire.send(b"zz\r\n")
        await wire.until_closed()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert await raw.chunks_until_broken() == ANTHROPIC_EVENTS[0]
    assert (await lines.request())["outcome"] == "upstream_truncated"


async def test_what_came_together_with_wrong_framing_arrives_and_counts(gateway: Running, provider: Provider) -> None:
    words = b"x" * 400
    content = ANTHROPIC_EVENTS[0] + ANTHROPIC_EVENTS[3].replace(b"Gr\xc3\xbc\xc3\x9fe ", words)
    assert words in content

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.send(b"%x\r\n%b\r\nZZ\r\n" % (len(content), content))
        await wire.until_closed()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert await raw.chunks_until_broken() == content
    (row,) = await gateway.rows()
    assert (row["settlement"], row["outcome"]) == ("estimated", "upstream_truncated")
    assert row["flags"] == ["output_estimated"]
    assert row["usage"]["output"] == len(words) // BYTES_PER_TOKEN


async def test_what_waited_for_a_slow_client_when_the_upstream_broke_off_still_arrives(
    gateway: Running, provider: Provider, lines: Lines
) -> None:
    chunks = [b"data: " + b"x" * 65536 + b"\n\n"] * 300
    broke_off = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        for chunk in chunks:
            await wire.chunk(chunk)
        wire.hang_up()
        broke_off.set()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        await asyncio.sleep(0.1)
        assert not lines.all("request")
        assert await raw.chunks_until_broken() == b"".join(chunks)
        assert broke_off.is_set()
    assert (await lines.request())["outcome"] == "upstream_truncated"


async def test_an_http_1_0_client_gets_a_reset_instead_of_an_end(gateway: Running, provider: Provider) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(ANTHROPIC_EVENTS[0])
        await asyncio.sleep(0.05)
        wire.hang_up()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK, version="1.0")
        await raw.head()
        assert await raw.reader.readexactly(len(ANTHROPIC_EVENTS[0])) == ANTHROPIC_EVENTS[0]
        with pytest.raises(ConnectionResetError):
            await raw.reader.read()
