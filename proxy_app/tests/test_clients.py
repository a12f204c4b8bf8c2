"""Clients that leave, and clients that do not take what they asked for."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from goproxy.core.outcome import Outcome
from goproxy.data_plane import client, front
from goproxy.data_plane.front import Connection
from goproxy.data_plane.relay import _Path
from tests.conftest import Lines
from tests.gateway import ALICE, Running, config_document, endpoints_at, running_gateway
from tests.provider import ANTHROPIC_EVENTS, Provider, Received, Wire
from tests.raw import RawClient, connected
from tests.streams import MESSAGE_STOP, message_delta, message_start, text_block

ASK = {"model": "claude-opus-4-5-20251101", "stream": True}
Eventually = Callable[[Callable[[], bool]], Any]


def leave_politely(raw: RawClient) -> None:
    raw.writer.close()


@pytest.fixture
def document(document: dict[str, Any]) -> dict[str, Any]:
    """Answers are broken off when their client leaves; test_drain.py and test_billing.py have the other policy."""
    return document | {"disconnect": {"policy": "abort"}}


LEAVING = pytest.mark.parametrize("leave", [RawClient.reset, leave_politely])


@LEAVING
async def test_a_client_that_leaves_while_the_upstream_thinks(
    gateway: Running, provider: Provider, lines: Lines, eventually: Eventually, leave: Callable[[RawClient], None]
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.until_closed()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await eventually(lambda: provider.open_connections == 1)
        leave(raw)
        await eventually(lambda: provider.open_connections == 0)
    await eventually(lambda: bool(lines.all("request")))
    assert ((await lines.request())["status"], (await lines.request())["outcome"]) == (499, "client_gone")


@LEAVING
async def test_a_client_that_leaves_in_a_pause_of_the_stream(
    gateway: Running, provider: Provider, lines: Lines, eventually: Eventually, leave: Callable[[RawClient], None]
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(ANTHROPIC_EVENTS[0])
        await wire.until_closed()  # nothing more is written: the leaving itself must be noticed

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        await raw.chunk()
        leave(raw)
        await eventually(lambda: provider.open_connections == 0)
    await eventually(lambda: bool(lines.all("request")))
    assert ((await lines.request())["status"], (await lines.request())["outcome"]) == (200, "client_gone")
    assert (await lines.request())["bytes_out"] == len(ANTHROPIC_EVENTS[0])


async def test_a_client_that_leaves_while_events_pour(
    gateway: Running, provider: Provider, lines: Lines, eventually: Eventually
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        while True:
            await wire.chunk(ANTHROPIC_EVENTS[3])
            await asyncio.sleep(0)

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        raw.reset()
        await eventually(lambda: provider.open_connections == 0)
    await eventually(lambda: bool(lines.all("request")))
    assert (await lines.request())["outcome"] == "client_gone"
    assert not lines.all("request failed")


async def test_a_client_that_leaves_in_the_middle_of_its_upload(
    gateway: Running, provider: Provider, lines: Lines, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "_SLOW", 0.02)
    async with connected(gateway.port) as raw:
        head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\nContent-Length: 99\r\n\r\n{{"
        await raw.send(head.encode())
        await asyncio.sleep(0.05)
        raw.reset()
        await eventually(lambda: bool(lines.all("request")))
    assert ((await lines.request())["status"], (await lines.request())["outcome"], provider.received) == (
        499,
        "client_gone",
        [],
    )


async def standstill(wires: list[Wire]) -> int:
    """How much the upstream has written when it can write no more."""
    stood = -1
    async with asyncio.timeout(20):
        while wires[0].bytes_written != stood:
            stood = wires[0].bytes_written
            await asyncio.sleep(0.5)
    return stood


async def test_a_client_that_reads_nothing_holds_the_upstream_back(gateway: Running, provider: Provider) -> None:
    wires: list[Wire] = []

    async def script(_: Received, wire: Wire) -> None:
        wires.append(wire)
        await wire.begin_stream()
        while True:
            await wire.chunk(b"x" * 16384)

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        stood = await standstill(wires)  # it comes to stand still ...
        while wires[0].bytes_written == stood:  # ... until the client reads again
            await raw.reader.read(1 << 20)


async def test_a_client_that_never_takes_its_answer_is_given_up(
    provider: Provider, keys: Path, lines: Lines, eventually: Eventually
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        while True:
            await wire.chunk(b"x" * 65536)

    provider.script = script
    timeouts = {"connect": 5, "first_byte": 5, "idle": 0.5, "total": 30}
    document = config_document(endpoints=endpoints_at(provider.url), timeouts=timeouts)
    async with running_gateway(document, keys) as gateway, connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        await asyncio.sleep(1)
        assert provider.open_connections == 1, "nginx takes nothing for longer, while its client takes what it has"
        await eventually(lambda: provider.open_connections == 0)
        await eventually(lambda: bool(lines.all("request")))
    assert (await lines.request())["outcome"] == "client_stalled"


async def test_a_client_that_takes_a_little_now_and_then_is_not_given_up(
    provider: Provider, keys: Path, lines: Lines
) -> None:
    """However much still waits for it."""

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        while True:
            await wire.chunk(b"x" * 65536)

    provider.script = script
    timeouts = {"connect": 5, "first_byte": 5, "idle": 2, "total": 30}
    document = config_document(endpoints=endpoints_at(provider.url), timeouts=timeouts)
    async with running_gateway(document, keys) as gateway, connected(gateway.port, is_slow=True) as raw:
        await raw.post(ASK)
        for _ in range(10):
            await raw.reader.readexactly(16384)
            await asyncio.sleep(0.4)
        is_over = bool(lines.all("request"))
        raw.reset()
        assert not is_over


@asynccontextmanager
async def full_at_once(gateway: Running) -> AsyncIterator[tuple[RawClient, Connection]]:
    """A client that takes a few KiB, and no more until it reads; and its connection at the proxy."""
    async with connected(gateway.port, is_slow=True) as raw:
        while not gateway.front.connections:
            await asyncio.sleep(0.01)
        (accepted,) = gateway.front.connections
        accepted._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        accepted._transport.set_write_buffer_limits(high=1024)
        yield raw, accepted


@asynccontextmanager
async def full_within_3_seconds(document: dict[str, Any], keys: Path) -> AsyncIterator[tuple[RawClient, Connection]]:
    """The same, at a gateway whose answers may take three seconds in all."""
    timeouts = {"connect": 1, "first_byte": 3, "idle": 3, "total": 3}
    async with running_gateway(document | {"timeouts": timeouts}, keys) as gateway, full_at_once(gateway) as found:
        yield found


def is_full(connection: Connection) -> bool:
    return connection.client is not None and connection.client.is_full


async def test_a_client_that_takes_the_end_late_holds_nobody_up(
    gateway: Running, provider: Provider, eventually: Eventually
) -> None:
    """The upstream's connection is another request's by then."""
    body = b"x" * 50_000

    async def script(_: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + body)

    provider.script = script
    async with full_at_once(gateway) as (slow, connection):
        await slow.post(ASK)
        await eventually(lambda: is_full(connection))
        for _ in range(2):
            async with connected(gateway.port) as other:
                await other.post(ASK)
                assert await other.answer() == (200, body)
        assert is_full(connection)
        assert await slow.answer() == (200, body)
    assert provider.connections == 1


async def test_a_client_that_is_full_of_the_head_already_holds_the_upstream_back(
    gateway: Running, provider: Provider, eventually: Eventually
) -> None:
    wires: list[Wire] = []

    async def script(_: Received, wire: Wire) -> None:
        wires.append(wire)
        await wire.begin_stream(("X-Long", "x" * 200_000))
        while wire.bytes_written < 25_000_000:
            await wire.chunk(b"x" * 65_536)
        await wire.end_stream()

    provider.script = script
    async with full_at_once(gateway) as (slow, connection):
        await slow.post(ASK)
        await eventually(lambda: is_full(connection))
        await standstill(wires)
        assert connection.client is not None
        assert connection.client.waiting < 1_000_000


async def test_a_slow_client_is_told_that_the_answer_took_too_long_in_all(
    document: dict[str, Any],
    keys: Path,
    provider: Provider,
    lines: Lines,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_LAST_PIECE", 60)

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        while True:
            await wire.chunk(b"data: " + b"x" * 10_000 + b"\n\n")

    provider.script = script
    async with full_within_3_seconds(document, keys) as (slow, connection):
        await slow.post(ASK)
        await slow.head()
        await eventually(lambda: is_full(connection))
        await eventually(lambda: bool(lines.all("request")))
        assert b'"The answer took longer than 3 s."' in await slow.chunks_until_broken()
    assert (await lines.request())["outcome"] == "client_stalled"


async def test_the_rest_of_what_a_slow_client_does_not_take_within_total_is_read_for_the_count(
    document: dict[str, Any], keys: Path, provider: Provider
) -> None:
    """An estimate knows nothing of reasoning that is not shown: to read slowly would be cheap."""
    begun = (message_start({"input_tokens": 9, "output_tokens": 1}), *[text_block(["x" * 1000])[2]] * 500)

    async def script(_: Received, wire: Wire) -> None:
        await wire.stream([*begun, message_delta({"output_tokens": 30_000}), MESSAGE_STOP])

    provider.script = script
    draining = document | {"disconnect": {"policy": "drain"}}
    timeouts = {"connect": 1, "first_byte": 2, "idle": 1, "total": 2}
    async with running_gateway(draining | {"timeouts": timeouts}, keys) as gateway, full_at_once(gateway) as found:
        await found[0].post(ASK)
        await found[0].head()
        async with asyncio.timeout(30):
            while not (rows := await gateway.rows()):
                await found[0].reader.read(1000)
                await asyncio.sleep(0.2)
    (row,) = rows
    assert (row["outcome"], row["settlement"], row["usage"]["output"]) == ("client_stalled", "drained", 30_000)


async def test_a_slow_client_that_takes_the_end_after_total_has_a_whole_answer(
    document: dict[str, Any],
    keys: Path,
    provider: Provider,
    lines: Lines,
    eventually: Eventually,
) -> None:
    body = b"x" * 50_000

    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(body)

    provider.script = script
    async with full_within_3_seconds(document, keys) as (slow, connection):
        await slow.post(ASK)
        await eventually(lambda: is_full(connection))
        await eventually(lambda: bool(lines.all("request")))
        assert await slow.answer() == (200, body)
    assert (await lines.request())["outcome"] == "ok"


@asynccontextmanager
async def closing_over_tls(keys: Path, first: bytes, rest: bytes) -> AsyncIterator[tuple[Running, Callable[[], Any]]]:
    """A gateway whose upstream sends `first`, and when it is told to the rest; then it closes."""
    is_told = threading.Event()
    authority, trusting = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusting)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)

    def provide(listener: socket.socket) -> None:
        with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
            request = b""
            while not request.endswith(b"}"):
                request += connection.recv(65536)
            connection.sendall(first)
            is_told.wait(30)
            connection.sendall(rest)  # and closed, as soon as the kernel has it

    async def finish() -> None:
        is_told.set()
        await providing
        await asyncio.sleep(0.3)  # for what was sent to come

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        providing = asyncio.create_task(asyncio.to_thread(provide, listener))
        document = config_document(endpoints=endpoints_at(f"https://localhost:{listener.getsockname()[1]}"))
        async with running_gateway(document, keys, trusting) as gateway:
            yield gateway, finish


async def test_a_slow_client_loses_nothing_when_the_upstream_closes_over_tls(
    keys: Path, eventually: Eventually
) -> None:
    """What the upstream sent before it closed waits in the socket, and in no buffer that goes with the connection."""
    body = b"x" * 200_000
    first = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + body[:50_000]
    async with (
        closing_over_tls(keys, first, body[50_000:]) as (gateway, finish),
        full_at_once(gateway) as (slow, connection),
    ):
        await slow.post(ASK)
        await eventually(lambda: is_full(connection))
        await finish()
        assert await slow.answer() == (200, body)


async def test_what_a_slow_client_leaves_behind_is_billed_when_the_upstream_has_closed_over_tls(
    keys: Path, eventually: Eventually
) -> None:
    """What has come is read to its end for the count, though nobody has decrypted it when the socket is at its end."""
    padding = b'event: ping\ndata: {"type":"ping","x":"%b"}\n\n' % (b"x" * 50_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    first, rest = b"".join(ANTHROPIC_EVENTS[:5]) + padding, b"".join(ANTHROPIC_EVENTS[5:])
    async with closing_over_tls(
        keys, head + b"%x\r\n%b\r\n" % (len(first), first), b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)
    ) as (gateway, finish):
        async with full_at_once(gateway) as (slow, connection):
            await slow.post(ASK)
            await eventually(lambda: is_full(connection))
            await finish()
            slow.reset()
            await eventually(lambda: not gateway.front.connections)
        (row,) = await gateway.rows()
    assert (row["settlement"], row["usage"]["output"]) == ("drained", 7)


async def test_nothing_is_written_after_the_end_when_the_proxy_leaves(
    gateway: Running, provider: Provider, eventually: Eventually
) -> None:
    event = b"data: " + b"x" * 50_000 + b"\n\n"

    async def script(_: Received, wire: Wire) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        await wire.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))

    provider.script = script
    async with full_at_once(gateway) as (slow, connection):
        await slow.post(ASK)
        await eventually(lambda: is_full(connection))
        gateway.stay.leave()
        await gateway.stay.finish(grace=0.1)
        async with asyncio.timeout(30):
            assert (await slow.reader.read(-1)).endswith(event + b"\r\n0\r\n\r\n")


async def test_nothing_is_written_after_the_end_when_the_proxy_leaves_in_that_moment(
    gateway: Running, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is written, and who waits for it is cut before it hears of that."""
    finish = _Path._finish

    def finish_and_cut(path: _Path, outcome: Outcome) -> None:
        finish(path, outcome)
        for task in gateway.stay._running:
            task.cancel()

    monkeypatch.setattr(_Path, "_finish", finish_and_cut)

    async def script(_: Received, wire: Wire) -> None:
        await wire.stream(ANTHROPIC_EVENTS)

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.reader.read(-1)).endswith(ANTHROPIC_EVENTS[-1] + b"\r\n0\r\n\r\n")


