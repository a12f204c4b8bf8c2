"""Both lanes give the same answers: what a client sees does not depend on who read its request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from goproxy import hosting
from goproxy.data_plane import front
from goproxy.data_plane.known_heads import KnownHeads
from tests.conftest import Lines
from tests.gateway import ALICE, BOB, Running, running_gateway
from tests.provider import ANTHROPIC_EVENTS, ANTHROPIC_MESSAGE, Provider, Received, Script, Wire
from tests.raw import RawClient, connected

ASK = {"model": "claude-opus-4-5-20251101", "max_tokens": 9, "messages": []}
STREAM = ASK | {"stream": True}


async def a_message(_: Received, wire: Wire) -> None:
    await wire.whole(ANTHROPIC_MESSAGE, 200, ("request-id", "theirs"), ("X-Odd", "b"), ("X-Odd", "a"))


async def a_stream(_: Received, wire: Wire) -> None:
    await wire.stream(ANTHROPIC_EVENTS)


async def an_overload(_: Received, wire: Wire) -> None:
    await wire.whole(
        {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, 529, ("Retry-After", "7")
    )


async def our_key_is_wrong(_: Received, wire: Wire) -> None:
    await wire.whole({}, 401)


async def until_the_end(_: Received, wire: Wire) -> None:
    await wire.send(b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"usage": {}}')
    wire.hang_up()


async def no_body(_: Received, wire: Wire) -> None:
    await wire.head(204, ("Content-Length", "5"))  # which there cannot be, and is not passed on


async def half_a_stream(_: Received, wire: Wire) -> None:
    await wire.begin_stream()
    await wire.chunk(ANTHROPIC_EVENTS[0])
    wire.hang_up()


CASES: dict[str, tuple[Script, dict[str, Any]]] = {
    "a message": (a_message, {"body": ASK}),
    "a stream": (a_stream, {"body": STREAM}),
    "with a query": (a_message, {"body": ASK, "path": "/v1/messages?beta=true"}),
    "counting tokens": (a_message, {"body": ASK, "path": "/v1/messages/count_tokens"}),
    "openai": (a_stream, {"body": STREAM, "path": "/v1/chat/completions"}),
    "the last request": (a_message, {"body": ASK, "headers": ("Connection: close",)}),
    "an overload": (an_overload, {"body": ASK}),
    "our key is wrong": (our_key_is_wrong, {"body": ASK}),
    "an answer that the connection ends": (until_the_end, {"body": ASK}),
    "an answer without a body": (no_body, {"body": ASK}),
    "an answer that breaks off": (half_a_stream, {"body": STREAM}),
    "no key": (a_message, {"body": ASK, "key": ""}),
    "two keys": (a_message, {"body": ASK, "headers": (f"Authorization: Bearer {BOB}",)}),
    "no JSON": (a_message, {"body": b"{"}),
    "no such model": (a_message, {"body": ASK | {"model": "none"}}),
    "packed": (a_message, {"body": ASK, "headers": ("Content-Encoding: gzip",)}),
    "an empty body": (a_message, {"body": b""}),
}


@pytest.fixture(params=["fast lane", "aiohttp"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "aiohttp":
        monkeypatch.setattr(KnownHeads, "read", lambda *_: None)
    return str(request.param)


async def _chunks(raw: RawClient) -> bytes:
    body = b""
    try:
        while chunk := await raw.chunk():
            body += chunk
    except asyncio.IncompleteReadError:
        return body + b"<broken off>"
    return body


async def _answer(gateway: Running, provider: Provider, case: str) -> tuple[int, dict[str, str], bytes, Any]:
    script, asked = CASES[case]
    provider.script = script
    provider.received.clear()
    async with connected(gateway.port) as raw:
        headers = asked.get("headers", ())
        await raw.post(asked["body"], asked.get("path", "/v1/messages"), *headers, key=asked.get("key", ALICE))
        status, fields = await raw.head()
        if "content-length" in fields:
            body = await raw.reader.readexactly(int(fields["content-length"]))
        elif "transfer-encoding" in fields:
            body = await _chunks(raw)
        else:
            body = b""
    for name in ("date", "x-request-id", "request-id"):
        fields.pop(name, None)
    try:
        document = json.loads(body)
        document.pop("request_id", None)
        body = json.dumps(document).encode()
    except ValueError:
        pass
    sent = [(each.method, each.target, sorted(each.headers), each.body) for each in provider.received]
    return status, fields, body, sent


@pytest.mark.parametrize("case", CASES)
async def test_both_lanes_send_and_answer_alike(
    gateway: Running, provider: Provider, monkeypatch: pytest.MonkeyPatch, case: str, lines: Lines
) -> None:
    fast = await _answer(gateway, provider, case)
    monkeypatch.setattr(KnownHeads, "read", lambda *_: None)
    assert await _answer(gateway, provider, case) == fast
    await gateway.rows()
    one, other = lines.all("request")
    varies = {"time", "request_id", "first_byte_ms", "ms"}
    assert {name: one[name] for name in one.keys() - varies} == {name: other[name] for name in other.keys() - varies}


async def test_the_cases_do_take_different_lanes(gateway: Running, provider: Provider, lane: str) -> None:
    provider.script = a_message
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.answer()
        assert len(gateway.front.connections) == 1
        assert len(gateway.front.aiohttp_server.connections) == (0 if lane == "fast lane" else 1)


@pytest.fixture
async def raw(gateway: Running) -> AsyncIterator[RawClient]:
    async with connected(gateway.port) as client:
        yield client


async def test_one_connection_serves_many_requests(raw: RawClient, provider: Provider, lane: str) -> None:
    for script, body in ((a_message, ASK), (a_stream, STREAM), (an_overload, ASK), (a_stream, STREAM)):
        provider.script = script
        await raw.post(body)
        _, headers = await raw.head()
        if "content-length" in headers:
            await raw.reader.readexactly(int(headers["content-length"]))
        else:
            assert await _chunks(raw) == b"".join(ANTHROPIC_EVENTS)


async def test_requests_that_come_together_are_answered_in_turn(raw: RawClient, provider: Provider, lane: str) -> None:
    provider.script = a_message
    for _ in range(3):
        await raw.post(ASK)
    assert [(await raw.answer())[0] for _ in range(3)] == [200] * 3


async def test_a_connection_goes_over_to_aiohttp_when_it_must(
    raw: RawClient, gateway: Running, provider: Provider
) -> None:
    provider.script = a_message
    await raw.post(ASK)
    assert (await raw.answer())[0] == 200
    head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = json.dumps(ASK).encode()
    await raw.send(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert (await raw.answer())[0] == 200
    assert [received.body for received in provider.received] == [body, body]
    await raw.send(f"GET /v1/models HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\n\r\n".encode())
    assert (await raw.answer())[0] == 200


async def test_a_body_that_comes_slowly_is_not_lost(
    raw: RawClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come when the fast lane gives up goes over with the connection."""
    monkeypatch.setattr(front, "_SLOW", 0.02)
    provider.script = a_message
    body = json.dumps(ASK).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\nContent-Length: {len(body)}\r\n\r\n"
    await raw.send(head.encode() + body[:7])
    await asyncio.sleep(0.1)
    await raw.send(body[7:])
    assert (await raw.answer())[0] == 200
    assert provider.received[0].body == body


