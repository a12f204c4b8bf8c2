"""What upstreams may do on a connection, and what comes of the connection after it."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from goproxy.data_plane import upstream_connection, upstream_pool
from goproxy.data_plane.bodies import Bodies, Body
from goproxy.data_plane.sending import Sending
from tests.conftest import Lines
from tests.gateway import ALICE, config_document, endpoints_at, running_gateway
from tests.provider import ANTHROPIC_EVENTS, ANTHROPIC_MESSAGE, Provider, Received, Wire

ASK = {"model": "claude-opus-4-5-20251101", "max_tokens": 9, "messages": []}
WHOLE = json.dumps(ANTHROPIC_MESSAGE).encode()
Eventually = Callable[..., Any]


@pytest.fixture
def ask(client: aiohttp.ClientSession) -> Callable[..., Any]:
    async def asking(body: dict[str, Any] | bytes = ASK) -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with client.post("v1/messages", data=data) as answer:
            return answer.status, await answer.read()

    return asking


async def whole(_: Received, wire: Wire) -> None:
    await wire.whole(WHOLE)


async def test_a_connection_is_used_again(provider: Provider, ask: Any) -> None:
    provider.script = whole
    assert [await ask() for _ in range(5)] == [(200, WHOLE)] * 5
    assert provider.connections == 1


async def test_one_after_a_stream_too(provider: Provider, ask: Any) -> None:
    async def stream(_: Received, wire: Wire) -> None:
        await wire.stream(ANTHROPIC_EVENTS)

    provider.script = stream
    assert [await ask() for _ in range(3)] == [(200, b"".join(ANTHROPIC_EVENTS))] * 3
    assert provider.connections == 1


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n", id="http/1.0"),
    ],
)
async def test_it_is_not_used_again_when_the_upstream_says_so(provider: Provider, ask: Any, head: bytes) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.send(head % len(WHOLE) + WHOLE)

    provider.script = script
    assert [await ask() for _ in range(2)] == [(200, WHOLE)] * 2
    assert provider.connections == 2


async def test_it_is_not_used_again_when_more_came_than_an_answer(
    provider: Provider, ask: Any, eventually: Eventually
) -> None:
    """A second answer that nobody asked for must not become the answer to the next request."""

    async def script(_: Received, wire: Wire) -> None:
        one = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
        await wire.send(one % (len(WHOLE), WHOLE) + one % (5, b"wrong"))

    provider.script = script
    assert [await ask() for _ in range(3)] == [(200, WHOLE)] * 3
    assert provider.connections == 3


async def test_it_is_not_used_again_when_more_comes_after_the_answer(provider: Provider, ask: Any) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(WHOLE)
        await asyncio.sleep(0.02)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    provider.script = script
    assert await ask() == (200, WHOLE)
    await asyncio.sleep(0.1)
    provider.script = whole
    assert await ask() == (200, WHOLE)
    assert provider.connections == 2


async def test_one_that_the_upstream_closed_meanwhile_is_not_used(
    provider: Provider, ask: Any, eventually: Eventually
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(WHOLE)
        wire.hang_up()

    provider.script = script
    for _ in range(3):
        assert await ask() == (200, WHOLE)
        await eventually(lambda: provider.open_connections == 0)
        await asyncio.sleep(0.02)
    assert provider.connections == 3


async def test_an_idle_one_is_closed(
    provider: Provider, ask: Any, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    upstream_pool._seconds_kept.cache_clear()
    monkeypatch.setattr(upstream_pool, "_KEPT_ALIVE", 0.05)
    provider.script = whole
    assert await ask() == (200, WHOLE)
    await eventually(lambda: provider.open_connections == 0)
    upstream_pool._seconds_kept.cache_clear()


async def test_each_is_closed_before_the_upstream_closes_it(
    provider: Provider, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is to be closed sooner than those before it."""
    monkeypatch.setattr(upstream_pool, "_seconds_kept", lambda told: 300 if told is None else float(told))
    pool = upstream_pool.UpstreamPool(URL(provider.url), ssl.create_default_context())
    connections = [await pool.connect() for _ in range(3)]
    for connection, told in zip(connections, (None, "0.2", None), strict=True):
        pool._released(connection, told)
    assert pool.idle() is connections[2]
    await eventually(lambda: provider.open_connections == 2)
    assert pool.idle() is connections[0]
    pool.close()


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (None, 4),
        ("timeout=5", 4),
        ("timeout=3, max=100", 2),
        ("max=100, Timeout = 7", 6),
        ('timeout="9"', 8),
        ("timeout=600", 15),
        ("timeout=99999999999999999999", 15),
        ("max=100", 4),
        ("timeout=soon", 4),
        ("timeout=0", -1),
    ],
)
def test_how_long_an_idle_one_may_be_used(told: str | None, seconds: float) -> None:
    upstream_pool._seconds_kept.cache_clear()
    assert upstream_pool._seconds_kept(told) == seconds


