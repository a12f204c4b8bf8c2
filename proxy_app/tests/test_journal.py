"""The journal: on the disk before anybody relies on it, and read again whatever happened."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from goproxy.core.journal_record import Opened, Reader, Settled, row_document
from goproxy.core.usage import Usage
from goproxy.data_plane import journal as journal_module
from goproxy.data_plane.journal import Journal, JournalInUse, JournalUnwritable, Recovered
from goproxy.data_plane.journal_directory import JournalDirectory
from tests.bookkeeping import a_hold, a_row
from tests.conftest import Lines

SMALL = 16 * 1024
"""Bytes of a segment that is soon full."""


@asynccontextmanager
async def opened(directory: Path, segment_bytes: int = SMALL) -> AsyncIterator[tuple[Journal, Recovered]]:
    journal = Journal(directory, segment_bytes=segment_bytes)
    recovered = await journal.start()
    try:
        yield journal, recovered
    finally:
        await journal.close()


async def reopened(directory: Path) -> Recovered:
    async with opened(directory) as (_, recovered):
        return recovered


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("journal-*.log"))


async def test_a_hold_is_in_the_file_when_open_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_1"))
        records = [record for record, _ in Reader(segments(tmp_path)[-1].read_bytes())]
        assert Opened(a_hold("req_1")) in records


async def test_a_row_is_in_the_file_when_settle_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_1"))
        line = await journal.settle(a_row(a_hold("req_1")))
        assert line in segments(tmp_path)[-1].read_bytes()
        assert row_document(line).startswith(b'{"id":"req_1"')


async def test_what_was_open_is_open_at_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        await asyncio.gather(*(journal.open(a_hold(f"req_{n}")) for n in range(4)))
        journal.progress("req_1", Usage(output=5), "")
        journal.progress("req_1", Usage(output=9), "")
        await journal.settle(a_row(a_hold("req_2"), 400))
        journal.void("req_3")
    recovered = await reopened(tmp_path)
    assert recovered.holds == [(a_hold("req_0"), None), (a_hold("req_1"), Usage(output=9))]
    assert list(recovered.unposted) == ["req_2"]


async def test_the_instance_stays_and_the_starts_are_counted(tmp_path: Path) -> None:
    recovered = [await reopened(tmp_path) for _ in range(3)]
    assert len({each.instance for each in recovered}) == 1
    assert [each.start for each in recovered] == [1, 2, 3]


async def test_leases_and_what_was_spent_of_them_are_found_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        await journal.lease("alice", 9000)
        for n in range(3):
            hold = a_hold(f"req_{n}", 1000, "alice", "key:1")
            await journal.open(hold)
            await journal.settle(a_row(hold, 100 + n))
        journal.posted(["req_0", "req_1"])
        await journal.lease("alice", 8000)
    for _ in range(2):
        recovered = await reopened(tmp_path)
        assert recovered.granted_totals == {"alice": 8000, "key:1": 0}
        assert recovered.spent_totals == {"alice": 303, "key:1": 303}
        assert list(recovered.unposted) == ["req_2"]


async def test_a_renewed_journal_is_another_instances(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, before):
        await journal.lease("alice", 9000)
        journal.renew()
        assert journal.instance != before.instance
        await journal.lease("bob", 7)
    recovered = await reopened(tmp_path)
    assert (recovered.instance, recovered.granted_totals) == (journal.instance, {"bob": 7})


async def test_a_full_segment_is_followed_by_one_that_says_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_long"))
        for n in range(60):
            await journal.open(a_hold(f"req_{n}"))
            await journal.settle(a_row(a_hold(f"req_{n}")))
            if n % 2:
                journal.posted([f"req_{n}"])
        assert int(segments(tmp_path)[-1].stem[-8:]) > 4
    recovered = await reopened(tmp_path)
    assert [hold.id for hold, _ in recovered.holds] == ["req_long"]
    assert list(recovered.unposted) == [f"req_{n}" for n in range(0, 60, 2)]
    assert len(segments(tmp_path)) == 2


async def test_who_has_much_that_is_live_does_not_write_it_again_and_again(tmp_path: Path) -> None:
    """Rows pile up while the control plane is away: a segment has room for as much again as its checkpoint is long."""
    async with opened(tmp_path, segment_bytes=1024) as (journal, _):
        for n in range(100):
            await journal.open(a_hold(f"req_{n}"))
            await journal.settle(a_row(a_hold(f"req_{n}")))
        assert int(segments(tmp_path)[-1].stem[-8:]) < 25


async def test_many_share_one_sync(tmp_path: Path) -> None:
    async with opened(tmp_path, segment_bytes=4 * 1024 * 1024) as (journal, _):
        before = journal.syncs
        await asyncio.gather(*(journal.open(a_hold(f"req_{n}")) for n in range(200)))
        assert journal.syncs - before <= 20


async def test_what_nobody_waits_for_is_written_soon(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_1"))
        journal.progress("req_1", Usage(output=77), "")
        await eventually(lambda: b'"output":77' in segments(tmp_path)[-1].read_bytes())


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(JournalInUse):
            await Journal(tmp_path).start()
    await reopened(tmp_path)


def test_a_directory_that_another_process_makes_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def make_after_the_other(path: Path, *arguments: Any, **more: Any) -> None:
        make(path)
        make(path, *arguments, **more)

    monkeypatch.setattr(Path, "mkdir", make_after_the_other)
    directory = JournalDirectory(tmp_path / "journal")
    directory.take()
    directory.release()


async def test_nobody_else_may_read_who_asked_for_what(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal"):
        (segment,) = segments(tmp_path / "journal")
        assert [path.stat().st_mode & 0o777 for path in (segment.parent, segment)] == [0o700, 0o600]


async def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalUnwritable):
        await Journal(tmp_path / "file" / "journal").start()


async def test_an_open_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        opening = asyncio.create_task(journal.open(a_hold("req_1")))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert (await reopened(tmp_path)).holds == []


async def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        pass
    with pytest.raises(JournalUnwritable):
        await journal.open(a_hold("req_1"))


# A disk that takes no new segment. (That it is full is one reason among many: here something is in the way.)


def descriptors() -> int:
    """How many files, sockets and the like are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def fill(journal: Journal) -> list[str]:
    """Open requests until there is no room for more; who is in."""
    opened: list[str] = []
    while True:
        hold = a_hold(f"req_{len(opened)}")
        try:
            await journal.open(hold)
        except JournalUnwritable:
            return opened
        opened.append(hold.id)


