"""Giving memory back: a process that had a rush begins anew when nobody asks, and nobody is refused for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from goproxy.data_plane import recycling
from goproxy.data_plane.recycling import Recycling
from goproxy.hosting import Stay
from tests.backend import Backend
from tests.gateway import Running
from tests.process import Serving, serving
from tests.provider import Provider, Received, Wire
from tests.test_beside import ask, said
from tests.test_outages import rows_of, say_all
from tests.test_workers import children, metrics, until, workers

EAGER = """
import sys
from goproxy.cli import main
from goproxy.data_plane import recycling
recycling.GROWN = 0
sys.exit(main(["serve"]))
"""
"""A goproxy that begins anew whenever it is quiet, however little memory it has."""

QUIET = 0.5


@asynccontextmanager
async def eager(
    document: dict[str, Any], backend: Backend, directory: Path, quiet: float = QUIET
) -> AsyncIterator[Serving]:
    environment = {"RECYCLE_AFTER_SECONDS": str(quiet)}
    async with serving(document, backend, directory, program=("-c", EAGER), environment=environment) as served:
        yield served


async def test_it_begins_anew_and_who_comes_meanwhile_is_served(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    provider.script = say_all
    async with eager(document, backend, tmp_path) as served:
        assert (await ask(served.port))[0] == 200
        listening = listening_sockets(served)
        for times in (1, 2):
            await until(lambda times=times: len(said(served, "leaving")) == times)  # type: ignore[misc]
            asked = []
            while len(said(served, "listening")) == times:
                asked.append(asyncio.create_task(ask(served.port)))
                await asyncio.sleep(0.02)
            assert len(asked) > 1
            assert {status for status, _ in await asyncio.gather(*asked)} == {200}
        count = len(provider.received)
        rows = await rows_of(backend, count)
        assert [line["instance"] for line in said(served, "journal read")] == [rows[0]["instance"]] * 3
        assert listening_sockets(served) == listening == 1
        served.process.terminate()
        assert await asyncio.wait_for(served.process.wait(), 20) == 0


def listening_sockets(served: Serving) -> int:
    """How many descriptors of the process are sockets that listen on IPv4."""
    inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"}
    number = 0
    for each in Path(f"/proc/{served.process.pid}/fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            number += str(each.readlink()).removeprefix("socket:[").removesuffix("]") in inodes
    return number


async def test_a_process_that_is_told_to_leave_while_it_begins_anew_serves_who_has_come(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    provider.script = say_all
    async with eager(document, backend, tmp_path) as served:
        await until(lambda: bool(said(served, "left")))
        asked = asyncio.create_task(ask(served.port))
        await asyncio.sleep(0.02)
        served.process.terminate()
        assert (await asked)[0] == 200
        assert await asyncio.wait_for(served.process.wait(), 20) == 0
        assert len(said(served, "listening")) == 2
        await rows_of(backend, 1)


@pytest.mark.parametrize("name", ["config.json", "secret", "token"])
async def test_what_changed_on_the_disk_is_left_to_a_rollout(
    document: dict[str, Any], backend: Backend, tmp_path: Path, name: str
) -> None:
    """A configuration that it does not know would keep it from starting, and nobody goes back to the former one."""
    async with eager(document, backend, tmp_path) as served:
        former = (tmp_path / name).read_text()
        changed = json.loads(former) | {"of_a_later_release": 1} if name == "config.json" else former.strip() + "-2"
        (tmp_path / name).write_text(json.dumps(changed) if name == "config.json" else str(changed))
        await asyncio.sleep(4 * QUIET)
        assert not said(served, "leaving")
        (tmp_path / name).write_text(former)
        await until(lambda: bool(said(served, "leaving")))


async def test_workers_begin_anew_one_by_one_and_count_on(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    provider.script = say_all
    environment = {"RECYCLE_AFTER_SECONDS": "1"}
    async with workers(document, backend, tmp_path, program=("-c", EAGER), environment=environment) as served:
        former = set(children(served))
        assert {status for status, _ in await asyncio.gather(*[ask(served.port) for _ in range(10)])} == {200}
        await until(lambda: not former & set(children(served)))
        assert {status for status, _ in await asyncio.gather(*[ask(served.port) for _ in range(10)])} == {200}
        await rows_of(backend, 20)
        counted = await metrics(served.port)
        assert sum(value for name, value in counted.items() if name.startswith("goproxy_requests_total")) == 20
        assert len(said(served, "process 1 of 2 left; another one begins anew in its place")) >= 1
        assert not said(served, "process 1 of 2 ended; another one follows it")


async def begins_anew(gateway: Running, wanted: Recycling, seconds: float = 0.5) -> bool:
    """Whether it does within so many seconds."""
    stay = Stay()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wanted.watch(stay, gateway.books, gateway.gateway.observer)
    return stay.begins_anew


async def test_it_begins_anew_only_when_that_is_worth_it(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    await eventually(lambda: gateway.books.is_settled and gateway.books.standing.control_problem is None)
    assert not await begins_anew(gateway, Recycling(0.1, lambda: True))
    monkeypatch.setattr(recycling, "GROWN", 0)
    assert await begins_anew(gateway, Recycling(0.1, lambda: True), 30)
    assert not await begins_anew(gateway, Recycling(0, lambda: True))
    assert not await begins_anew(gateway, Recycling(0.1, lambda: False))


async def test_it_does_not_begin_anew_while_somebody_is_served_or_was_lately(
    gateway: Running, provider: Provider, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    monkeypatch.setattr(recycling, "GROWN", 0)
    go_on = asyncio.Event()

    async def halting(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await go_on.wait()
        await wire.end_stream()

    provider.script = halting
    asked = asyncio.create_task(ask(gateway.port))
    await eventually(lambda: bool(provider.received))
    assert not await begins_anew(gateway, Recycling(0.1, lambda: True))
    go_on.set()
    await asked
    await gateway.rows()
    provider.script = say_all

    async def often() -> None:
        while True:
            await ask(gateway.port)
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(often())
    assert not await begins_anew(gateway, Recycling(0.3, lambda: True), 1)
    asking.cancel()
    assert await begins_anew(gateway, Recycling(0.3, lambda: True), 30)


async def test_it_does_not_begin_anew_while_the_backend_is_away(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    monkeypatch.setattr(recycling, "GROWN", 0)
    await gateway.backend.stop()
    await eventually(lambda: gateway.books.standing.control_problem is not None)
    assert not await begins_anew(gateway, Recycling(0.1, lambda: True))


def test_one_that_leaves_for_good_does_not_begin_anew() -> None:
    stay = Stay()
    stay.ask_to_leave()
    stay.ask_to_begin_anew()
    assert stay.is_told_to_leave
    assert not stay.begins_anew