async def test_one_that_the_upstream_keeps_for_a_moment_is_not_used_again(provider: Provider, ask: Any) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(WHOLE, 200, ("Keep-Alive", "timeout=1"))

    provider.script = script
    assert [await ask() for _ in range(2)] == [(200, WHOLE)] * 2
    assert provider.connections == 2


async def test_a_dead_path_is_found_in_seconds(provider: Provider) -> None:
    pool = upstream_pool.UpstreamPool(URL(provider.url), ssl.create_default_context())
    connection = await pool.connect()
    connected = connection._transport.get_extra_info("socket")
    assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    patience = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000
    silence = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    pause = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
    assert 0 < patience <= 30
    questions = 1 + (patience - silence) // pause
    assert questions >= 5, "a lost packet or two would cut a provider that thinks"
    pool.close()


async def test_an_upstream_that_pauses_in_reading_a_long_body_is_not_dead(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel acknowledges, and has no room: to ours that is no answer, either."""
    monkeypatch.setattr(upstream_connection, "UNACKNOWLEDGED", 500)
    sockets = (*upstream_pool._SOCKET_OPTIONS[:-1], (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500))
    monkeypatch.setattr(upstream_pool, "_SOCKET_OPTIONS", sockets)

    async def pauses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(3)
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(pauses, "127.0.0.1", 0, limit=4096) as server:
        (listener,) = server.sockets
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        document = config_document(endpoints=endpoints_at(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        async with running_gateway(document, keys) as gateway, aiohttp.ClientSession() as session:
            for length in (200_000, 900_000):
                body = json.dumps(ASK | {"messages": ["x" * length]}).encode()
                headers = {"x-api-key": ALICE}
                async with session.post(f"{gateway.url}/v1/messages", data=body, headers=headers) as answer:
                    assert (answer.status, await answer.read()) == (200, b"{}")


async def test_a_path_is_watched_again_after_a_long_body(provider: Provider, ask: Any) -> None:
    pool = upstream_pool.UpstreamPool(URL(provider.url), ssl.create_default_context())
    connection = await pool.connect()

    def timeout() -> int:
        connected = connection._transport.get_extra_info("socket")
        milliseconds: int = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        return milliseconds

    for length, expected in ((10, 30_000), (1_000_000, 0), (100_000, 0), (10, 30_000)):
        sending = Sending(pool.loop)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
        connection.send(head, Body(Bodies(2 * length), b"x" * length), pool.loop.time() + 30, sending)
        assert timeout() == expected
        answer = await sending.answer()
        while not answer.is_whole:
            await asyncio.sleep(0.01)
    pool.close()


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </x>"])
async def test_interim_answers_are_passed_over(provider: Provider, ask: Any, status: bytes) -> None:
    async def script(_: Received, wire: Wire) -> None:
        for _n in range(3):
            await wire.send(b"HTTP/1.1 " + status + b"\r\n\r\n")
        await wire.whole(WHOLE)

    provider.script = script
    assert [await ask() for _ in range(2)] == [(200, WHOLE)] * 2
    assert provider.connections == 1


FLOODS = {
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    "a header that ends too late": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: %b\r\n\r\n" % (b"x" * 265_000),
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "two codings": b"HTTP/1.1 200 OK\r\n%b\r\n2\r\nab\r\n0\r\n\r\n"
    % (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
    "a coding behind chunks": b"HTTP/1.1 200 OK\r\n%b\r\n2\r\nab\r\n0\r\n\r\n"
    % (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n"),
    "a coding and a tab": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "a coding that the end ends": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
    "a header in two lines": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_what_is_no_answer_is_502(provider: Provider, ask: Any, flood: bytes, eventually: Eventually) -> None:
    async def script(_: Received, wire: Wire) -> None:
        try:
            await wire.send(flood)
            await wire.until_closed()
        except ConnectionError:
            pass

    provider.script = script
    status, body = await ask()
    assert (status, b"its answer is not valid HTTP" in body) == (502, True)
    await eventually(lambda: provider.open_connections == 0)


async def test_a_trailer_is_not_passed_on_and_hurts_nothing(provider: Provider, ask: Any) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(ANTHROPIC_EVENTS[0])
        await wire.send(b"0\r\nX-Late: yes\r\n\r\n")

    provider.script = script
    assert [await ask() for _ in range(2)] == [(200, ANTHROPIC_EVENTS[0])] * 2


@pytest.mark.parametrize("begin", [b"0\r\nX-Late: ", b"5;a="], ids=["a trailer", "beside a length"])
async def test_what_is_no_body_has_an_end(provider: Provider, ask: Any, lines: Lines, begin: bytes) -> None:
    """What comes of a trailer is kept until it ends."""
    wires: list[Wire] = []

    async def script(_: Received, wire: Wire) -> None:
        wires.append(wire)
        await wire.begin_stream()
        await wire.chunk(ANTHROPIC_EVENTS[0])
        await wire.send(begin)
        with suppress(ConnectionError):
            while wire.bytes_written < 64_000_000:
                await wire.send(b"x" * 65536)

    provider.script = script
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask()
    assert (await lines.request())["outcome"] == "upstream_truncated"
    assert wires[0].bytes_written < 32_000_000  # most of it in the kernel's buffers


@pytest.mark.parametrize("coding", ["chunked", "CHUNKED", "chunked  "])
async def test_chunks_beside_a_header_that_comes_twice(provider: Provider, ask: Any, coding: str) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.head(200, ("Transfer-Encoding", coding), ("X-Odd", "a"), ("X-Odd", "b"))
        await wire.send(b"5\r\nhello\r\n0\r\n\r\n")

    provider.script = script
    assert [await ask() for _ in range(2)] == [(200, b"hello")] * 2


async def test_chunks_with_extensions(provider: Provider, ask: Any) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.send(b"5;a=b;c\r\nhello\r\n0;x\r\n\r\n")

    provider.script = script
    assert await ask() == (200, b"hello")


async def test_a_body_that_the_connection_ends(provider: Provider, ask: Any, lines: Lines) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.head(200, ("Content-Type", "application/json"))
        await wire.send(WHOLE)
        wire.hang_up()

    provider.script = script
    assert await ask() == (200, WHOLE)
    assert (await lines.request())["settlement"] == "exact"


@pytest.mark.parametrize("size", [200_000, 500_000])
async def test_nobody_waits_behind_a_body_that_the_upstream_did_not_want(keys: Path, size: int) -> None:
    """It answers by the head, and keeps the connection: the rest of the body is in our kernel, or our transport."""
    connections: list[asyncio.Event] = []

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(is_over := asyncio.Event())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if len(connections) == 1:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}")
                await is_over.wait()
                writer.transport.resume_reading()  # type: ignore[attr-defined]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE))
            await reader.read(-1)
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # as on a way with a small window
        server = await asyncio.start_server(early, sock=listener, limit=4096)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        document = config_document(
            endpoints=endpoints_at(url), timeouts={"connect": 5, "first_byte": 5, "idle": 5, "total": 9}
        )
        async with server, running_gateway(document, keys) as gateway, aiohttp.ClientSession() as session:
            statuses = []
            for content in ("x" * size, "short"):
                body = json.dumps(ASK | {"messages": [content]}).encode()
                sending = session.post(f"{gateway.url}/v1/messages", data=body, headers={"x-api-key": ALICE})
                async with sending as answer:
                    statuses.append(answer.status)
            for is_over in connections:
                is_over.set()
    assert statuses == [429, 200]
    assert len(connections) == 2


async def test_an_answer_before_the_request_was_taken(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large, says the upstream, and reads no further: its answer passes, and the connection is given up."""
    monkeypatch.setattr(upstream_connection, "_PIECE", 1024)
    heads: list[bytes] = []
    taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        status = b"413 Too Large" if len(heads) == 1 else b"200 OK"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)
        length = 0
        with suppress(ConnectionError):
            while piece := await reader.read(4096):
                length += len(piece)
        if not taken.done():
            taken.set_result(length)
        writer.close()

    body = json.dumps(ASK | {"messages": ["x" * 9_000_000]}).encode()
    async with await asyncio.start_server(early, "127.0.0.1", 0, limit=4096) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        document = config_document(endpoints=endpoints_at(url), max_body_bytes=10_000_000)
        async with running_gateway(document, keys) as gateway, aiohttp.ClientSession() as session:
            headers = {"x-api-key": ALICE}

            async def ask(data: bytes) -> tuple[int, bytes]:
                sent = io.BytesIO(data)
                async with session.post(f"{gateway.url}/v1/messages", data=sent, headers=headers) as answer:
                    return answer.status, await answer.read()

            assert await ask(body) == (413, b"{}")
            assert await asyncio.wait_for(ask(json.dumps(ASK).encode()), 10) == (200, b"{}"), "by another connection"
            assert await asyncio.wait_for(taken, 10) < len(body) - 1000
            assert [head.partition(b"\r\n")[0] for head in heads] == [b"POST /v1/messages HTTP/1.1"] * 2