async def test_on_a_full_disk_what_runs_is_settled_and_nothing_begins(
    tmp_path: Path, lines: Lines, eventually: Callable[..., Any]
) -> None:
    async with opened(tmp_path) as (journal, _):
        (tmp_path / "journal.new").mkdir()
        running = await fill(journal)
        assert len(running) >= 3
        assert journal.problem == "Is a directory"
        for id_ in running[:-1]:
            line = await asyncio.wait_for(journal.settle(a_row(a_hold(id_))), 30)
            assert line in segments(tmp_path)[-1].read_bytes()
        with pytest.raises(JournalUnwritable):
            await journal.open(a_hold("req_more"))

        (tmp_path / "journal.new").rmdir()
        await eventually(lambda: journal.problem is None)
        await journal.open(a_hold("req_later"))
    recovered = await reopened(tmp_path)
    assert list(recovered.unposted) == running[:-1]
    assert [hold.id for hold, _ in recovered.holds] == [running[-1], "req_later"]
    assert len(lines.all("journal cannot be written; new requests are refused")) == 1
    assert len(lines.all("journal can be written again")) == 1


async def test_what_has_no_room_waits_in_memory_for_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        (tmp_path / "journal.new").mkdir()
        running = await fill(journal)
        lease = journal.lease("alice", 9000)
        long = a_row(a_hold(running[0]))
        long = type(long).from_json(long.to_json() | {"raw_usage": {"long": "x" * 2 * SMALL}})
        settled = journal.settle(long)
        await asyncio.wait([lease, settled], timeout=0.5)
        assert not lease.done()
        assert not settled.done()
        (tmp_path / "journal.new").rmdir()
        await asyncio.wait_for(asyncio.gather(lease, settled), 30)
    recovered = await reopened(tmp_path)
    assert list(recovered.unposted) == [running[0]]
    assert recovered.granted_totals["alice"] == 9000


