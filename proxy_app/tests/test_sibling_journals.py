"""A journal for each process, and what one leaves in its journal is brought to an end by another, whatever it takes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from goproxy.core.journal_record import Reader
from goproxy.core.lease import Wallet
from goproxy.data_plane import books as books_file
from goproxy.data_plane import control_client, sibling_journals
from goproxy.data_plane.bodies import Bodies
from goproxy.data_plane.books import Books
from goproxy.data_plane.journal import Journal, JournalInUse, JournalUnwritable
from goproxy.data_plane.journal_directory import InUse, JournalDirectory
from goproxy.data_plane.observer import Observer
from goproxy.data_plane.sibling_journals import MOST_JOURNALS, OwnDirectory, adopt, free_directory, has_company
from tests.bookkeeping import a_hold
from tests.conftest import Lines
from tests.control import Control, running_control
from tests.test_books import crashing, kept, spend

Eventually = Callable[..., Any]


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    async with running_control() as running:
        running.wallets["alice"] = Wallet(credits=10_000)
        yield running


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for what was left all the time."""
    monkeypatch.setattr(sibling_journals, "_LOOK_EVERY", 0.02)


class Nobody:
    """Tells nothing."""

    def adopted(self, books: Books) -> None: ...

    def left(self, path: Path, rows: int, since: str | None) -> None: ...


@asynccontextmanager
async def adopting(
    directory: Path,
    books_of: sibling_journals.BooksOf,
    heir: sibling_journals.Heir = Nobody(),  # noqa: B008 - it has no state
    own: str = "beside-2",
) -> AsyncIterator[None]:
    """Another process, which has a journal of its own."""
    task = asyncio.create_task(adopt(directory, directory / own, books_of, heir))
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_the_journals_are_so_many(tmp_path: Path) -> None:
    taken = []
    for number in range(MOST_JOURNALS):
        own = free_directory(tmp_path)
        assert own.is_beside == (number > 0)
        directory = JournalDirectory(own.path)
        directory.take()
        taken.append(directory)
    with pytest.raises(JournalInUse, match="96 other processes"):
        free_directory(tmp_path)
    taken[3].release()
    assert free_directory(tmp_path).path.name == "beside-4"
    assert has_company(tmp_path)
    for directory in taken:
        directory.release()
    assert not free_directory(tmp_path).is_beside
    assert not has_company(tmp_path)


def test_a_journal_that_cannot_be_opened_is_in_nobodys_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes it says what is wrong with it: one that took another would leave what is in it to nobody."""

    def fail(_: JournalDirectory) -> None:
        raise PermissionError

    monkeypatch.setattr(JournalDirectory, "take", fail)
    assert free_directory(tmp_path) == OwnDirectory(tmp_path, is_beside=False)


def test_whoever_looks_for_a_journal_that_is_free_leaves_nothing_open(tmp_path: Path) -> None:
    """It is looked again and again for as long as a process runs."""
    taken = JournalDirectory(tmp_path)
    taken.take()
    (tmp_path / "beside-2").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert free_directory(tmp_path).path.name == "beside-2"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    taken.release()


async def test_who_took_an_adopted_journal_and_died_between_two_looks_is_adopted_too(
    tmp_path: Path, control: Control, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sibling_journals, "_LOOK_EVERY", 1.0)
    async with crashing(tmp_path, control) as books:
        await books.open(a_hold("req_1", 1000))
    async with adopting(tmp_path, lambda path: kept(path, control)):
        await eventually(lambda: "req_1" in control.rows and control.wallets["alice"].held == 0, seconds=5)
        await asyncio.sleep(0.3)  # for it to be at its end there
        async with crashing(tmp_path, control) as books:
            await books.open(a_hold("req_2", 1000))
        await eventually(lambda: "req_2" in control.rows and control.wallets["alice"].held == 0, seconds=5)


async def test_what_was_lent_to_a_dead_instance_comes_back_when_the_control_plane_answers_again(
    tmp_path: Path, control: Control, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs, which takes a while to find out, and is there again when nobody waits for it any more."""
    monkeypatch.setattr(control_client, "_PATIENCE", 2.0)
    monkeypatch.setattr(books_file, "_LAST_CALLS", 0.2)
    async with crashing(tmp_path, control) as books:
        await spend(books, "req_1", 1000, 100)
        await eventually(lambda: books.standing.unposted_rows == 0)
    assert control.wallets["alice"].held > 0
    control.answers.clear()
    async with adopting(tmp_path, lambda path: kept(path, control)):
        await asyncio.sleep(1.5)
        control.answers.set()
        await eventually(lambda: control.wallets["alice"].held == 0, seconds=5)


