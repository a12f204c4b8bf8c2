"""Several processes that serve one upstream on one port: to clients, ledger and operators they are one."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from goproxy.data_plane import shared_rates
from goproxy.data_plane.rate_limits import OwnRates
from goproxy.data_plane.scoreboard import Scoreboard, State
from goproxy.data_plane.shared_rates import SharedRates
from goproxy.data_plane.tally import TALLY_BYTES, SharedTally
from goproxy.data_plane.workers import Workers
from goproxy.hosting import Readiness
from tests.backend import Backend
from tests.conftest import Lines
from tests.process import Serving, noted, serving
from tests.provider import Provider, Received, Wire
from tests.raw import connected
from tests.test_beside import ask
from tests.test_outages import ASK, NOTED, START, rows_of, say_all


def children(served: Serving) -> list[int]:
    pid = served.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def metrics(port: int) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    return {name: float(value) for name, value in (
        line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")
    )}  # fmt: skip


async def readiness(port: int) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
        return answer.status, await answer.json()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def workers(
    document: dict[str, Any], backend: Backend, directory: Path, processes: int = 2, **more: Any
) -> AsyncIterator[Serving]:
    async with serving(document | {"processes": processes}, backend, directory, **more) as served:
        await until(lambda: len(served.said("listening")) == processes)
        async with asyncio.timeout(30):
            while (await readiness(served.port))[0] != 200:
                await asyncio.sleep(0.02)
        yield served
        assert served.process.returncode is not None or children(served)
        if served.process.returncode is None:
            served.process.terminate()
            assert await asyncio.wait_for(served.process.wait(), 20) == 0


def halting(go_on: asyncio.Event) -> Callable[[Received, Wire], Awaitable[None]]:
    """Streams that begin, and end when they are told to."""

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(START)
        await go_on.wait()
        await wire.end_stream()

    return script


def total(counted: dict[str, float], name: str) -> float:
    return sum(value for key, value in counted.items() if key.startswith(f"{name}{{"))


async def until_told(port: int, name: str, value: float) -> dict[str, float]:
    """The metrics, once each process has told the others how it stands."""
    async with asyncio.timeout(30):
        while total(told := await metrics(port), name) != value:
            await asyncio.sleep(0.05)
    return told


async def test_a_killed_process_is_followed_and_its_siblings_streams_do_not_notice(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """Its open requests become rows at once, what it counted stays counted, and the wallet is right to the end."""
    go_on = asyncio.Event()
    async with workers(document, backend, tmp_path / "workers") as served:
        first, second = children(served)
        provider.script = say_all
        for _ in range(6):
            assert (await ask(served.port))[0] == 200
        provider.script = halting(go_on)
        async with AsyncExitStack() as stack:
            raws = [await stack.enter_async_context(connected(served.port)) for _ in range(12)]
            ids = set()
            for raw in raws:
                await raw.post(ASK)
                _, headers = await raw.head()
                ids.add(headers["x-request-id"])
                assert await raw.chunk() == START
            await until(lambda: noted(tmp_path / "workers") >= ids)
            before = await until_told(served.port, "goproxy_holds", 12)
            assert total(before, "goproxy_requests_in_flight") == total(before, "goproxy_holds") == 12
            assert total(before, "goproxy_requests_total") == 6
            os.kill(first, signal.SIGKILL)
            await until(lambda: len(children(served)) == 2 and first not in children(served))
            assert second in children(served)
            provider.script = say_all
            for _ in range(10):
                assert (await ask(served.port))[0] == 200
            await until(lambda: len(served.said("listening")) == 3)
            go_on.set()
            ends = await asyncio.gather(*(raw.chunk() for raw in raws), return_exceptions=True)
        unhurt = sum(end == b"" for end in ends)
        assert 0 < unhurt < 12, "both processes served some of them"
        rows = await rows_of(backend, 28)
        assert sorted(row["settlement"] for row in rows).count("interrupted") == 12 - unhurt
        assert all(row["cost_nanodollars"] == NOTED for row in rows if row["settlement"] == "interrupted")
        assert len(provider.received) == len({row["id"] for row in rows}) == 28
        after = await until_told(served.port, "goproxy_requests_in_flight", 0)
        assert total(after, "goproxy_requests_total") == total(after, "goproxy_rows_total") == 28
        assert {name.split('"')[1]: int(value) for name, value in after.items() if "goproxy_rows_total{" in name} == (
            Counter(row["settlement"] for row in rows)
        )
        assert total(after, "goproxy_cost_nanodollars_total") == sum(row["cost_nanodollars"] for row in rows)
        assert total(after, "goproxy_holds") == total(after, "goproxy_requests_in_flight") == 0
        assert all(after[name] >= value for name, value in before.items() if name.split("{")[0].endswith("_total"))
        assert total(after, "goproxy_journal_syncs") >= total(before, "goproxy_journal_syncs") > 0
    leases = (await backend.get("leases"))["leases"]
    assert all(lease["held_nanodollars"] == 0 for lease in leases)


async def test_a_rate_limit_holds_for_all_processes_together(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    provider.script = say_all
    async with workers(document, backend, tmp_path / "workers") as served:
        made = await backend.post("accounts/alice/keys", {"requests_per_minute": 8})
        key = made["key"]
        await asyncio.sleep(2)  # both have heard of it
        began, statuses = time.monotonic(), list[int]()
        for _ in range(3):
            statuses += await asyncio.gather(*(_ask_as(key, served.port) for _ in range(16)))
        refilled = 8 * (time.monotonic() - began) / 60
        assert 8 <= statuses.count(200) <= 8 + refilled
        assert set(statuses) == {200, 429}
        await backend.post(f"keys/{made['id']}/revoke", {})
        async with asyncio.timeout(30):
            while {401} != set(await asyncio.gather(*(_ask_as(key, served.port) for _ in range(16)))):
                await asyncio.sleep(0.05)


async def _ask_as(key: str, port: int) -> int:
    headers = {"x-api-key": key, "connection": "close"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"http://127.0.0.1:{port}/v1/messages", json=ASK) as answer,
    ):
        await answer.read()
        return answer.status


async def test_two_instances_take_turns_and_sigterm_cuts_nothing(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """A rollout: the new instance beside the old one, which leaves while its streams go on to their ends."""
    go_on = asyncio.Event()
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(workers(document, backend, tmp_path / "old", grace=45))
        provider.script = halting(go_on)
        raws = [await stack.enter_async_context(connected(old.port)) for _ in range(8)]
        for raw in raws:
            await raw.post(ASK)
            await raw.head()
            assert await raw.chunk() == START
        provider.script = say_all
        new = await stack.enter_async_context(workers(document, backend, tmp_path / "new", beside=tmp_path / "old"))
        assert len(new.said("ready to serve beside the other instance")) == 2
        both = await asyncio.gather(*(ask(port) for port in (old.port, new.port) * 5))
        assert {status for status, _ in both} == {200}
        old.process.terminate()
        await until(lambda: len(old.said("leaving")) == 2)
        await asyncio.sleep(0.5)
        with pytest.raises(ConnectionError):
            await ask(old.port)
        assert (await ask(new.port))[0] == 200
        go_on.set()
        assert [await raw.chunk() for raw in raws] == [b""] * 8
        assert await asyncio.wait_for(old.process.wait(), 30) == 0
        rows = await rows_of(backend, 19)
        assert len({row["id"] for row in rows}) == len(provider.received) == 19


async def test_each_process_may_open_as_many_files_as_the_hard_limit_says(
    document: dict[str, Any], backend: Backend, tmp_path: Path
) -> None:
    """A stream takes two, and a container's soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with workers(document, backend, tmp_path / "workers") as served:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for process in children(served):
                assert resource.prlimit(process, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_workers_that_cannot_start_say_so_and_end(
    document: dict[str, Any], backend: Backend, tmp_path: Path
) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "journal").write_text("no directory")
    async with serving(document | {"processes": 2}, backend, tmp_path / "workers", is_awaited=False) as served:
        assert await asyncio.wait_for(served.process.wait(), 20) == 1
        assert not served.said("listening")