async def test_it_starts_on_a_disk_that_takes_nothing(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_1"))
    (tmp_path / "journal.new").mkdir()
    async with opened(tmp_path) as (journal, recovered):
        assert [hold.id for hold, _ in recovered.holds] == ["req_1"]
        assert journal.problem is not None
        with pytest.raises(JournalUnwritable):
            await journal.open(a_hold("req_2"))
        settled = journal.settle(a_row(a_hold("req_1")))
        (tmp_path / "journal.new").rmdir()
        await asyncio.wait_for(settled, 30)
        await journal.open(a_hold("req_3"))
    recovered = await reopened(tmp_path)
    assert (list(recovered.unposted), [hold.id for hold, _ in recovered.holds]) == (["req_1"], ["req_3"])


async def test_a_segment_that_may_not_be_the_last_any_more_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start reads the one that perhaps has its name: what is added to the one before is not kept, nor told to be."""
    publish, named = JournalDirectory.publish, list[str]()

    def publish_once_and_fail(of_journal: JournalDirectory) -> None:
        if not named:
            publish(of_journal)
            named.append(segments(directory)[-1].name)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    directory, others = tmp_path / "journal", [tmp_path / f"other_{n}" for n in range(8)]
    async with opened(directory) as (journal, _):
        monkeypatch.setattr(JournalDirectory, "publish", publish_once_and_fail)
        before = descriptors()
        running = await fill(journal)
        assert descriptors() < before, "neither of the two is open"
        theirs = [os.open(path, os.O_RDWR | os.O_CREAT) for path in others]  # by the numbers that are free again
        settled = journal.settle(a_row(a_hold(running[0])))
        await asyncio.wait([settled], timeout=0.5)
        assert (settled.done(), journal.problem) == (False, os.strerror(errno.EIO))
        shutil.copytree(directory, tmp_path / "cut here")
        monkeypatch.setattr(JournalDirectory, "publish", publish)
        await asyncio.wait_for(settled, 30)
        for path, descriptor in zip(others, theirs, strict=True):
            os.close(descriptor)
            assert path.read_bytes() == b""
    assert named == ["journal-00000002.log"]
    cut = await reopened(tmp_path / "cut here")
    assert {hold.id for hold, _ in cut.holds} >= {*running}
    recovered = await reopened(directory)
    assert ([hold.id for hold, _ in recovered.holds], list(recovered.unposted)) == (running[1:], running[:1])


async def test_segments_that_are_full_are_closed(tmp_path: Path) -> None:
    async with opened(tmp_path, segment_bytes=1024) as (journal, _):
        before, count = descriptors(), 0
        while int(segments(tmp_path)[-1].stem[-8:]) <= 60:
            await journal.open(a_hold(f"req_{count}"))
            await journal.settle(a_row(a_hold(f"req_{count}")))
            journal.posted([f"req_{count}"])
            count += 1
        assert descriptors() < before + 10


async def test_who_leaves_tries_the_disk_once_more(tmp_path: Path) -> None:
    """And does not wait for the next attempt."""
    async with opened(tmp_path) as (journal, _):
        (tmp_path / "journal.new").mkdir()
        await fill(journal)
        journal.lease("alice", 9000)
        (tmp_path / "journal.new").rmdir()
    assert (await reopened(tmp_path)).granted_totals["alice"] == 9000


async def test_who_waits_for_a_disk_that_takes_nothing_is_told_when_the_journal_closes(
    tmp_path: Path, lines: Lines
) -> None:
    async with opened(tmp_path) as (journal, _):
        (tmp_path / "journal.new").mkdir()
        await fill(journal)
        lease = journal.lease("alice", 9000)
    with pytest.raises(JournalUnwritable):
        await asyncio.wait_for(lease, 30)
    (line,) = lines.all("journal is closed with records that the disk did not take")
    assert line["n"] == 1


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that answers no sync before this is set. What would take five seconds takes one, and what ten, a third."""
    monkeypatch.setattr(journal_module, "_SILENT", 1.0)
    monkeypatch.setattr(journal_module, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(journal_module, "_LAST_WRITE", 0.3)
    fdatasync, answers = os.fdatasync, threading.Event()

    def sync_in_the_end(descriptor: int) -> None:
        answers.wait(30)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync_in_the_end)
    yield answers
    answers.set()


async def test_a_disk_that_does_not_answer_is_one_that_takes_nothing(
    tmp_path: Path, hangs: threading.Event, lines: Lines, eventually: Callable[..., Any]
) -> None:
    hangs.set()
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_0"))
        hangs.clear()
        opening = [asyncio.create_task(journal.open(a_hold("req_1")))]
        await asyncio.sleep(0.1)
        opening.append(asyncio.create_task(journal.open(a_hold("req_2"))))  # it waits for the next write
        settling = journal.settle(a_row(a_hold("req_0")))
        assert journal.problem is None
        await asyncio.wait(opening, timeout=5)
        for each in opening:
            with pytest.raises(JournalUnwritable, match="the disk does not answer"):
                each.result()
        assert journal.problem == "the disk does not answer"
        assert not settling.done()
        hangs.set()
        await asyncio.wait_for(settling, 5)
        await eventually(lambda: journal.problem is None)
        await journal.open(a_hold("req_3"))
    problems = lines.all("journal cannot be written; new requests are refused")
    assert [line["problem"] for line in problems] == ["the disk does not answer"]
    assert len(lines.all("journal can be written again")) == 1
    recovered = await reopened(tmp_path)
    assert [hold.id for hold, _ in recovered.holds] == ["req_3"]
    assert list(recovered.unposted) == ["req_0"]


async def test_a_disk_that_is_slow_is_waited_for(
    tmp_path: Path, hangs: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of it there is to wait for: each time it answers, it has all the time again."""
    hangs.set()
    fdatasync, fsync = os.fdatasync, os.fsync

    def slowly(sync: Callable[[int], None]) -> Callable[[int], None]:
        def wait(descriptor: int) -> None:
            time.sleep(0.6)
            sync(descriptor)

        return wait

    async with opened(tmp_path, 1) as (journal, _):  # so that each write begins a segment
        monkeypatch.setattr(os, "fdatasync", slowly(fdatasync))
        monkeypatch.setattr(os, "fsync", slowly(fsync))
        await asyncio.gather(*(journal.open(a_hold(f"req_{n}")) for n in range(3)))
        syncs = journal.syncs
        await asyncio.wait_for(asyncio.gather(journal.begin_segment(), journal.open(a_hold("req_3"))), 30)
        assert (journal.problem, journal.syncs > syncs) == (None, True)


async def test_a_journal_is_left_while_its_disk_does_not_answer_and_nobody_else_may_have_it(
    tmp_path: Path, hangs: threading.Event, eventually: Callable[..., Any]
) -> None:
    async with opened(tmp_path) as (journal, _):
        lease = journal.lease("alice", 9000)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    with pytest.raises(JournalUnwritable):
        await lease
    with pytest.raises(JournalInUse):
        await Journal(tmp_path).start()
    hangs.set()
    await eventually(lambda: not journal._thread.is_alive())
    journal._directory.release()
    assert (await reopened(tmp_path)).granted_totals["alice"] == 9000


async def test_a_segment_that_failed_to_sync_is_not_written_to_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have dropped what it could not write, and says of the next sync that it went well."""
    fdatasync, synced = os.fdatasync, list[str]()

    def fail_once(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fdatasync(descriptor)

    async with opened(tmp_path) as (journal, _):
        for n in range(2):
            await journal.open(a_hold(f"req_{n}"))
        monkeypatch.setattr(os, "fdatasync", fail_once)
        before = descriptors()
        await asyncio.gather(*(journal.settle(a_row(a_hold(f"req_{n}"))) for n in range(2)))
        await journal.open(a_hold("req_2"))
        assert synced == ["journal-00000001.log", "journal-00000002.log"]
        assert descriptors() == before
    assert list((await reopened(tmp_path)).unposted) == ["req_0", "req_1"]


def test_a_segment_that_the_disk_has_no_room_for_leaves_nothing_behind(tmp_path: Path) -> None:
    """It is tried every second: what each attempt left open, or allocated, would add up."""
    directory = JournalDirectory(tmp_path)
    directory.take()
    before = descriptors()
    with pytest.raises(OSError, match=r"large|space"):
        directory.draft(b"", 2**60)
    assert descriptors() == before
    assert list(tmp_path.iterdir()) == []
    directory.release()


async def test_what_a_killed_process_left_of_a_segment_is_not_read(tmp_path: Path) -> None:
    """It was about to get its name: what it says may have been settled since."""
    async with opened(tmp_path / "former") as (journal, _):
        for n in range(5):
            await journal.open(a_hold(f"req_{n}"))
    (tmp_path / "own").mkdir()
    shutil.copy(segments(tmp_path / "former")[-1], tmp_path / "own" / "journal.new")
    async with opened(tmp_path / "own"):
        pass
    async with opened(tmp_path / "own") as (journal, recovered):
        assert (recovered.holds, journal.damaged) == ([], 0)


def test_what_people_keep_beside_the_segments_is_none(tmp_path: Path) -> None:
    for name in ("journal-00000001.log", "journal-00000002.log.orig", "damaged-00000003.log", "journal.new"):
        (tmp_path / name).touch()
    assert JournalDirectory(tmp_path).numbers() == [1]


async def test_a_segment_that_is_read_in_part_only_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_1"))
    (segment,) = segments(tmp_path)
    size = segment.stat().st_size
    monkeypatch.setattr(os, "fstat", lambda _: SimpleNamespace(st_size=size + 1))
    with pytest.raises(JournalUnwritable, match="cannot be read"):
        await Journal(tmp_path).start()


def test_what_cannot_be_put_away_stays(tmp_path: Path) -> None:
    """The segment that follows it is published by then: nothing that is written there may fail for it."""
    for number in (1, 2):
        (tmp_path / f"journal-{number:08}.log").mkdir()
    for number in (3, 4):
        (tmp_path / f"journal-{number:08}.log").touch()
    (tmp_path / "damaged-00000003.log").mkdir()
    directory = JournalDirectory(tmp_path)
    directory.tidy()
    directory.set_aside(3)
    assert directory.numbers() == [1, 2, 3, 4]


async def test_what_the_kernel_takes_in_parts_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:100], at))
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_1"))
        await journal.settle(a_row(a_hold("req_1")))
        await journal.open(a_hold("req_2"))
    recovered = await reopened(tmp_path)
    assert ([hold.id for hold, _ in recovered.holds], list(recovered.unposted)) == (["req_2"], ["req_1"])


