"""What requests' bodies take of the memory: nothing once they are sent, and no more at once than there is room for."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from goproxy.config import parse_config
from goproxy.core.wire import Refusal
from goproxy.data_plane import upstream_pool
from goproxy.data_plane.bodies import Bodies, Body, room_for_bodies
from goproxy.limits import memory_limit
from tests.gateway import ALICE, Running, config_document, endpoints_at, running_gateway
from tests.provider import ANTHROPIC_EVENTS, ANTHROPIC_MESSAGE, Provider, Received, Wire
from tests.raw import RawClient, connected

KIB, MIB = 1024, 1024 * 1024
ALIAS = b'{"model": "claude-opus-4-5", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "'
END = b'"}]}'
Eventually = Callable[..., Any]


def long(size: int, begin: bytes = ALIAS) -> bytes:
    return begin + b"x" * (size - len(begin) - len(END)) + END


@asynccontextmanager
async def upstream(*, reads: bool, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """One that keeps nothing of a request. It begins a stream, and ends it when it is told to.

    `reads`: before that, it reads the request; else it reads as good as nothing until then.
    """
    may_end = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        left = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
        if not reads:
            await may_end.wait()
        while left:
            left -= len(await reader.read(left))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(EVENTS))
        writer.write(ANTHROPIC_EVENTS[0])
        await may_end.wait()
        writer.write(EVENTS.removeprefix(ANTHROPIC_EVENTS[0]))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=(64 if reads else 1) * KIB, ssl=tls)
    async with server:
        (listener,) = server.sockets
        if not reads:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        try:
            yield f"{'https' if tls else 'http'}://localhost:{listener.getsockname()[1]}", may_end
        finally:
            may_end.set()


EVENTS = b"".join(ANTHROPIC_EVENTS)


@pytest.fixture
def document(provider: Provider) -> dict[str, Any]:
    return config_document(endpoints=endpoints_at(provider.url), max_body_bytes=4 * MIB)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_a_stream_holds_nothing_of_its_request(path: str, keys: Path) -> None:
    """With an alias, and a wish for usage, which are two reasons for a second copy."""
    size, streams = 3 * MIB, 6
    async with upstream(reads=True) as (url, may_end), AsyncExitStack() as stack:
        document = config_document(endpoints=endpoints_at(url), max_body_bytes=4 * MIB)
        gateway = await stack.enter_async_context(running_gateway(document, keys))
        clients = [await stack.enter_async_context(connected(gateway.port)) for _ in range(streams)]
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        for client in clients:
            await client.post(long(size), path)
            assert (await client.head())[0] == 200
            await client.reader.readuntil(b"message_start")
        assert gateway.gateway.bodies.bytes == 0
        assert tracemalloc.get_traced_memory()[0] - before < size
        may_end.set()
        for client in clients:
            await client.reader.readuntil(b"0\r\n\r\n")


@pytest.mark.parametrize("begun", ["before", "meanwhile", "without a length"])
async def test_there_is_room_for_so_many_and_for_others_afterwards(
    gateway: Running, provider: Provider, begun: str, eventually: Eventually
) -> None:
    async def answer(_: Received, wire: Wire) -> None:
        await wire.whole(ANTHROPIC_MESSAGE)

    provider.script = answer
    gateway.gateway.bodies.room = 4 * MIB
    body, half = long(2 * MIB), 1 * MIB
    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(connected(gateway.port)) for _ in range(3)]
        await begin(first, body[:-KIB], len(body))
        if begun == "meanwhile":
            await begin(second, body[:half], len(body))
        await eventually(lambda: gateway.gateway.bodies.bytes >= len(body) - KIB + half * (begun == "meanwhile"))
        for path, kind in (("/v1/messages", "api_error"), ("/v1/chat/completions", "server_error")):
            refused = second
            if begun == "meanwhile" and path == "/v1/messages":
                await second.send(body[half:-KIB])
            elif begun == "without a length":
                refused = await stack.enter_async_context(connected(gateway.port))
                await refused.send(chunked(path) + b"%x\r\n%b\r\n" % (len(body), body))
            else:
                refused = await stack.enter_async_context(connected(gateway.port))
                await begin(refused, body[:KIB], len(body), path)
            status, headers = await refused.head()
            assert (status, headers["retry-after"]) == (503, "2")
            error = json.loads(await refused.reader.readexactly(int(headers["content-length"])))["error"]
            assert "no room" in error["message"]
            assert error["type"] == kind
        await third.post(long(100 * KIB))  # a small one has room
        assert (await third.answer())[0] == 200
        await first.send(body[-KIB:])
        assert (await first.answer())[0] == 200
        await third.post(body)
        assert (await third.answer())[0] == 200
    await eventually(lambda: gateway.gateway.bodies.bytes == 0)


async def begin(client: RawClient, part: bytes, size: int, path: str = "/v1/messages") -> None:
    """Send the beginning of a request."""
    await client.send(chunked(path).replace(b"Transfer-Encoding: chunked", b"Content-Length: %d" % size) + part)


def chunked(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {ALICE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


async def test_what_the_upstream_does_not_take_is_counted(keys: Path, eventually: Eventually) -> None:
    """Of one that leaves, too, until it is given up."""
    async with upstream(reads=False) as (url, may_end), AsyncExitStack() as stack:
        document = config_document(endpoints=endpoints_at(url), max_body_bytes=32 * MIB)
        gateway = await stack.enter_async_context(running_gateway(document, keys))
        client = await stack.enter_async_context(connected(gateway.port))
        body = long(24 * MIB)
        await client.post(body)
        await eventually(lambda: gateway.gateway.bodies.bytes == len(body))
        await asyncio.sleep(0.2)
        assert gateway.gateway.bodies.bytes == len(body)
        may_end.set()
        await client.reader.readuntil(b"0\r\n\r\n")
        assert gateway.gateway.bodies.bytes == 0


@pytest.mark.parametrize(("size", "is_safe"), [(200 * KIB, False), (700 * KIB, False), (700 * KIB, True)])
async def test_what_the_event_loop_keeps_to_be_sent_is_counted(
    size: int, is_safe: bool, keys: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of shorter bodies, too, and above TLS as below it."""
    sockets = ((socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB), *upstream_pool._SOCKET_OPTIONS)
    monkeypatch.setattr(upstream_pool, "_SOCKET_OPTIONS", sockets)
    authority = trustme.CA()
    trusting, serving = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(trusting)
    authority.issue_cert("localhost").configure_cert(serving)
    async with upstream(reads=False, tls=serving if is_safe else None) as (url, may_end), AsyncExitStack() as stack:
        document = config_document(endpoints=endpoints_at(url), max_body_bytes=32 * MIB)
        gateway = await stack.enter_async_context(running_gateway(document, keys, tls=trusting))
        client = await stack.enter_async_context(connected(gateway.port))
        await client.post(long(size))
        await eventually(lambda: gateway.gateway.bodies.bytes == size)
        await asyncio.sleep(0.3)
        assert gateway.gateway.bodies.bytes == size
        may_end.set()
        await client.reader.readuntil(b"0\r\n\r\n")
        assert gateway.gateway.bodies.bytes == 0


