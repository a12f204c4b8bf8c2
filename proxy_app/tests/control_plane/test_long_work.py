"""What takes long (a backup, a report over the whole ledger) keeps nobody waiting: keys are revoked, rows come in."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from goproxy import timestamps
from goproxy.control_plane.store import accounts, backup, copying, rows, usage, walk
from goproxy.control_plane.store.database import Database
from goproxy.control_plane.store.rows import Chosen
from goproxy.control_plane.store.worker import Leaving, Worker
from goproxy.core.ledger import Row, Settlement
from tests.conftest import Lines
from tests.control_plane.backend import DOLLAR, OPERATOR, Answer, Backend, row
from tests.control_plane.conftest import on_sqlite
from tests.control_plane.gate import Gate


async def go_on_as_ever(backend: Backend, number: int) -> None:
    """A row comes in, a key is revoked and told, money is lent; each is answered."""
    assert (await backend.post("i1", row(number)))["accepted"] == [row(number).id]
    key = await backend.key()
    assert key["id"] in {each["id"] for each in (await backend.poll()).json["keys"]}
    await backend.admin("POST", f"/keys/{key['id']}/revoke")
    assert key["id"] not in {each["id"] for each in (await backend.poll()).json["keys"]}
    await backend.grant("alice", 1, f"grant-{number}")
    await backend.lend("i2", number, ("alice", 0, DOLLAR))


async def fill(backend: Backend, count: int = 1000) -> None:
    await backend.account(dollars=1000)
    for begin in range(0, count, 500):
        await backend.post("i1", *(row(number) for number in range(begin, min(begin + 500, count))))


async def back_up(backend: Backend) -> bytes:
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with backend.session.get(f"{backend.url}/admin/v1/backup", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


def in_backup(copy: bytes, directory: Path) -> set[str]:
    """The ids of the rows in a backup, which must be a store that adds up."""
    path = directory / f"restored-{time.monotonic_ns()}.sqlite3"
    restored = Database(f"sqlite:///{path}")
    restored.migrate()
    file = io.BytesIO(copy)
    backup.check(file)
    restored.transact("restore", lambda store: backup.restore(store, file, replace=True))
    restored.close()
    return ids_in_store_that_adds_up(path)


def ids_in_store_that_adds_up(path: Path) -> set[str]:
    store = sqlite3.connect(path)
    assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert store.execute("PRAGMA foreign_key_check").fetchall() == []
    spent: Counter[str] = Counter()
    ids = set()
    for id_, named, cost in store.execute("SELECT id, wallets, cost_nanodollars FROM ledger_rows"):
        ids.add(id_)
        spent.update(dict.fromkeys(json.loads(named), cost))
    for wallet, granted in store.execute("SELECT id, credits FROM wallets").fetchall():
        entries = "SELECT coalesce(sum(amount), 0) FROM credits WHERE wallet = ?"
        assert store.execute(entries, [wallet]).fetchone() == (granted,)
        lent = "SELECT coalesce(sum(granted_total), 0), coalesce(sum(spent_total), 0) FROM leases WHERE wallet = ?"
        lent_total, spent_total = store.execute(lent, [wallet]).fetchone()
        balance, held = granted - lent_total, lent_total - spent_total
        assert spent_total == spent[wallet]
        assert granted == balance + held + spent[wallet]
    store.close()
    return ids


@on_sqlite
async def test_a_sqlite_store_is_copied_in_between_its_work(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the copy stands in the middle, everything goes on; and what then changed is in the copy too."""
    await fill(backend)
    gate, steps, left = Gate(), 0, Worker.do_what_waits

    def counted(worker: Worker) -> None:
        nonlocal steps
        steps += 1
        left(worker)
        if steps == 100:
            gate.wait(lambda: left(worker))

    monkeypatch.setattr(copying, "PAGES", 1)
    monkeypatch.setattr(Worker, "do_what_waits", counted)
    copy = asyncio.create_task(back_up(backend))
    async with gate.held():
        for number in range(5000, 5010):
            await go_on_as_ever(backend, number)
        assert steps == 100, "all that while it was being copied"
    ids = in_backup(await copy, tmp_path)
    assert steps > 200
    assert ids == {row(number).id for number in (*range(1000), *range(5000, 5010))}