# Damage.


async def test_damage_is_counted_and_kept_and_costs_one_record(tmp_path: Path, lines: Lines) -> None:
    async with opened(tmp_path) as (journal, before):
        await journal.lease("alice", 9000)
        for n in range(3):
            await journal.open(a_hold(f"req_{n}"))
    (path,) = segments(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"req_1")] ^= 0x01
    path.write_bytes(content)

    async with opened(tmp_path) as (journal, recovered):
        assert journal.damaged == 1
        assert [hold.id for hold, _ in recovered.holds] == ["req_0", "req_2"]
        # Perhaps a lease or a row was hit: what is lent to this instance is not counted on any more.
        assert (recovered.instance, recovered.is_disowned) == (before.instance, True)
        assert (recovered.granted_totals, recovered.spent_totals) == ({}, {})
    assert lines.all("journal is damaged; the damaged segments are kept, and this proxy begins a new instance")
    assert (tmp_path / "damaged-00000001.log").read_bytes() == content
    async with opened(tmp_path) as (journal, again):
        assert (journal.damaged, again.instance) == (0, recovered.instance)


async def test_a_start_reads_what_is_live_and_nothing_before_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, before):
        await journal.open(a_hold("req_0"))
        await journal.open(a_hold("req_1"))
        await journal.settle(a_row(a_hold("req_1")))
        journal.begin_segment()
        await journal.open(a_hold("req_2"))
    first, last = segments(tmp_path)
    first.write_bytes(b"none of this is read")
    assert b"req_1" in last.read_bytes(), "its row waits to be posted"
    async with opened(tmp_path) as (journal, recovered):
        assert (journal.damaged, recovered.instance) == (0, before.instance)
        assert [hold.id for hold, _ in recovered.holds] == ["req_0", "req_2"]
        assert list(recovered.unposted) == ["req_1"]


