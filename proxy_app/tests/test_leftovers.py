"""What a request leaves behind is freed with the last reference to it, and waits for no garbage collector.

The collector runs rarely (server.py), and a body may have many megabytes: no way in which a request ends may leave a
cycle that holds one.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from goproxy.data_plane.admission import Admitted
from goproxy.data_plane.bodies import Body
from goproxy.data_plane.client import Client
from goproxy.data_plane.exchange import Exchange
from goproxy.data_plane.upstream_connection import Answer
from goproxy.observe import RequestRecord
from tests.gateway import Running, config_document, endpoints_at, running_gateway
from tests.provider import ANTHROPIC_EVENTS, ANTHROPIC_MESSAGE, Provider, Received, Script, Wire
from tests.raw import RawClient, connected

ASK = {"model": "claude-opus-4-5-20251101", "stream": True, "max_tokens": 10}
IMPATIENT = {"connect": 1, "first_byte": 1, "idle": 1, "total": 10}


@pytest.fixture
def document(provider: Provider) -> dict[str, Any]:
    return config_document(endpoints=endpoints_at(provider.url), timeouts=IMPATIENT)


@pytest.fixture(autouse=True)
async def no_collector() -> AsyncIterator[None]:
    """It does not run meanwhile, and what tests before this one have left, a million objects, is not looked at."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def of_requests() -> list[object]:
    """What is there of requests."""
    kinds = RequestRecord | Admitted | Body | Exchange | Answer | Client
    return [each for each in gc.get_objects() if isinstance(each, kinds)]


async def streams(_: Received, wire: Wire) -> None:
    await wire.stream(ANTHROPIC_EVENTS)


async def tells_json(_: Received, wire: Wire) -> None:
    await wire.whole(ANTHROPIC_MESSAGE)


async def leaves(_: Received, __: Wire) -> None:
    pass


async def talks_nonsense(_: Received, wire: Wire) -> None:
    await wire.send(b"HELLO\r\n\r\n")


async def is_silent(_: Received, wire: Wire) -> None:
    await wire.until_closed()


async def stalls(_: Received, wire: Wire) -> None:
    await wire.begin_stream()
    await wire.chunk(ANTHROPIC_EVENTS[0])
    await wire.until_closed()


async def pauses(_: Received, wire: Wire) -> None:
    await wire.stream(ANTHROPIC_EVENTS, pause=0.02)


async def breaks_off(_: Received, wire: Wire) -> None:
    await wire.begin_stream()
    await wire.chunk(ANTHROPIC_EVENTS[0])


def answers(status: int) -> Script:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole({"type": "error", "error": {"type": "x", "message": "y"}}, status)

    return script


async def waits(raw: RawClient) -> None:
    """For all of an answer, whole or broken."""
    with suppress(ConnectionError):
        while await raw.reader.read(65536):
            pass


async def leaves_at_once(raw: RawClient) -> None:
    await asyncio.sleep(0.1)
    raw.reset()


async def leaves_in_the_middle(raw: RawClient) -> None:
    await raw.reader.readuntil(b"event: message_start")
    raw.reset()


@pytest.mark.parametrize("lane", ["fast", "aiohttp"])
@pytest.mark.parametrize(
    ("script", "body", "then"),
    [
        (streams, ASK, waits),
        (tells_json, ASK | {"stream": False}, waits),
        (leaves, ASK, waits),
        (talks_nonsense, ASK, waits),
        (is_silent, ASK, waits),
        (stalls, ASK, waits),
        (breaks_off, ASK, waits),
        (answers(401), ASK, waits),
        (answers(302), ASK, waits),
        (answers(529), ASK, waits),
        (is_silent, ASK, leaves_at_once),
        (pauses, ASK, leaves_in_the_middle),
        (streams, ASK | {"model": "unknown"}, waits),
        (streams, b'{"model": 7', waits),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
async def test_a_request_is_freed_however_it_ends(
    gateway: Running,
    provider: Provider,
    lane: str,
    script: Script,
    body: bytes | dict[str, Any],
    then: Callable[[RawClient], Awaitable[None]],
) -> None:
    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(body, "/v1/messages", "Connection: close", version="1.1" if lane == "fast" else "1.0")
        await then(raw)
    await until_freed()


async def until_freed() -> None:
    """Raises TimeoutError if something of a request stays."""
    async with asyncio.timeout(30):
        while left := of_requests():
            print("still there:", *left)
            del left
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("lane", ["fast", "aiohttp"])
async def test_a_request_is_freed_that_is_left_before_the_upstream_has_a_connection(keys: Path, lane: str) -> None:
    """Of an upstream that accepts, and shakes no hands. Its body would count as one that is being sent."""

    async def shakes_no_hands(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.append(writer)

    waiting: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(shakes_no_hands, "127.0.0.1")
    endpoints = endpoints_at(f"https://localhost:{server.sockets[0].getsockname()[1]}")
    async with running_gateway(config_document(endpoints=endpoints), keys) as gateway:
        async with connected(gateway.port) as raw:
            await raw.post(ASK, version="1.1" if lane == "fast" else "1.0")
            async with asyncio.timeout(10):
                while not waiting:
                    await asyncio.sleep(0.01)
            raw.reset()
        await until_freed()
        assert gateway.gateway.bodies.bytes == 0
    for writer in waiting:
        writer.close()
    server.close()