async def test_nothing_is_left_of_requests_that_are_over(
    gateway: Running, provider: Provider, eventually: Eventually
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.until_closed()

    provider.script = script
    before = 0
    for number in range(21):
        async with connected(gateway.port) as raw:
            await raw.post(ASK)
            await raw.head()
        if number == 0:  # the first one opens connections to the backend, which stay
            await gateway.rows()
            await eventually(lambda: provider.open_connections == 0)
            before = len(asyncio.all_tasks())
    await eventually(lambda: provider.open_connections == 0)
    await gateway.rows()
    await asyncio.sleep(0.5)
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 3)  # connections to the backend


@pytest.mark.parametrize("lane", ["fast", "aiohttp"])
async def test_a_client_that_takes_nothing_of_the_end_is_given_up(
    document: dict[str, Any], keys: Path, provider: Provider, eventually: Eventually, lane: str
) -> None:
    """What is left is too little to halt anything: the request is over, and only the connection is there."""
    timeouts = {"connect": 1, "first_byte": 1, "idle": 0.5, "total": 10}

    async with running_gateway(document | {"timeouts": timeouts}, keys) as gateway:

        async def script(_: Received, wire: Wire) -> None:
            await wire.begin_stream()
            while not any(each._transport.get_write_buffer_size() for each in gateway.front.connections):
                await wire.chunk(b"x" * 4096)
                await asyncio.sleep(0.001)
            await wire.end_stream()

        provider.script = script
        async with connected(gateway.port, is_slow=True) as raw:
            await raw.post(ASK, "/v1/messages", "Connection: close", *(["X-Odd: \xff"] if lane == "aiohttp" else []))
            await eventually(lambda: len(provider.received) == 1)
            await gateway.rows()
            assert gateway.front.connections
            await eventually(lambda: not gateway.front.connections)