async def test_a_damaged_checkpoint_is_made_good_by_the_segment_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        for n in range(3):
            await journal.open(a_hold(f"req_{n}"))
        await journal.settle(a_row(a_hold("req_2")))
    await reopened(tmp_path)
    last = segments(tmp_path)[-1]
    content = last.read_bytes()
    last.write_bytes(content.replace(b"req_1", b"req_?").replace(b"req_2", b"req_?"))
    recovered = await reopened(tmp_path)
    assert [hold.id for hold, _ in recovered.holds] == ["req_0", "req_1"]
    assert list(recovered.unposted) == ["req_2"]


@pytest.mark.parametrize(
    ("cut_to", "zeros"),
    [
        pytest.param(0, 0, id="empty"),
        pytest.param(0, SMALL, id="zeros"),
        pytest.param(1, 0, id="cut"),
        pytest.param(1, SMALL, id="cut, and zeros"),
    ],
)
async def test_a_segment_without_its_whole_head_is_damaged(
    tmp_path: Path, lines: Lines, cut_to: int, zeros: int
) -> None:
    """It has its name since its head is on the disk. What it said beyond the segment before is lost: that is told."""
    async with opened(tmp_path) as (journal, before):
        await journal.lease("alice", 9000)
        await journal.open(a_hold("req_0"))
    async with opened(tmp_path) as (journal, _):
        await journal.lease("alice", 20_000)
        await journal.open(a_hold("req_new"))
        await journal.settle(a_row(a_hold("req_new")))
    first, last = segments(tmp_path)
    content = b"".join(last.read_bytes().splitlines(keepends=True)[:cut_to]) + bytes(zeros)
    last.write_bytes(content)

    async with opened(tmp_path) as (journal, recovered):
        assert journal.damaged == 1
        assert (recovered.instance, recovered.is_disowned) == (before.instance, True)
        assert (recovered.granted_totals, recovered.unposted) == ({}, {})
        assert [hold.id for hold, _ in recovered.holds] == ["req_0"]
    (line,) = lines.all("journal is damaged; the damaged segments are kept, and this proxy begins a new instance")
    assert (line["places"], line["segments"], line["former_instance"]) == (1, [2], before.instance)
    assert (tmp_path / "damaged-00000002.log").read_bytes() == content
    assert first in segments(tmp_path)
    async with opened(tmp_path) as (journal, again):
        assert (journal.damaged, again.instance) == (0, recovered.instance)
        assert [hold.id for hold, _ in again.holds] == ["req_0"]