def test_ready_are_all_or_none_and_a_stuck_one_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Scoreboard(2).places
    fine = Readiness(True, "serving")
    assert first.readiness(fine).detail == "process 2 of 2 is being started"
    second.state = State.SERVING
    second.beat(Readiness(False, "no API keys"), {"holds": 3})
    assert first.readiness(fine).detail == "process 2 of 2: no API keys"
    second.beat(fine, {"holds": 3})
    assert first.readiness(fine) == fine
    assert not first.readiness(Readiness(False, "no journal")).ready
    assert first.illness() is None
    later = time.monotonic() + 11
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert str(first.illness()).startswith("process 2 of 2 has been stuck for 11")
    second.vacate()
    assert first.illness() is None
    assert dict(second.gauges.items()) == {"holds": 0}


def test_drains_are_counted_over_all_processes_and_a_dead_ones_are_over() -> None:
    first, second = Scoreboard(2).places
    assert [first.begin_drain(3), second.begin_drain(3), second.begin_drain(3)] == [True] * 3
    assert not first.begin_drain(3)
    second.vacate()
    assert [first.begin_drain(3), first.begin_drain(3), second.begin_drain(3)] == [True, True, False]
    first.end_drain()
    assert second.begin_drain(3)


def test_what_was_counted_outlives_who_counted_it() -> None:
    """Who follows has the object that was made before the first one counted: the parent was forked twice."""
    memory = memoryview(bytearray(TALLY_BYTES))
    mine, theirs, following = SharedTally(memory), SharedTally(memory), SharedTally(memory)
    mine.numbers[mine.index("requests\nok")] += 2
    mine.numbers[mine.index("tokens")] += 7
    assert dict(theirs.items()) == {"requests\nok": 2, "tokens": 7}
    following.numbers[following.index("rows")] += 5
    following.numbers[following.index("requests\nok")] += 1
    assert dict(theirs.items()) == dict(following.items()) == {"requests\nok": 3, "tokens": 7, "rows": 5}
    for number in range(2000):
        following.index(f"name {number}")
    following.numbers[following.index("one too many")] += 1
    assert dict(theirs.items())["other"] == 1


