"""Leaving: what runs is finished, nothing new is begun, and what takes too long is told why it is cut."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from goproxy.data_plane import front
from goproxy.data_plane.server import front_of, make_app
from goproxy.hosting import host
from tests.backend import Backend
from tests.conftest import Lines
from tests.gateway import Running, running_gateway
from tests.process import listens, serving
from tests.provider import ANTHROPIC_EVENTS, Provider, Received, Wire
from tests.raw import connected

ASK = {"model": "claude-opus-4-5-20251101", "stream": True}


async def without_end(_: Received, wire: Wire) -> None:
    """A stream that begins, and says nothing more."""
    await wire.begin_stream()
    await wire.chunk(ANTHROPIC_EVENTS[0])
    await wire.until_closed()


def halting(go_on: asyncio.Event) -> Callable[[Received, Wire], Awaitable[None]]:
    """Streams that begin, and end when they are told to."""

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(ANTHROPIC_EVENTS[0])
        await go_on.wait()
        await wire.chunk(ANTHROPIC_EVENTS[1])
        await wire.end_stream()

    return script


async def test_a_leaving_proxy_is_not_ready_and_begins_nothing(gateway: Running, provider: Provider) -> None:
    async with connected(gateway.port) as raw:
        await raw.send(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await raw.answer())[0] == 200
        gateway.stay.leave()
        await raw.post(ASK)
        status, headers = await raw.head()
        assert (status, headers["connection"]) == (503, "close")
    async with connected(gateway.port) as raw:
        await raw.send(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await raw.answer()) == (503, b'{"ready": false, "detail": "leaving: no new requests"}')
    assert provider.received == []


async def test_what_outlasts_the_grace_period_is_cut_and_told_so(
    gateway: Running, provider: Provider, lines: Lines, eventually: Callable[..., Any]
) -> None:
    provider.script = without_end
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert await raw.chunk() == ANTHROPIC_EVENTS[0]
        gateway.stay.leave()
        await gateway.stay.finish(grace=0.1)
        got = await raw.chunks_until_broken()
    assert json.loads(got.removeprefix(b"event: error\ndata: "))["error"] == {
        "type": "api_error",
        "message": "The gateway is being restarted. Try again.",
    }
    assert (await lines.request())["outcome"] == "shutdown"
    await eventually(lambda: provider.open_connections == 0)


@pytest.mark.parametrize("lane", ["fast", "aiohttp"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_who_has_no_answer_at_the_end_of_the_grace_period_gets_503(
    gateway: Running, provider: Provider, lines: Lines, eventually: Callable[..., Any], lane: str, path: str
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.until_closed()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK, path, *(["X-Odd: \xff"] if lane == "aiohttp" else []))
        await eventually(lambda: bool(provider.received))
        gateway.stay.leave()
        await gateway.stay.finish(grace=0.1)
        status, headers = await raw.head()
        error = json.loads(await raw.reader.readexactly(int(headers["content-length"])))
        assert await raw.reader.read() == b""
    assert (status, headers["connection"], error["error"]["message"]) == (
        *(503, "close", "The gateway is being restarted. Try again."),
    )
    assert error["request_id"] == headers["request-id"]
    line = await lines.request()
    assert (line["request_id"], line["status"], line["outcome"]) == (headers["request-id"], 503, "shutdown")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_is_told_to_leave_finishes_its_streams(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path, number: signal.Signals
) -> None:
    go_on = asyncio.Event()
    provider.script = halting(go_on)
    async with serving(document, backend, tmp_path, grace=45) as served, connected(served.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert await raw.chunk() == ANTHROPIC_EVENTS[0]
        served.process.send_signal(number)
        while await listens(served.port):
            await asyncio.sleep(0.01)
        go_on.set()
        assert [await raw.chunk(), await raw.chunk()] == [ANTHROPIC_EVENTS[1], b""]
        assert await asyncio.wait_for(served.process.wait(), 30) == 0


async def test_a_process_leaves_when_the_grace_period_is_over(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    provider.script = without_end
    async with serving(document, backend, tmp_path, grace=0.2) as served, connected(served.port) as raw:
        await raw.post(ASK)
        await raw.head()
        await raw.chunk()
        served.process.terminate()
        assert b"being restarted" in await raw.chunks_until_broken()
        assert await asyncio.wait_for(served.process.wait(), 30) == 0


async def test_one_that_leaves_to_another_one_gives_its_streams_their_time(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """SIGQUIT: it takes nobody any more, and no grace period ends what it has begun."""
    go_on = asyncio.Event()
    provider.script = halting(go_on)
    async with serving(document, backend, tmp_path, grace=0.2) as served, connected(served.port) as raw:
        await raw.post(ASK)
        await raw.head()
        await raw.chunk()
        for _ in range(2):  # told twice, it takes no less time
            served.process.send_signal(signal.SIGQUIT)
            while await listens(served.port):
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)
        go_on.set()
        assert [await raw.chunk(), await raw.chunk()] == [ANTHROPIC_EVENTS[1], b""]
        assert await asyncio.wait_for(served.process.wait(), 30) == 0
    assert served.said("waiting for running requests, until they end")


@pytest.mark.parametrize("processes", [1, 2])
async def test_one_that_has_time_is_hurried_by_sigterm(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path, processes: int
) -> None:
    """The grace period begins then: else what a machine that goes down has begun would be cut without a word."""

    provider.script = without_end
    document = document | {"processes": processes}
    async with serving(document, backend, tmp_path, grace=0.2) as served, connected(served.port) as raw:
        await raw.post(ASK)
        await raw.head()
        await raw.chunk()
        served.process.send_signal(signal.SIGQUIT)
        while await listens(served.port):
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        assert served.process.returncode is None
        served.process.terminate()
        assert b"being restarted" in await raw.chunks_until_broken()
        assert await asyncio.wait_for(served.process.wait(), 30) == 0


async def test_it_leaves_when_its_clients_have_taken_their_answers(gateway: Running, provider: Provider) -> None:
    """A request is over when its answer is written; where a container ends, the kernel forgets what it still has."""

    async def script(_: Received, wire: Wire) -> None:
        await wire.whole({"text": "x" * 20_000})

    provider.script = script
    listener = socket.create_server(("127.0.0.1", 0))
    stay, port = gateway.stay, listener.getsockname()[1]
    app, before = make_app(gateway.gateway), front_of(gateway.gateway)
    leaving = asyncio.create_task(host(app, stay, [listener], grace=45, front=before))
    async with connected(port, is_slow=True) as raw:
        await raw.post(ASK | {"stream": False})
        _, headers = await raw.head()
        stay.ask_to_leave()
        await asyncio.sleep(1.5)
        assert stay.leaving
        assert not leaving.done()
        await raw.reader.readexactly(int(headers["content-length"]))
        await leaving
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_busy_proxy_that_leaves_answers_all_who_have_connected(gateway: Running) -> None:
    """The event loop accepts one connection in each of its turns, and dozens may wait for theirs."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    app, before = make_app(gateway.gateway), front_of(gateway.gateway)
    leaving = asyncio.create_task(host(app, gateway.stay, [listener], grace=45, front=before))

    def be_busy() -> None:
        time.sleep(0.005)
        if not leaving.done():
            loop.call_soon(be_busy)

    await asyncio.sleep(0.1)
    be_busy()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(40)]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            client.setblocking(False)
        gateway.stay.ask_to_leave()
        answers = [await loop.sock_recv(client, 1000) for client in clients]
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    await leaving
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