async def test_a_directory_that_is_new_is_not_damaged(tmp_path: Path, lines: Lines) -> None:
    async with opened(tmp_path / "a") as (journal, _):
        assert journal.damaged == 0
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "journal.new").touch()  # where the first start was cut
    async with opened(tmp_path / "b") as (journal, _):
        assert journal.damaged == 0
    assert not lines.text


async def test_a_torn_end_is_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        await journal.open(a_hold("req_1"))
        line = await journal.settle(a_row(a_hold("req_1")))
    (path,) = segments(tmp_path)
    content = path.read_bytes()
    end = content.index(line) + len(line)
    path.write_bytes(content[: end - 20] + bytes(len(content) - end + 20))
    async with opened(tmp_path) as (journal, recovered):
        assert journal.damaged == 0
        assert [hold.id for hold, _ in recovered.holds] == ["req_1"]


def test_a_rows_record_is_about_as_long_as_its_reserve() -> None:
    from goproxy.core.journal_record import encode
    from goproxy.data_plane.journal import _SETTLEMENT_BYTES

    assert len(encode(Settled(a_row(a_hold("req_" + "x" * 40))))) < _SETTLEMENT_BYTES // 2


async def test_one_who_fails_over_a_row_keeps_no_other_row_waiting(tmp_path: Path, lines: Lines) -> None:
    def fail(_: asyncio.Future[bytes]) -> None:
        raise ZeroDivisionError

    heard: list[bytes] = []
    async with opened(tmp_path) as (journal, _):
        first = journal.settle(a_row(a_hold("req_1")), fail)
        second = journal.settle(a_row(a_hold("req_2")), lambda written: heard.append(written.result()))
        line = await asyncio.wait_for(second, 30)
        assert first.done()
    assert heard == [line]
    assert len(lines.all("telling of a row failed")) == 1
