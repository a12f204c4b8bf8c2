"""Giving memory back: a process that had a rush begins anew when nobody asks, and nobody is refused for it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from goproxy import hosting
from goproxy.data_plane import recycling
from goproxy.data_plane.acceptor import acceptor_of
from goproxy.data_plane.recycling import Recycling, listeners_of
from goproxy.data_plane.scoreboard import Scoreboard
from goproxy.data_plane.server import front_of, make_app
from goproxy.hosting import Stay, host
from tests.backend import Backend
from tests.gateway import Running, endpoints_at
from tests.process import Serving, free_port, serving
from tests.provider import Provider, Received, Wire
from tests.raw import RawClient, connected
from tests.test_beside import ask
from tests.test_outages import ASK, rows_of, say_all
from tests.test_workers import children, halting, metrics, until, workers

EAGER = """
import os, signal, sys
from goproxy.cli import main
from goproxy.data_plane import books, recycling
os.environ["LIFE"] = str(int(os.environ.get("LIFE", 0)) + 1)
if int(os.environ["LIFE"]) <= 2:
    recycling.GROWN = -(10**12)
{}
sys.exit(main(["serve"]))
"""
"""A goproxy that begins anew twice, when it is quiet, however little memory it has."""

TOLD = {
    "as its books close": """