async def test_the_last_word_is_said_again_until_it_is_heard(
    tmp_path: Path, control: Control, eventually: Eventually
) -> None:
    async with crashing(tmp_path, control) as books:
        await spend(books, "req_1", 1000, 100)
        await eventually(lambda: books.standing.unposted_rows == 0)
    closed = 0

    @asynccontextmanager
    async def books_of(path: Path) -> AsyncIterator[Books]:
        nonlocal closed
        control.loses_all_of = set()
        async with kept(path, control) as books:
            yield books
            control.loses_all_of = set() if closed else {"leases"}
        closed += 1

    async with adopting(tmp_path, books_of):
        await eventually(lambda: closed == 2, seconds=5)
        await asyncio.sleep(0.5)
    assert closed == 2, "once it was heard it is not said again"


async def test_a_row_that_is_not_taken_keeps_nobody_from_what_others_left(
    tmp_path: Path, control: Control, eventually: Eventually
) -> None:
    control.rejects = {"req_1": "a reason"}
    for path, name in ((tmp_path, "req_1"), (tmp_path / "beside-3", "req_2")):
        async with crashing(path, control) as books:
            control.loses_all_of = {"rows"}
            await spend(books, name, 1000, 100)
        control.loses_all_of = set()
        control.rows.clear()
    async with adopting(tmp_path, lambda path: kept(path, control)):
        await eventually(lambda: "req_2" in control.rows, seconds=5)


async def test_several_processes_bring_each_journal_to_an_end_once(
    tmp_path: Path, control: Control, eventually: Eventually
) -> None:
    async with crashing(tmp_path, control) as books:
        await books.open(a_hold("req_1", 1000))
    by: list[str] = []

    def counting(own: str) -> sibling_journals.BooksOf:
        @asynccontextmanager
        async def books_of(path: Path) -> AsyncIterator[Books]:
            async with kept(path, control) as books:
                by.append(own)
                yield books

        return books_of

    async with AsyncExitStack() as stack:
        for own in ("beside-2", "beside-3", "beside-4"):
            await stack.enter_async_context(adopting(tmp_path, counting(own), own=own))
        await eventually(lambda: {*by} == {"beside-2", "beside-3", "beside-4"}, seconds=5)
        await asyncio.sleep(0.5)  # one may have looked before another had noted it
        before = len(by)
        await asyncio.sleep(1)  # fifty looks
    assert len(by) == before <= 6


async def test_rows_that_were_not_taken_are_told_and_offered_once_more(
    tmp_path: Path, control: Control, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sibling_journals, "_ROWS_AGAIN", 0.5)
    control.rejects = {"req_1": "a reason"}
    async with crashing(tmp_path, control) as books:
        control.loses_all_of = {"rows"}
        await spend(books, "req_1", 1000, 100)
    control.loses_all_of = set()
    control.rows.clear()
    async with kept(tmp_path / "beside-2", control) as own:
        observer = Observer("openhands", own, Bodies(0))

        def told(name: str) -> float:
            return float(observer.metrics().partition(f'\ngoproxy_{name}{{upstream="openhands"}} ')[2].split()[0])

        assert told("journal_unposted_rows") == 0
        other = Observer("openhands", own, Bodies(0))
        async with (
            adopting(tmp_path, lambda path: kept(path, control), observer),
            adopting(tmp_path, lambda path: kept(path, control), other, own="beside-3"),
        ):
            await eventually(
                lambda: told("journal_unposted_rows") == other.gauges()["journal_left_rows"] == 1, seconds=5
            )
            assert told("journal_unposted_age_seconds") > 0
            control.rejects = {}
            await eventually(lambda: "req_1" in control.rows, seconds=5)
            await eventually(
                lambda: told("journal_unposted_rows") == other.gauges()["journal_left_rows"] == 0, seconds=5
            )