async def test_an_idle_connection_is_closed(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "IDLE", 0.05)
    async with connected(gateway.port) as raw:
        assert await raw.reader.read() == b""


@pytest.mark.parametrize("begun", [b"POST /v1/mess", b"GET /v1/models HTTP/1.1\r\nHost: h\r\nX-A"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_head_that_does_not_come_is_not_waited_for(
    document: dict[str, Any], keys: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes, is_first: bool
) -> None:
    """Be it aiohttp that waits for the rest of it."""
    monkeypatch.setattr(front, "_SLOW", 0.02)
    monkeypatch.setattr(hosting, "IDLE", 0.3)
    async with running_gateway(document, keys) as gateway, connected(gateway.port) as raw:
        if not is_first:
            await raw.send(f"GET /v1/models HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\n\r\n".encode())
            assert (await raw.answer())[0] == 200
        await raw.send(begun)
        assert await asyncio.wait_for(raw.reader.read(), 5) == b""


async def test_what_runs_for_longer_than_a_head_may_take_is_not_cut(
    document: dict[str, Any], provider: Provider, keys: Path, monkeypatch: pytest.MonkeyPatch, lane: str
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.stream(ANTHROPIC_EVENTS, pause=0.05)

    provider.script = script
    monkeypatch.setattr(hosting, "IDLE", 0.1)
    async with running_gateway(document, keys) as gateway, connected(gateway.port) as raw:
        await raw.post(STREAM)
        await raw.head()
        assert await _chunks(raw) == b"".join(ANTHROPIC_EVENTS)