@on_sqlite
async def test_a_copy_that_is_made_under_load_adds_up(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(backend)
    monkeypatch.setattr(copying, "PAGES", 2)
    posted = 5000
    for _ in range(3):
        copy = asyncio.create_task(back_up(backend))
        before = posted
        while not copy.done():
            await go_on_as_ever(backend, posted)
            posted += 1
        ids = in_backup(await copy, tmp_path)
        sure = {row(number).id for number in (*range(1000), *range(5000, before))}
        assert sure <= ids <= sure | {row(number).id for number in range(before, posted)}


async def test_everything_goes_on_while_the_copy_is_written_out(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(backend, 50)
    gate, now = Gate(), timestamps.now

    def late() -> str:
        gate.wait()
        return now()

    monkeypatch.setattr(timestamps, "now", late)
    copy = asyncio.create_task(back_up(backend))
    async with gate.held():
        await go_on_as_ever(backend, 5000)
    assert in_backup(await copy, tmp_path) == {row(number).id for number in range(50)}


@on_sqlite
async def test_a_store_that_another_process_writes_to_is_not_copied_for_ever(
    backend: Backend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(backend, 100)
    monkeypatch.setattr(copying, "PAGES", 10)
    waiting = Worker.do_what_waits

    def disturbed(worker: Worker) -> None:
        other.execute("UPDATE counters SET value = value + 1")
        waiting(worker)

    await backend.key()
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    monkeypatch.setattr(Worker, "do_what_waits", disturbed)
    refused = await backend.ask("GET", "/admin/v1/backup")
    other.close()
    assert refused.status == 503
    assert "another process writes" in refused.error
    assert left_lying_about(backend) == []


def left_lying_about(backend: Backend) -> list[Path]:
    assert backend.plane.database.directory is not None
    return [path for path in backend.plane.database.directory.iterdir() if path.is_dir() and "copy" in path.name]


@on_sqlite
async def test_nobody_fills_the_disk_of_the_store_with_its_copy(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(backend, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    refused = await backend.ask("GET", "/admin/v1/backup")
    assert refused.status == 503
    assert "bytes are needed, and 1000 are free" in refused.error


@on_sqlite
async def test_a_copy_that_nobody_waits_for_is_given_up(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    await fill(backend, 200)
    gate, waiting, steps = Gate(), Worker.do_what_waits, 0

    def counted(worker: Worker) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            gate.wait()
        waiting(worker)

    monkeypatch.setattr(copying, "PAGES", 1)
    monkeypatch.setattr(Worker, "do_what_waits", counted)
    copy = asyncio.create_task(back_up(backend))
    async with gate.held():
        copy.cancel()
        await asyncio.gather(copy, return_exceptions=True)
        await eventually(lambda: left_lying_about(backend) == [])
    await go_on_as_ever(backend, 5000)
    assert steps < 20
    assert len(gzip.decompress(await back_up(backend)).splitlines()) > 200


async def test_a_restore_goes_on_to_its_end_though_nobody_waits_for_it(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, lines: Lines, eventually: Callable[..., Any]
) -> None:
    await fill(backend, 10)
    copy = await back_up(backend)
    await backend.account("bob")
    gate, check = Gate(), backup.check

    def slow(file: Any) -> dict[str, int]:
        gate.wait()
        return check(file)

    monkeypatch.setattr(backup, "check", slow)
    asked = asyncio.create_task(put_back(backend, copy))
    async with gate.held():
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.sleep(0.2)  # for the backend to see that its client is gone
    await eventually(lambda: bool(lines.all("restored a backup")))
    assert [each["name"] for each in (await backend.admin("GET", "/accounts"))["accounts"]] == ["alice"]
    assert (await backend.admin("GET", "/usage"))["usage"][0]["requests"] == 10


async def put_back(backend: Backend, copy: bytes) -> Answer:
    return await backend.ask("POST", "/admin/v1/restore?replace=true", data=io.BytesIO(copy))


async def test_a_restore_that_fails_when_nobody_waits_for_it_is_a_line_in_the_log(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, lines: Lines, eventually: Callable[..., Any]
) -> None:
    gate = Gate()

    def fail(_: Any) -> dict[str, int]:
        gate.wait()
        raise OSError("the disk is gone")

    monkeypatch.setattr(backup, "check", fail)
    asked = asyncio.create_task(put_back(backend, b"anything"))
    async with gate.held():
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.sleep(0.2)
    await eventually(lambda: bool(lines.all("what nobody waited for any more failed")))


def test_what_a_killed_process_left_of_a_copy_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "copy-abc").mkdir()
    (tmp_path / "copy-abc" / "store.sqlite3").write_text("half of it")
    (tmp_path / "copy-of-mine").write_text("an operator's own file")
    store = Database(f"sqlite:///{tmp_path}/store.sqlite3")
    store.migrate()
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "copy-of-mine",
        "store.sqlite3",
        "store.sqlite3-journal",
    ]


def test_long_work_ends_when_the_worker_is_to_leave() -> None:
    worker, begun = Worker("test"), threading.Event()

    def long() -> None:
        begun.set()
        while True:
            worker.do_what_waits()

    done = worker.submit(long)
    begun.wait()
    late = worker.submit(lambda: 7)
    worker.shutdown()
    assert late.result() == 7
    with pytest.raises(Leaving):
        done.result()
    with pytest.raises(RuntimeError):
        worker.submit(lambda: 7)


def test_what_fails_or_is_given_up_keeps_nobody_from_his_turn() -> None:
    worker, begun, go = Worker("test"), threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        go.wait(10)
        raise SystemExit

    failing, done = worker.submit(long), list[int]()
    begun.wait(10)
    given_up = worker.submit(lambda: done.append(1))
    given_up.cancel()
    go.set()
    with pytest.raises(SystemExit):
        failing.result(10)
    assert worker.submit(lambda: 7).result(10) == 7
    assert done == []
    worker.shutdown()


def test_in_the_middle_of_long_work_only_what_waits_by_then_is_done() -> None:
    """All of it, and no more: who asks again and again would never let the long work go on."""
    worker, done = Worker("test"), list[str]()

    def ask(name: str, *more: str) -> None:
        done.append(name)
        for each in more:
            worker.submit(ask, each)

    def long() -> list[list[str]]:
        worker.submit(ask, "one", "three")
        worker.submit(ask, "two")
        seen = []
        for _ in range(2):
            worker.do_what_waits()
            seen.append([*done])
        return seen

    assert worker.submit(long).result(10) == [["one", "two"], ["one", "two", "three"]]
    worker.shutdown()


def test_a_worker_is_shut_down_when_its_work_is_done() -> None:
    Worker("idle").shutdown()
    worker, go = Worker("test"), threading.Event()
    working = worker.submit(go.wait, 10)
    threading.Timer(0.05, go.set).start()
    worker.shutdown()
    assert working.done()


REPORTS: dict[str, tuple[str, str]] = {
    "usage": ("GET", "/usage?by=account,model"),
    "rows": ("GET", "/rows?settlement=drained"),
    "reconcile": ("POST", "/reconcile?upstream=openhands"),
    "rerate": ("POST", "/rerate"),
}


async def ask_for(backend: Backend, report: str) -> Answer:
    method, path = REPORTS[report]
    bodies: dict[str, dict[str, Any]] = {
        "reconcile": {"data": b"request_id,input\nup_none,1\n"},
        "rerate": {"json": {}},
    }
    return await backend.ask(method, f"/admin/v1{path}", **bodies.get(report, {}))


@pytest.mark.parametrize("report", REPORTS)
async def test_everything_goes_on_in_the_middle_of_a_report(
    backend: Backend, report: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(backend, 300)
    gate, end_of_step, steps = Gate(), walk.end_of_step, 0

    def slow(*args: Any, **named: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            gate.wait()
        return end_of_step(*args, **named)

    monkeypatch.setattr(walk, "STEP", 50)
    monkeypatch.setattr(walk, "end_of_step", slow)
    asked = asyncio.create_task(ask_for(backend, report))
    async with gate.held():
        await go_on_as_ever(backend, 5000)
    answer = await asked
    assert answer.status == 200, answer.text
    assert steps >= 6
    match report:
        case "usage":
            (line,) = answer.json["usage"]
            assert line["requests"] in (300, 301)
        case "rows":
            assert answer.json == {"rows": [], "next": None}
        case "reconcile":
            assert len(answer.json["extra"]) in (300, 301)
        case "rerate":
            assert answer.json["rows"] in (300, 301)


CHOICES: dict[str, Chosen] = {
    "all": Chosen(),
    "account": Chosen(account="alice"),
    "a small account": Chosen(account="bob"),
    "upstream": Chosen(upstream="openhands"),
    "account and upstream": Chosen(account="bob", upstream="openhands"),
    "model": Chosen(model="none"),
    "alias": Chosen(model="none", aliased=(("openhands", "neither"), ("ohmygpt", "neither"))),
    "key": Chosen(key="key_ffffffffffffffff"),
    "settlement": Chosen(settlement="interrupted"),
    "days": Chosen(since="2026-11-23", until="2026-11-23"),
    "days of an account": Chosen(account="alice", since="2026-11-23", until="2026-11-23", model="none"),
}

STEPS: dict[str, Callable[[Connection, Chosen, walk.Position | None], tuple[Any, walk.Position | None]]] = {
    "usage": lambda store, chosen, after: usage.step(store, ["account", "day"], chosen, after),
    "records": rows.step,
    "list": lambda store, chosen, before: rows.page(store, chosen, kind=None, before=before, limit=1000),
    "list of requests": lambda store, chosen, before: rows.page(store, chosen, kind="request", before=before, limit=9),
}


def ledger(count: int) -> Iterator[Row]:
    for number in range(count):
        changes: dict[str, Any] = {"settlement": Settlement.DRAINED} if number % 2 else {}
        if number % 100 == 0:
            changes |= {"account": "bob", "wallets": ("bob",)}
        yield row(number, opened_at=f"2026-11-{22 + number % 3}T00:00:00.000Z", **changes)


@pytest.mark.timeout(60)
def test_no_step_is_longer_in_a_longer_ledger(new_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By SQLite's own count of its instructions: the longest step of each reading, in two ledgers."""
    monkeypatch.setattr(walk, "STEP", 50)
    longest: list[dict[tuple[str, str], int]] = []
    for count in (600, 1800):
        opened = Database(new_url("sqlite"))
        opened.transact("accounts", lambda store: [accounts.create(store, name) for name in ("alice", "bob")])
        posted = list(ledger(count))
        for begin in range(0, count, 100):
            batch = posted[begin : begin + 100]
            opened.transact("fill", lambda store: rows.ingest(store, "i1", "openhands", batch))  # noqa: B023
        longest.append({})
        for step_name, step in STEPS.items():
            for choice, chosen in CHOICES.items():
                longest[-1][step_name, choice] = opened.transact("walk", lambda s: _longest(s, step, chosen))  # noqa: B023
        opened.close()
    short, long = longest
    for name in STEPS:
        most = max(spent for (each, _), spent in short.items() if each == name)
        assert {each: spent for each, spent in long.items() if each[0] == name and spent > 1.3 * most} == {}


def _longest(store: Connection, step: Any, chosen: Chosen) -> int:
    """Instructions, by the ten, of the longest step."""
    connection: Any = store.connection.driver_connection
    spent, most, place = 0, 0, None

    def count() -> int:
        nonlocal spent
        spent += 1
        return 0

    connection.set_progress_handler(count, 10)
    while True:
        spent = 0
        _, place = step(store, chosen, place)
        most = max(most, spent)
        if place is None:
            connection.set_progress_handler(None, 0)
            return most


async def test_a_report_meets_every_row_once_whatever_its_steps(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.account(dollars=1000)
    await backend.account("bob")
    await backend.post("i1", *ledger(230))
    for size in (1, 7, 23, 230, 231, 5000):
        monkeypatch.setattr(walk, "STEP", size)
        (line,) = (await backend.admin("GET", "/usage"))["usage"]
        assert line["requests"] == 230
        by_day = (await backend.admin("GET", "/usage?by=day&account=alice&since=2026-11-23"))["usage"]
        expected = Counter(
            each.opened_at[:10]
            for each in ledger(230)
            if each.account == "alice" and each.opened_at[:10] >= "2026-11-23"
        )
        assert {each["day"]: each["requests"] for each in by_day} == expected
        listed = (await backend.admin("GET", "/rows?limit=1000&settlement=drained"))["rows"]
        assert {each["id"] for each in listed} == {each.id for each in ledger(230) if each.settlement == "drained"}


@on_sqlite
async def test_of_more_lines_than_an_answer_has_the_first_are_told(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goproxy.control_plane.schemas.LINES", 10)
    monkeypatch.setattr(walk, "STEP", 9)
    await backend.account()
    names = [f"model-{number:03}" for number in (*range(60, 0, -1), *range(1, 61))]
    await backend.post("i1", *(row(number, model=name) for number, name in enumerate(names)))
    answer = await backend.admin("GET", "/usage?by=model")
    assert answer["complete"] is False
    assert [(line["model"], line["requests"]) for line in answer["usage"]] == [
        (f"model-{number:03}", 2) for number in range(1, 11)
    ]
    assert (await backend.admin("GET", "/usage?by=upstream"))["complete"] is True


async def test_keys_that_are_counted_late_do_not_bring_back_a_revoked_one(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are read beside the work that changes them: what was read before a revocation must not be told after."""
    await backend.account()
    key = await backend.key()
    plane = backend.plane
    read = plane.database.read
    gate, has_read = asyncio.Event(), asyncio.Event()

    async def late(name: str, work: Any) -> Any:
        found = await read(name, work)
        has_read.set()
        await gate.wait()
        return found

    def as_another_process(store: Connection) -> None:
        store.exec_driver_sql("UPDATE counters SET value = value + 1 WHERE name = 'keys'")

    await plane.database.run("another process", as_another_process)
    monkeypatch.setattr(plane.database, "read", late)
    counting = asyncio.create_task(plane.count())
    await has_read.wait()
    await backend.admin("POST", f"/keys/{key['id']}/revoke")
    gate.set()
    await counting
    assert (await backend.poll()).json["keys"] == []