async def test_who_asks_on_and_never_reads_is_given_up(
    document: dict[str, Any], keys: Path, eventually: Eventually
) -> None:
    """Where aiohttp reads, and no request of it is served that could be given up."""
    timeouts = {"connect": 1, "first_byte": 1, "idle": 0.5, "total": 10}
    request = b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with (
        running_gateway(document | {"timeouts": timeouts}, keys) as gateway,
        connected(gateway.port, is_slow=True) as raw,
    ):
        raw.writer.write(request * 50_000)
        await eventually(lambda: any(each._is_full for each in gateway.front.connections))
        await eventually(lambda: not gateway.front.connections)


@pytest.mark.parametrize("lane", ["fast", "aiohttp"])
async def test_who_asks_on_and_reads_nothing_fills_no_memory(gateway: Running, provider: Provider, lane: str) -> None:
    body = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" if lane == "aiohttp" else b"Content-Length: 0\r\n\r\n"
    request = b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: " + ALICE.encode() + b"\r\n" + body
    async with connected(gateway.port, is_slow=True) as raw:
        raw.writer.write(request * 50_000)
        (connection,) = gateway.front.connections
        for _ in range(20):
            await asyncio.sleep(0.1)
            assert connection._transport.get_write_buffer_size() < 100_000
        for _ in range(2000):
            assert (await raw.answer())[0] == 400
    assert provider.received == []
