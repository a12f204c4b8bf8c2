"""What goes on after a handler has ended is bounded, and nothing of it is forgotten."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from goproxy.core.ledger import Row
from goproxy.core.outcome import Outcome
from goproxy.data_plane import settler
from goproxy.data_plane.drain import Drains
from goproxy.data_plane.journal import Told
from tests.bookkeeping import a_hold, a_row
from tests.conftest import Lines
from tests.gateway import Running, config_document, endpoints_at, running_gateway
from tests.provider import Provider, Received, Wire
from tests.raw import connected

Eventually = Callable[..., Any]
ASK = {"model": "claude-opus-4-5", "max_tokens": 50, "messages": [], "stream": True}


async def never_answer(_: Received, wire: Wire) -> None:
    await wire.until_closed()


async def leave_early(gateway: Running, provider: Provider, eventually: Eventually) -> None:
    """A client that leaves while the upstream thinks."""
    before = provider.open_connections
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await eventually(lambda: provider.open_connections == before + 1)
        raw.reset()


async def test_an_answer_that_never_begins_does_not_hold_up_the_leaving(
    gateway: Running, provider: Provider, eventually: Eventually
) -> None:
    provider.script = never_answer
    await leave_early(gateway, provider, eventually)
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await gateway.gateway.settler.finish(0.2)
    assert time.monotonic() - began < 15  # the answer that never begins has 20
    (row,) = await gateway.rows()
    assert (row["settlement"], row["outcome"], row["status"]) == ("estimated", "client_gone", 0)
    await eventually(lambda: provider.open_connections == 0)


async def test_answers_that_have_not_begun_count_as_drains(
    provider: Provider, keys: Any, eventually: Eventually
) -> None:
    provider.script = never_answer
    document = config_document(endpoints=endpoints_at(provider.url), disconnect={"concurrent": 1, "seconds": 1})
    async with running_gateway(document, keys) as gateway:
        await leave_early(gateway, provider, eventually)
        await leave_early(gateway, provider, eventually)
        await eventually(lambda: provider.open_connections == 1)  # the second was given up at once
        await eventually(lambda: provider.open_connections == 0, seconds=3)  # the first when its time was over
        assert [row["outcome"] for row in await gateway.rows()] == ["client_gone"] * 2


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_that_tells_its_length_ends_for_the_client_too(
    client: aiohttp.ClientSession, provider: Provider, asked: bool
) -> None:
    """What is withheld would be waited for."""
    content = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}],"usage":null}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n'
    whole = content + usage + b"data: [DONE]\n\n"

    async def script(_: Received, wire: Wire) -> None:
        await wire.head(200, ("Content-Type", "text/event-stream"), ("Content-Length", str(len(whole))))
        await wire.send(whole)

    provider.script = script
    sent = json.dumps(ASK | ({"stream_options": {"include_usage": True}} if asked else {})).encode()
    async with asyncio.timeout(30), client.post("v1/chat/completions", data=sent) as answer:
        assert await answer.read() == (whole if asked else whole.replace(usage, b""))


async def test_answers_wait_to_be_settled_together_until_there_are_many(
    gateway: Running, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(settler, "_MOMENT", 60)
    books = gateway.books
    for _ in range(settler._MANY - 1):
        async with client.post("v1/messages", json=ASK | {"stream": False}) as answer:
            await answer.read()
    await asyncio.sleep(0.1)
    assert books.standing.open_requests == settler._MANY - 1
    async with client.post("v1/messages", json=ASK | {"stream": False}) as answer:
        await answer.read()
    await eventually(lambda: books.standing.open_requests == 0)


async def test_a_settlement_that_fails_hinders_none_that_is_made_with_it(
    gateway: Running,
    client: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    lines: Lines,
) -> None:
    monkeypatch.setattr(settler, "_MOMENT", 60)
    for _ in range(2):
        async with client.post("v1/messages", json=ASK | {"stream": False}) as answer:
            await answer.read()
    await eventually(lambda: len(gateway.gateway.settler._over) == 2)
    settle, fails = gateway.books.settle, [True]

    def fail_once(row: Row, told: Told) -> asyncio.Future[bytes]:
        if fails:
            fails.pop()
            raise ZeroDivisionError
        return settle(row, told)

    monkeypatch.setattr(gateway.books, "settle", fail_once)
    await gateway.gateway.settler.settled()
    assert gateway.books.standing.open_requests == 1, "its hold is in the journal: the next start makes a row of it"
    assert len(lines.all("settling failed")) == 1


async def test_an_answer_that_comes_as_it_is_given_up_is_closed() -> None:
    """Or its connection would be open for as long as the provider likes to talk."""
    closed = []
    answer: Any = SimpleNamespace(close=lambda: closed.append(True))

    async def send() -> Any:
        return answer

    sending = asyncio.create_task(send())
    await asyncio.sleep(0)
    record = SimpleNamespace(outcome=Outcome.SHUTDOWN, request_id="req_1")
    exchange: Any = SimpleNamespace(hold=a_hold("req_1"), record=record, row=lambda: a_row(a_hold("req_1")))

    def settle(_: Row, told: Told) -> asyncio.Future[bytes]:
        written = asyncio.ensure_future(asyncio.sleep(0, b""))
        written.add_done_callback(told)
        return written

    ledger: Any = SimpleNamespace(settle=settle)
    drains = Drains(seconds=1, bytes=1000, concurrent=1)
    told: list[str] = []
    after = settler.Settler(ledger, drains, lambda record, row: told.append(row.id))
    after.after_sending(exchange, sending)
    await after.settled()
    assert (closed, told, record.outcome) == ([True], ["req_1"], Outcome.SHUTDOWN)