async def test_who_is_answered_by_a_leaving_proxy_hears_of_its_end_at_once(
    gateway: Running, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer promised that the connection is kept: whoever asks on must know before it does."""
    monkeypatch.setattr(front, "_SEEN_OFF_EVERY", 60)
    monkeypatch.setattr(front, "waiting_on", lambda _: 1)  # the client's kernel has not said yet that it has all

    async def script(_: Received, wire: Wire) -> None:
        gateway.stay.leave()
        await wire.whole({})

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK | {"stream": False})
        await raw.answer()
        assert await asyncio.wait_for(raw.reader.read(), 30) == b""


async def test_clients_that_take_nothing_are_not_waited_for_one_after_the_other(
    document: dict[str, Any], keys: Path, provider: Provider
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole({"text": "x" * 20_000})

    provider.script = script
    timeouts = {"connect": 1, "first_byte": 1, "idle": 0.5, "total": 10}
    async with running_gateway(document | {"timeouts": timeouts}, keys) as gateway, AsyncExitStack() as stack:
        for _ in range(32):
            raw = await stack.enter_async_context(connected(gateway.port, is_slow=True))
            await raw.post(ASK | {"stream": False})
            await raw.head()
        gateway.stay.leave()
        began = time.monotonic()
        await gateway.front.until_taken(60)
        assert 0.4 < time.monotonic() - began < 8  # one after the other it were 16


async def test_it_listens_on_ipv6_too(document: dict[str, Any], backend: Backend, tmp_path: Path) -> None:
    async with serving(document, backend, tmp_path, grace=0) as served, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{served.port}/healthz") as answer:
            assert answer.status == 200
        if Path("/proc/net/if_inet6").exists():
            async with session.get(f"http://[::1]:{served.port}/healthz") as answer:
                assert answer.status == 200