async def test_rows_that_are_somebodys_again_are_told_by_nobody_else(
    tmp_path: Path, control: Control, eventually: Eventually
) -> None:
    control.rejects = {"req_1": "a reason"}
    async with crashing(tmp_path, control) as books:
        await spend(books, "req_1", 1000, 100)
        await eventually(lambda: books.standing.unposted_rows == 1)
    async with kept(tmp_path / "beside-2", control) as own:
        observer = Observer("openhands", own, Bodies(0))
        async with adopting(tmp_path, lambda path: kept(path, control), observer):
            await eventually(lambda: observer.gauges()["journal_left_rows"] == 1, seconds=5)
            async with kept(tmp_path, control) as again:
                await eventually(lambda: observer.gauges()["journal_left_rows"] == 0, seconds=5)
                assert again.standing.unposted_rows == 1


async def test_damage_in_what_another_one_left_is_in_the_metrics(
    tmp_path: Path, control: Control, eventually: Eventually
) -> None:
    async with crashing(tmp_path, control) as books:
        for n in range(3):
            await books.open(a_hold(f"req_{n}", 100))
    (path,) = tmp_path.glob("journal-*.log")
    content = bytearray(path.read_bytes())
    content[content.index(b"req_1")] ^= 0x01
    path.write_bytes(content)
    async with kept(tmp_path / "beside-2", control) as own:
        observer = Observer("openhands", own, Bodies(0))
        async with adopting(tmp_path, lambda path: kept(path, control), observer):
            await eventually(lambda: {"req_0", "req_2"} <= set(control.rows), seconds=5)
        metrics = observer.metrics()
    assert 'goproxy_journal_damaged{upstream="openhands"} 1.0' in metrics
    assert 'goproxy_rows_total{settlement="interrupted",upstream="openhands"} 2.0' in metrics


@pytest.mark.parametrize("error", [JournalUnwritable("the disk is full"), RuntimeError("can't start new thread")])
async def test_what_cannot_be_adopted_now_is_tried_again(
    tmp_path: Path, control: Control, eventually: Eventually, lines: Lines, error: Exception
) -> None:
    async with crashing(tmp_path, control) as books:
        await books.open(a_hold("req_1", 1000))
    fails = [error]

    @asynccontextmanager
    async def books_of(path: Path) -> AsyncIterator[Books]:
        if fails:
            raise fails.pop()
        async with kept(path, control) as books:
            yield books

    async with adopting(tmp_path, books_of):
        await eventually(lambda: "req_1" in control.rows, seconds=5)
    (line,) = lines.all("a journal that was left cannot be adopted")
    assert line["level"] == logging.getLevelName(logging.ERROR).lower()


async def test_a_journal_that_somebody_has_is_left_alone(
    tmp_path: Path, control: Control, eventually: Eventually, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, directories = 0, sibling_journals.directories

    def looked_at(shared: Path) -> Iterator[Path]:
        nonlocal looks
        yield from directories(shared)
        looks += 1

    monkeypatch.setattr(sibling_journals, "directories", looked_at)
    async with kept(tmp_path, control), adopting(tmp_path, lambda path: kept(path, control)):
        await eventually(lambda: looks > 2)
    assert not lines.all("adopting the journal that another instance left")


async def test_a_journal_that_another_one_adopts_first_is_no_problem(
    tmp_path: Path, control: Control, eventually: Eventually, lines: Lines
) -> None:
    async with crashing(tmp_path, control) as books:
        await books.open(a_hold("req_1", 1000))
    tries = 0

    @asynccontextmanager
    async def books_of(path: Path) -> AsyncIterator[Books]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise JournalInUse(str(path))
        async with kept(path, control) as books:
            yield books

    async with adopting(tmp_path, books_of):
        await eventually(lambda: "req_1" in control.rows, seconds=5)
    assert not lines.all("a journal that was left cannot be adopted")


async def test_a_journal_without_a_thread_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise RuntimeError("can't start new thread")

    journal = Journal(tmp_path)
    monkeypatch.setattr(journal._thread, "start", none_left)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RuntimeError):
        await journal.start()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    directory = JournalDirectory(tmp_path)
    directory.take()
    directory.release()


async def test_a_journal_that_is_still_being_read_is_left_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wanted it has left; the thread that reads it goes on, and begins a segment of what it read."""
    first = Journal(tmp_path)
    await first.start()
    await first.close()
    read, may_read = JournalDirectory.read, threading.Event()

    def slowly(directory: JournalDirectory, number: int) -> Reader:
        may_read.wait(10)
        return read(directory, number)

    monkeypatch.setattr(JournalDirectory, "read", slowly)
    second = Journal(tmp_path)
    starting = asyncio.create_task(second.start())
    await asyncio.sleep(0.1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(InUse):
        JournalDirectory(tmp_path).take()
    may_read.set()
    await second.close()
