"""What a request feels, and what the ledger has afterwards, when the backend, the disk or the proxy itself fails."""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.backend import Backend
from tests.crash.promises import read
from tests.gateway import ALICE, OPUS, Running
from tests.process import Serving, serving
from tests.provider import Provider, Received, Wire
from tests.raw import RawClient, connected
from tests.streams import anthropic_stream, message_start

ASK = {"model": OPUS["id"], "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "Hello" * 50}]}
START = message_start({"input_tokens": 9, "output_tokens": 1})
WHOLE = anthropic_stream({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 7})
COST = 9 * 5400 + 7 * 27000
NOTED = 9 * 5400 + 1 * 27000
"""What START tells."""

Row = dict[str, Any]


async def rows_of(backend: Backend, count: int, seconds: float = 10) -> list[Row]:
    """The ledger, once it has so many rows."""
    rows: list[Row] = []
    async with asyncio.timeout(seconds):
        while len(rows) < count:
            await asyncio.sleep(0.02)
            rows = (await backend.get("rows", kind="request", limit="1000"))["rows"]
    await asyncio.sleep(0.1)  # what is one too many may come late
    rows = (await backend.get("rows", kind="request", limit="1000"))["rows"]
    assert Counter(row["id"] for row in rows).most_common(1)[0][1] == 1
    assert len(rows) == count
    return rows


async def say_all(_: Received, wire: Wire) -> None:
    await wire.stream(WHOLE)


class Load:
    """Clients that ask one thing after the other, and remember what went wrong."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/messages"
        self.answered = 0
        self.failed: list[str] = []
        self._is_over = False

    async def _ask_on(self, session: aiohttp.ClientSession) -> None:
        while not self._is_over:
            try:
                async with session.post(self._url, json=ASK) as answer:
                    body = await answer.read()
            except aiohttp.ClientError as error:
                self.failed.append(repr(error))
            else:
                if (answer.status, body) != (200, b"".join(WHOLE)):
                    self.failed.append(f"{answer.status} {body!r}")
                self.answered += 1
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def running(self, clients: int = 5) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(headers={"x-api-key": ALICE}) as session, asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._ask_on(session))
            yield
            self._is_over = True

    async def go_on(self, seconds: float, at_least: int) -> None:
        """Wait so long, and until so many more are answered."""
        before = self.answered
        await asyncio.sleep(seconds)
        async with asyncio.timeout(30):
            while self.answered < before + at_least:
                await asyncio.sleep(0.01)


async def test_a_backend_that_is_away_under_load_is_not_felt_and_misses_nothing(
    gateway: Running, provider: Provider
) -> None:
    provider.script = say_all
    load = Load(gateway.port)
    async with load.running():
        await load.go_on(0, at_least=5)
        await gateway.backend.stop()
        await load.go_on(1, at_least=20)
        assert gateway.books.standing.unposted_rows > 0
        await gateway.backend.start()
        await load.go_on(0, at_least=5)
    assert load.failed == []
    rows = await rows_of(gateway.backend, load.answered)
    assert len(provider.received) == load.answered
    assert {row["cost_nanodollars"] for row in rows} == {COST}


async def test_a_store_that_is_locked_under_load_is_not_felt_and_misses_nothing(
    gateway: Running, provider: Provider
) -> None:
    provider.script = say_all
    load = Load(gateway.port)
    async with load.running():
        await load.go_on(0, at_least=5)
        other = sqlite3.connect(gateway.backend.directory / "backend.sqlite3", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        await load.go_on(1.5, at_least=20)
        assert gateway.books.standing.unposted_rows > 0
        other.execute("ROLLBACK")
        other.close()
        await load.go_on(0, at_least=5)
    assert load.failed == []
    rows = await rows_of(gateway.backend, load.answered)
    assert {row["cost_nanodollars"] for row in rows} == {COST}


async def test_a_request_beyond_the_lease_is_503_while_the_backend_is_away(
    gateway: Running, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.books._desk, "_lease_wait", 0.3)  # seconds that a request waits for more
    provider.script = say_all
    large = json.dumps(ASK | {"max_tokens": 64000}).encode()  # 1.7 dollars; a lease is one beyond what was needed
    async with aiohttp.ClientSession(headers={"x-api-key": ALICE}) as session:
        url = gateway.url + "/v1/messages"
        async with session.post(url, json=ASK) as answer:
            assert answer.status == 200
        await gateway.backend.stop()
        async with session.post(url, data=large) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["type"]) == (503, "api_error")
            assert "cannot check your credit" in error["message"]
        async with session.post(url, json=ASK) as answer:
            assert answer.status == 200
    assert len(provider.received) == 2


async def status_of(served: Serving) -> int:
    url = f"http://127.0.0.1:{served.port}/v1/messages"
    async with aiohttp.ClientSession(headers={"x-api-key": ALICE}) as session, session.post(url, json=ASK) as answer:
        await answer.read()
        return answer.status


def limit_files(served: Serving, size: int) -> None:
    """Let no file of this process grow beyond so many bytes, as on a disk that takes no more; -1: let them."""
    _, hard = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_a_journal_that_takes_nothing_refuses_before_the_upstream_is_asked_and_recovers(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    go_on = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(WHOLE[0])
        await go_on.wait()
        for event in WHOLE[1:]:
            await wire.chunk(event)
        await wire.end_stream()

    provider.script = script
    async with serving(document, backend, tmp_path) as served, connected(served.port) as raw:
        await raw.post(ASK)
        assert (await raw.head())[0] == 200
        limit_files(served, 0)
        assert [await status_of(served) for _ in range(3)] == [503] * 3
        async with connected(served.port) as other:
            await other.send(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
            status, body = await other.answer()
            assert (status, b"the journal cannot be written" in body) == (503, True)
        assert len(provider.received) == 1
        go_on.set()
        got = b""
        while chunk := await raw.chunk():
            got += chunk
        assert got == b"".join(WHOLE), "what runs is not disturbed"
        limit_files(served, -1)
        provider.script = say_all
        async with asyncio.timeout(30):
            while await status_of(served) != 200:
                await asyncio.sleep(0.1)
        rows = await rows_of(backend, 2)
    assert {(row["settlement"], row["cost_nanodollars"]) for row in rows} == {("exact", COST)}
    assert len(provider.received) == 2


async def test_a_proxy_that_is_killed_leaves_one_row_of_each_request(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    async def script(request: Received, wire: Wire) -> None:
        kind = request.header("x-kind")
        if kind == "silent":
            await wire.until_closed()
        elif kind == "begun":
            await wire.begin_stream()
            await wire.chunk(START)
            await wire.until_closed()
        else:
            await wire.stream(WHOLE)

    provider.script = script
    journal = tmp_path / "journal"
    ids: dict[str, list[str]] = {"whole": [], "begun": []}

    async def begin(kind: str, raw: RawClient) -> None:
        await raw.post(ASK, "/v1/messages", f"x-kind: {kind}")
        if kind == "silent":
            return
        _, headers = await raw.head()
        ids[kind].append(headers["x-request-id"])
        while chunk := await raw.chunk():
            if kind == "begun":
                assert chunk == START
                break

    def is_noted() -> bool:
        state = read(journal).state
        return len(state.holds) == 6 and {*ids["begun"]} == {*state.progress}

    kinds = ("whole", "begun", "silent") * 3
    async with serving(document, backend, tmp_path) as served, AsyncExitStack() as connections:
        raws = [await connections.enter_async_context(connected(served.port)) for _ in kinds]
        await asyncio.gather(*(begin(kind, raw) for kind, raw in zip(kinds, raws, strict=True)))
        async with asyncio.timeout(30):
            while not is_noted():
                await asyncio.sleep(0.05)
        served.process.kill()
        await served.process.wait()
    assert len(provider.received) == 9
    async with serving(document, backend, tmp_path) as served:
        rows = {row["id"]: row for row in await rows_of(backend, 9)}
        assert await status_of(served) == 200
        await rows_of(backend, 10)
    async with serving(document, backend, tmp_path):  # killed once more: what is settled stays settled
        assert {row["id"] for row in await rows_of(backend, 10)} > rows.keys()
    how = {id_: (row["settlement"], row["cost_nanodollars"]) for id_, row in rows.items()}
    assert [how.pop(id_) for id_ in ids["whole"]] == [("exact", COST)] * 3
    assert [how.pop(id_) for id_ in ids["begun"]] == [("interrupted", NOTED)] * 3
    assert [*how.values()] == [("interrupted", 0)] * 3
    (wallet,) = (await backend.get("wallets", account="alice"))["wallets"]
    assert wallet["spent_nanodollars"] == 3 * COST + 3 * NOTED + COST
    assert wallet["credits_nanodollars"] == sum(wallet[f"{part}_nanodollars"] for part in ("balance", "held", "spent"))