def test_a_name_is_not_written_over_the_next_one() -> None:
    tally = SharedTally(memoryview(bytearray(TALLY_BYTES)))
    tally.index("x" * 127)
    with pytest.raises(ValueError, match="is longer than 127 bytes"):
        tally.index("y" * 128)
    tally.index("z")
    assert [name for name, _ in tally.items()] == ["x" * 127, "z"]


def test_processes_that_count_at_the_same_time_lose_nothing() -> None:
    board = Scoreboard(2)
    limits = 10_000, None
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            let_in = sum(board.rates.admit("key", limits, 0.0) is None for _ in range(4000))
            os._exit(let_in // 100 if let_in % 100 == 0 else 255)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert board.rates.admit("key", limits, 0.0) is not None
    assert board.rates.admit("key", limits, 60 / 10_000 * 1.5) is None


@pytest.mark.parametrize("keys", [1, 40])
def test_a_shared_rate_is_what_one_process_would_count(keys: int) -> None:
    """The same questions to both: the same answers, even where keys come and go."""
    shared, own = Scoreboard(1).rates, OwnRates()
    for step in range(3000):
        now, key, limits = step * 0.37, f"key {step * 7 % keys}", (30 + step * 7 % keys, 5000)
        assert shared.admit(key, limits, now) == own.admit(key, limits, now)
        shared.used(key, step % 400, now)
        own.used(key, step % 400, now)


def test_two_processes_that_do_not_agree_on_a_limit_let_in_no_more_than_it() -> None:
    """One has heard of the other limit, one has not: what is left is neither's to begin anew."""
    rates, limit = Scoreboard(1).rates, 8
    let_in = [rates.admit("key", (limit + step % 2, None), 0.0) is None for step in range(40)]
    assert limit <= sum(let_in) <= limit + 1
    assert rates.admit("key", (2 * limit, None), 30.0) is None


def test_a_process_that_cannot_be_started_is_tried_again_while_another_one_serves(
    monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    def none_left() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", none_left)
    board = Scoreboard(2)
    workers = Workers(board, [], lambda _place, _sockets: 0)
    first, second = board.places
    second.state = State.SERVING
    workers._start(first)
    assert workers._due == {1: pytest.approx(time.monotonic() + 15, abs=5)}
    (line,) = lines.all("process 1 of 2 ended; another one follows it")
    assert line["how"] == "Resource temporarily unavailable as it was to be started"
    second.vacate()
    workers._start(first)
    assert workers._failed is not None
    assert workers._failed.startswith("process 1 of 2 ended with Resource temporarily unavailable")


def test_only_full_entries_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rates, "_ENTRIES", 4)
    monkeypatch.setattr(shared_rates, "_NEAR", 4)
    rates = Scoreboard(1).rates
    for key in "abcd":
        assert rates.admit(key, (2, None), 0.0) is None
    assert rates.admit("e", (2, None), 40.0) is None  # the others' minute is over: each is full again
    assert rates.admit("e", (2, None), 40.0) is None
    for key in "abcd":
        rates.admit(key, (2, None), 40.0)
    assert rates.admit("e", (2, None), 40.0) is not None


def test_an_entry_that_was_given_up_is_made_again_of_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rates, "_NEAR", 1)
    monkeypatch.setattr(shared_rates, "_ENTRIES", 1)
    rates, limits = Scoreboard(1).rates, (None, 100)
    for key in "ab":
        assert rates.admit(key, limits, 0.0) is None
    rates.used("a", 100, 0.0)
    assert rates.admit("a", limits, 0.0) is not None


def test_behind_the_tables_last_place_comes_its_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rates, "_NEAR", 2)
    monkeypatch.setattr(shared_rates, "_ENTRIES", 2)
    rates = SharedRates(memoryview(bytearray(2 * shared_rates._ENTRY.size)), nullcontext)
    for key in "abcdefgh":  # from either place, as their digests say
        assert rates.admit(key, (1, None), 0.0) is None
        assert rates.admit(key, (1, None), 0.0) is not None