close = books.Books.close
async def close_and_be_told(self):
    await close(self)
    if os.environ["LIFE"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
books.Books.close = close_and_be_told
""",
    "when the event loop is no more": """
pass_on = recycling.pass_on_signals
def be_told_and_pass_on(stay):
    os.kill(os.getpid(), signal.SIGTERM)
    pass_on(stay)
recycling.pass_on_signals = be_told_and_pass_on
""",
    "as the next one starts": """
if os.environ["LIFE"] == "2":
    os.kill(os.getpid(), signal.SIGTERM)
""",
}

WHEN_LET = """
import pathlib, time
while int(os.environ["LIFE"]) > 1 and not pathlib.Path("{}", "go-" + os.environ["LIFE"]).exists():
    time.sleep(0.01)
"""
"""The next life starts when the test lets it: whatever the machine does, somebody comes before that."""

ANEW = "beginning anew, to give memory back"

QUIET = 0.5


@asynccontextmanager
async def eager(
    document: dict[str, Any], backend: Backend, directory: Path, more: str = "", **environment: str
) -> AsyncIterator[Serving]:
    variables = {"RECYCLE_AFTER_SECONDS": str(QUIET)} | environment
    program = ("-c", EAGER.format(more))
    async with serving(document, backend, directory, program=program, environment=variables) as served:
        yield served


async def test_it_begins_anew_and_who_comes_meanwhile_is_served(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    provider.script = say_all
    async with eager(document, backend, tmp_path, WHEN_LET.format(tmp_path)) as served:
        given = inherited(served)
        assert (await ask(served.port))[0] == 200
        for times in (1, 2):
            await until(lambda times=times: len(served.said("leaving")) == times)  # type: ignore[misc]
            asked = [asyncio.create_task(ask(served.port)) for _ in range(2)]
            await asyncio.sleep(0.02)
            (tmp_path / f"go-{times + 1}").touch()
            while len(served.said("listening")) == times:
                asked.append(asyncio.create_task(ask(served.port)))
                await asyncio.sleep(0.02)
            assert len(asked) > 1
            assert {status for status, _ in await asyncio.gather(*asked)} == {200}
        rows = await rows_of(backend, len(provider.received))
        assert {line["instance"] for line in served.said("journal read")} == {rows[0]["instance"]}
        assert inherited(served) == given
        served.process.terminate()
        assert await asyncio.wait_for(served.process.wait(), 20) == 0


def inherited(served: Serving) -> set[str]:
    """The descriptors that the next program has, too."""
    found = set()
    for each in Path(f"/proc/{served.process.pid}/fdinfo").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            (flags,) = [line.split()[1] for line in each.read_text().splitlines() if line.startswith("flags:")]
            if not int(flags, 8) & os.O_CLOEXEC:
                found.add(each.name)
    return found


async def test_who_is_connected_is_not_left(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """Whether it has asked or not: it may be asking just now."""
    provider.script = say_all
    async with eager(document, backend, tmp_path) as served:
        assert (await ask(served.port))[0] == 200
        async with connected(served.port) as raw:
            await asyncio.sleep(4 * QUIET)
            await raw.post(ASK)
            assert (await raw.head())[0] == 200
            while await raw.chunk():
                pass
            await asyncio.sleep(4 * QUIET)
            assert not served.said(ANEW)
        await until(lambda: len(served.said("listening")) == 2)
        await rows_of(backend, 2)


async def test_who_reads_metrics_all_the_time_does_not_hold_it_back(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """A connection of aiohttp's counts when bytes have just come, be they part of a request; not for being there."""
    provider.script = say_all
    async with eager(document, backend, tmp_path) as served:
        assert (await ask(served.port))[0] == 200
        async with connected(served.port) as raw:
            await raw.send(b"GET /metrics HTTP/1.1\r\n")
            await asyncio.sleep(3 * QUIET)
            assert not served.said(ANEW)
            await raw.send(b"Host: a\r\n\r\n")
            await raw.answer()
            await until(lambda: len(served.said("listening")) == 2)


@asynccontextmanager
async def hosted(used: Running, accepting: Any = None) -> AsyncIterator[tuple[int, asyncio.Task[Any]]]:
    """A port on which it is hosted, too, until it begins anew."""
    listener = socket.create_server(("127.0.0.1", 0))
    app, make_front = make_app(used.gateway), front_of(used.gateway)
    it = asyncio.create_task(host(app, used.stay, [listener], 5, make_front, accepting))
    yield listener.getsockname()[1], it
    await until(lambda: used.stay.may_begin_anew)
    used.stay.ask_to_begin_anew()
    for each in await asyncio.wait_for(it, 30):
        each.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


async def test_who_comes_in_the_last_moment_is_served(used: Running) -> None:
    async with hosted(used) as (port, it):
        await asyncio.sleep(0.1)
        async with connected(port) as raw:
            used.stay.ask_to_begin_anew()
            await asyncio.sleep(0.5)
            assert not it.done()
            await raw.post(ASK)
            assert (await raw.head())[0] == 200


async def test_who_comes_to_one_of_several_in_the_last_moment_is_served(
    used: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it stood still for as long as it wanted to wait, and has taken who came for no connection yet."""
    monkeypatch.setattr(hosting, "_ACCEPTED", 0)
    async with hosted(used, acceptor_of(Scoreboard(1).places[0])) as (port, it):
        await asyncio.sleep(0.1)
        with socket.create_connection(("127.0.0.1", port)) as client:
            used.stay.ask_to_begin_anew()
            await asyncio.sleep(0.5)
            assert not it.done()
            raw = RawClient(*await asyncio.open_connection(sock=client))
            await raw.post(ASK)
            assert (await raw.head())[0] == 200
            raw.reset()


async def test_an_answer_whose_client_has_gone_is_not_left(used: Running, provider: Provider) -> None:
    """It is drained to its usage, and who leaves waits for that and serves nobody meanwhile."""
    go_on = asyncio.Event()
    provider.script = halting(go_on)
    async with hosted(used) as (port, it):
        await asyncio.sleep(0.1)
        async with connected(port) as raw:
            await raw.post(ASK)
            await raw.head()
        used.stay.ask_to_begin_anew()
        await asyncio.sleep(0.5)
        assert not it.done()
        go_on.set()
        await used.rows()


@pytest.mark.parametrize("moment", TOLD)
async def test_one_that_is_told_to_leave_as_it_begins_anew_leaves_when_it_has_served_who_waited(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path, moment: str
) -> None:
    provider.script = say_all
    async with eager(document, backend, tmp_path, TOLD[moment]) as served:
        assert (await ask(served.port))[0] == 200
        await until(lambda: bool(served.said("leaving")))
        assert (await ask(served.port))[0] == 200
        assert await asyncio.wait_for(served.process.wait(), 30) == 0
        assert len(served.said("listening")) == 2


@pytest.mark.parametrize("name", ["config.json", "secret", "token", "ca/one.pem"])
async def test_what_changed_on_the_disk_is_left_to_a_rollout(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path, name: str
) -> None:
    """A configuration that it does not know would keep it from starting, and nobody goes back to the former one."""
    provider.script = say_all
    (tmp_path / "ca").mkdir()
    async with eager(document, backend, tmp_path, CA_PATH=str(tmp_path / "ca")) as served:
        file = tmp_path / name
        former = file.read_text() if file.exists() else None
        file.write_text(json.dumps(document | {"of_a_later_release": 1}) if name == "config.json" else "another")
        assert (await ask(served.port))[0] == 200
        await asyncio.sleep(4 * QUIET)
        assert not served.said(ANEW)
        file.unlink() if former is None else file.write_text(former)
        await until(lambda: bool(served.said("leaving")))


async def test_it_goes_on_listening_beside_another_one_though_the_provider_is_away(
    document: dict[str, Any], backend: Backend, tmp_path: Path
) -> None:
    """The other one waits for the provider. This one served before, and did not ask for it."""
    away = document | {"endpoints": endpoints_at(f"http://127.0.0.1:{free_port()}")}
    async with (
        eager(away, backend, tmp_path / "old") as old,
        serving(away, backend, tmp_path / "new", beside=tmp_path / "old", is_awaited=False) as new,
    ):
        await until(lambda: b"connection refused" in new.log.read_bytes())
        assert await status_of(old) == 502
        await until(lambda: len(old.said("listening")) == 2)
        assert await status_of(old) == 502


async def status_of(served: Serving) -> int:
    async with connected(served.port) as raw:
        await raw.post(ASK)
        return int((await raw.head())[0])


async def test_workers_begin_anew_and_count_on(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    async def slowly(received: Received, wire: Wire) -> None:
        await asyncio.sleep(0.3)  # so that each of them has some
        await say_all(received, wire)

    provider.script = slowly
    program, environment = ("-c", EAGER.format("")), {"RECYCLE_AFTER_SECONDS": "1"}
    async with workers(document, backend, tmp_path, program=program, environment=environment) as served:
        former = set(children(served))
        assert {status for status, _ in await asyncio.gather(*[ask(served.port) for _ in range(20)])} == {200}
        await until(lambda: not former & set(children(served)))
        assert {status for status, _ in await asyncio.gather(*[ask(served.port) for _ in range(20)])} == {200}
        await rows_of(backend, 40)
        counted = await metrics(served.port)
        assert sum(value for name, value in counted.items() if name.startswith("goproxy_requests_total")) == 40
        assert served.said("process 1 of 2 left; another one begins anew in its place")
        assert not served.said("process 1 of 2 ended; another one follows it")


@pytest.fixture
async def used(gateway: Running, provider: Provider, eventually: Callable[..., Any]) -> Running:
    """One that was asked for something, and has told all of it."""
    provider.script = say_all
    assert (await ask(gateway.port))[0] == 200
    await gateway.rows()
    await eventually(lambda: gateway.books.is_settled and gateway.books.standing.control_problem is None)
    return gateway


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process has grown enough."""
    monkeypatch.setattr(recycling, "GROWN", -(10**12))


async def begins_anew(gateway: Running, path: Path, seconds: float = 0.5, **changes: Any) -> bool:
    """Whether it does within so many seconds."""
    stay, settings = Stay(), Recycling(0.1, lambda: True, path)
    settings = dataclasses.replace(settings, **changes)
    watching = asyncio.create_task(settings.watch(stay, gateway.books, gateway.gateway.observer))
    try:
        async with asyncio.timeout(seconds):
            await stay.until_asked_to_leave()
            return True
    except TimeoutError:
        return False
    finally:
        watching.cancel()


async def test_it_begins_anew_only_when_it_has_grown(used: Running, tmp_path: Path) -> None:
    assert not await begins_anew(used, tmp_path)


@pytest.mark.usefixtures("worth_it")
async def test_it_begins_anew_only_when_nothing_stands_against_it(
    used: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await begins_anew(used, tmp_path, 30)
    assert not await begins_anew(used, tmp_path, after=0)
    assert not await begins_anew(used, tmp_path, is_as_started=lambda: False)
    assert not await begins_anew(used, tmp_path / "away")
    with monkeypatch.context() as patch:
        patch.setattr(recycling, "_ROOM", 10**18)
        assert not await begins_anew(used, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(used.gateway.observer, "_adopted_damage", 1)
        assert not await begins_anew(used, tmp_path)


@pytest.mark.usefixtures("worth_it")
async def test_one_that_was_asked_for_nothing_has_nothing_to_give_back(gateway: Running, tmp_path: Path) -> None:
    await asyncio.sleep(0.5)
    assert not await begins_anew(gateway, tmp_path)


@pytest.mark.usefixtures("worth_it")
async def test_it_does_not_begin_anew_while_somebody_is_served_or_was_lately(
    used: Running, provider: Provider, eventually: Callable[..., Any], tmp_path: Path
) -> None:
    go_on = asyncio.Event()
    provider.script = halting(go_on)
    asked = asyncio.create_task(ask(used.port))
    await eventually(lambda: len(provider.received) == 2)
    assert not await begins_anew(used, tmp_path)
    go_on.set()
    await asked
    await used.rows()
    provider.script = say_all

    async def often() -> None:
        while True:
            await ask(used.port)
            await asyncio.sleep(0.02)

    asking = asyncio.create_task(often())
    assert not await begins_anew(used, tmp_path, 1, after=0.5)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert await begins_anew(used, tmp_path, 30)


@pytest.mark.usefixtures("worth_it")
async def test_it_does_not_begin_anew_while_the_backend_is_away(
    used: Running, eventually: Callable[..., Any], tmp_path: Path
) -> None:
    await used.backend.stop()
    await eventually(lambda: used.books.standing.control_problem is not None)
    assert not await begins_anew(used, tmp_path)


@pytest.mark.parametrize("told", ["", "1:3,4", "PID:", "PID:x", "PID:987654"])
def test_descriptors_that_are_not_its_own_are_left_alone(told: str) -> None:
    assert listeners_of({"GOPROXY_LISTENERS": told.replace("PID", str(os.getpid()))}, 8004) == []


def test_a_port_that_it_is_not_to_listen_on_any_more_is_closed() -> None:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    former, port = (each.getsockname()[1] for each in listeners)
    told = ",".join(str(each.detach()) for each in listeners)
    (kept,) = listeners_of({"GOPROXY_LISTENERS": f"{os.getpid()}:{told}"}, port)
    assert kept.getsockname()[1] == port
    kept.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", former))