async def test_the_room_is_told(gateway: Running) -> None:
    body = Body(gateway.gateway.bodies, b"x" * 1000)
    assert 'goproxy_body_bytes{upstream="openhands"} 1000.0' in gateway.gateway.observer.metrics()
    del body
    assert 'goproxy_body_bytes{upstream="openhands"} 0.0' in gateway.gateway.observer.metrics()


def test_a_body_is_counted_until_it_is_sent_or_nobody_has_it() -> None:
    bodies = Bodies(1000)
    one, other = Body(bodies, b"x" * 10), Body(bodies)
    other.grow(5)
    other.grow(30)
    assert bodies.bytes == 40
    one.drop()
    assert (bodies.bytes, one.data) == (30, b"")
    del one, other
    assert bodies.bytes == 0


def test_a_quarter_of_the_room_is_for_small_ones() -> None:
    bodies = Bodies(4 * MIB)
    large = Body(bodies, b"x" * 3 * MIB)
    with pytest.raises(Refusal):
        Body(bodies, b"x" * 300 * KIB)
    small = [Body(bodies, b"x" * 256 * KIB) for _ in range(4)]
    with pytest.raises(Refusal):
        Body(bodies, b"x")
    assert bodies.bytes == 4 * MIB
    large.drop()
    small.append(Body(bodies, b"x" * 2 * MIB))
    small.clear()
    assert bodies.bytes == 0


@pytest.mark.parametrize(
    ("memory", "processes", "largest", "room"),
    [
        (1024 * MIB, 1, 32 * MIB, 256 * MIB),
        (4096 * MIB, 2, 32 * MIB, 512 * MIB),
        (1024 * MIB, 8, 33 * MIB, 88 * MIB),
        (128 * MIB, 1, 1 * MIB, 32 * MIB),
    ],
)
def test_the_room_follows_from_the_memory(memory: int, processes: int, largest: int, room: int) -> None:
    document = config_document(processes=processes, max_body_bytes=largest)
    assert room_for_bodies(parse_config(json.dumps(document).encode()), memory) == room
    bodies = Bodies(room)
    kept = [Body(bodies, bytes(largest)) for _ in range(2)]
    assert bodies.bytes == 2 * largest
    del kept


def test_the_memory_is_the_containers(tmp_path: Path) -> None:
    limit, none = tmp_path / "memory.max", tmp_path / "not_there"
    machine = memory_limit([none])
    assert machine > 256 * MIB
    for written, memory in (("268435456\n", 256 * MIB), ("max\n", machine), ("9223372036854771712\n", machine)):
        limit.write_text(written)
        assert memory_limit([none, limit]) == memory
