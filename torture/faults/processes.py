"""P1 to P9: what goes wrong with the process, its disk, its backend and its clock, while requests run."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

from torture.client import End, Seen, a_client
from torture.daemon import Daemon
from torture.faults.hostile import Hostile
from torture.faults.kind import EXACT, Answering, Billed, Charge, Kind, Turn, look, passes
from torture.stand import Proxy, Stand

UPSTREAM = "unlucky"

_INTERRUPTED = Billed(("interrupted", "exact"), Charge.WITHIN_HOLD)
_CUT_OFF = Billed(("estimated",), Charge.WITHIN_HOLD)
_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), Path("/usr/lib/faketime/libfaketime.so.1"))
"""Debian's, of whatever architecture; another place, where there is none."""

_RECOVERS = 15.0
_IN_A_ROW = 40


def _paced(pace: float) -> Answering:
    async def answer(turn: Turn) -> None:
        await turn.begin()
        for piece in turn.pieces:
            await turn.events(piece)
            await asyncio.sleep(pace)
        await turn.wire.end_stream()

    return answer


async def _begins(turn: Turn) -> None:
    """And does not end."""
    await turn.begin()
    await turn.events(*turn.pieces[:3])
    await turn.wire.until_closed()


@dataclass
class Scene:
    """A proxy, its surroundings, and the requests that were sent to it."""

    stand: Stand
    hostile: Hostile
    numbers: Iterator[int]
    key: str
    injected: dict[int, Kind] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    what: str = ""

    @property
    def proxy(self) -> Proxy:
        return self.stand.proxies[UPSTREAM]

    @property
    def daemon(self) -> Daemon:
        return self.proxy.daemon

    def must(self, holds: bool, otherwise: object) -> None:
        if not holds:
            self.violations.append(f"{self.what}: {otherwise}")

    async def ask(
        self, answer: Answering | None = None, billed: Billed = EXACT, *, reaches: bool | None = True
    ) -> tuple[int, Seen]:
        """One request; `reaches`: whether the provider gets it, None: perhaps."""
        number = next(self.numbers)
        row, _, name = self.what.partition(" ")
        self.injected[number] = Kind(row, name, "", look(passes()), billed, upstream=UPSTREAM, reaches=reaches)
        if answer is not None:
            self.hostile.answers[number] = answer
        try:
            async with a_client(self.proxy.port) as client:
                await client.ask(self.key, number)
                return number, await client.seen()
        except OSError:
            return number, Seen()

    async def all_pass(self, count: int, answer: Answering | None = None) -> None:
        """So many at once, each of which must be answered in full."""
        for number, seen in await asyncio.gather(*(self.ask(answer) for _ in range(count))):
            self.is_whole(number, seen)

    def is_whole(self, number: int, seen: Seen) -> None:
        turn = self.hostile.record.get(number)
        problem = passes()(seen, turn) if turn else f"the provider did not get it; the client got {seen}"
        self.must(problem is None, f"request {number}: {problem}")

    @asynccontextmanager
    async def streams(
        self, count: int, answer: Answering, billed: Billed = EXACT
    ) -> AsyncIterator[list[asyncio.Task[tuple[int, Seen]]]]:
        """So many streams that have begun."""
        known = len(self.hostile.record)
        tasks = [asyncio.create_task(self.ask(answer, billed)) for _ in range(count)]
        async with asyncio.timeout(30):
            while len(self.hostile.record) < known + count:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        yield tasks
        await asyncio.gather(*tasks)

    async def is_refused(self, status: int) -> None:
        """Requests do not reach the provider."""
        free = Billed(())
        for number, seen in await asyncio.gather(*(self.ask(None, free, reaches=False) for _ in range(5))):
            self.must(seen.status == status, f"request {number}: the client got {seen}, and {status} was due")

    async def recovers(self) -> None:
        """Without a restart."""
        async with asyncio.timeout(_RECOVERS):
            while not await self.daemon.is_ready():
                await asyncio.sleep(0.1)
        await self.all_pass(5)

    def limit(self, kind: int, soft: int) -> None:
        _, hard = resource.prlimit(self.daemon.pid, kind)
        resource.prlimit(self.daemon.pid, kind, (soft, hard))


async def _leaves_in_time(scene: Scene) -> None:
    async with scene.streams(300, _paced(0.2)) as streams:
        leaving = asyncio.create_task(scene.daemon.stop())
        await asyncio.sleep(0.3)
        await scene.is_refused(0)
    for stream in streams:
        scene.is_whole(*stream.result())
    scene.must(await leaving == 0, "the process did not leave in good order")


async def _outlasts_the_grace(scene: Scene) -> None:
    async with scene.streams(30, _begins, _CUT_OFF) as streams:
        code = await scene.daemon.stop()
    scene.must(code == 0, f"the process left with {code}")
    for stream in streams:
        number, seen = stream.result()
        told = seen.end is End.BROKEN and b"being restarted" in seen.body
        scene.must(told, f"request {number}: the client got {seen}")


async def _killed(scene: Scene) -> None:
    async with scene.streams(30, _begins, _INTERRUPTED):
        await scene.daemon.kill()
    await scene.daemon.start()
    await scene.all_pass(5)


async def _no_space(scene: Scene) -> None:
    """A disk that is full from the start, and is given more."""
    await scene.daemon.stop()
    disk = scene.proxy.directory / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "journal", disk], check=True)
    try:
        await scene.daemon.start(environment={"JOURNAL_PATH": str(disk)}, is_ready=False)
        scene.must(not await scene.daemon.is_ready(), "it says that it is ready")
        await scene.is_refused(503)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        await scene.recovers()
        await scene.stand.is_settled(UPSTREAM)
        await scene.daemon.stop()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


async def _takes_nothing(scene: Scene) -> None:
    """In the middle of streams."""
    async with scene.streams(20, _paced(0.25)) as streams:
        scene.limit(resource.RLIMIT_FSIZE, 0)
        await scene.is_refused(503)
        scene.must(not await scene.daemon.is_ready(), "it says that it is ready")
    for stream in streams:
        scene.is_whole(*stream.result())
    scene.limit(resource.RLIMIT_FSIZE, -1)
    await scene.recovers()


def _call_fails(call: str, error: str) -> Callable[[Scene], Awaitable[None]]:
    """Thrice, from the 20th time on. The disk is tried again every second, so that this lasts some seconds."""

    async def run(scene: Scene) -> None:
        await scene.daemon.stop()
        inject = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}")
        await scene.daemon.start(before=(*inject, "-e", f"inject={call}:error={error}:when=20..22"))
        in_a_row = refused = 0
        async with asyncio.timeout(4 * _RECOVERS):
            while in_a_row < _IN_A_ROW:
                number, seen = await scene.ask(None, EXACT, reaches=None)
                in_a_row += 1
                if seen.status == 503:
                    in_a_row, refused = 0, refused + 1
                    await asyncio.sleep(0.1)
                else:
                    scene.is_whole(number, seen)
        scene.must(refused > 0, "nothing was refused: the fault was not felt")
        await scene.stand.is_settled(UPSTREAM)
        await scene.daemon.stop()

    return run


async def _backend_killed(scene: Scene) -> None:
    await scene.all_pass(5)
    await scene.stand.backend.kill()
    await scene.all_pass(20, _paced(0.05))
    await scene.stand.backend.start()
    await scene.all_pass(5)


async def _backend_hangs(scene: Scene) -> None:
    await scene.all_pass(5)
    scene.stand.backend.signal(signal.SIGSTOP)
    await scene.all_pass(20, _paced(0.1))
    scene.stand.backend.signal(signal.SIGCONT)
    await scene.all_pass(5)


async def _store_locked(scene: Scene) -> None:
    store = scene.stand.directory / "backend" / "backend.sqlite3"
    with closing(sqlite3.connect(store, isolation_level=None, check_same_thread=False)) as other:
        await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
        await scene.all_pass(20, _paced(0.1))
        other.execute("ROLLBACK")
    await scene.all_pass(5)


async def _keys_corrupt(scene: Scene) -> None:
    """The last good ones hold."""
    path = scene.stand.directory / "keys.json"
    good = path.read_bytes()
    for bad in (good[: len(good) // 2], b"", b"\0" * len(good), b"[]"):
        path.write_bytes(bad)
        await asyncio.sleep(0.6)
        await scene.all_pass(5)
    path.write_bytes(good)


def _segments(scene: Scene) -> list[Path]:
    return sorted(scene.proxy.journal.glob("journal-*.log"))


def _journal_damaged(damage: Callable[[Sequence[Path]], None], *, loses: bool) -> Callable[[Scene], Awaitable[None]]:
    """While it is down; `loses`: a request's end can be lost over it, never what is with the backend."""

    async def run(scene: Scene) -> None:
        await scene.all_pass(20)
        await scene.stand.is_settled(UPSTREAM)
        async with scene.streams(5, _begins, Billed(("interrupted",), Charge.WITHIN_HOLD)):
            await scene.daemon.kill()
        if loses:  # the holds of these may be in what was damaged
            for kind_number, kind in list(scene.injected.items())[-5:]:
                scene.injected[kind_number] = Kind(
                    *(kind.row, kind.name, "", kind.act, Billed(("interrupted",), Charge.WITHIN_HOLD)), reaches=None
                )
                scene.hostile.record.pop(kind_number, None)
        damage(_segments(scene))
        await scene.daemon.start()
        await scene.all_pass(5)

    return run


def _tear(segments: Sequence[Path]) -> None:
    """The last record was not written whole."""
    data = segments[-1].read_bytes()
    end = len(data.rstrip(b"\0"))
    last = data[:end].splitlines(keepends=True)[-1]
    with segments[-1].open("r+b") as segment:
        segment.seek(end)
        segment.write(last[: len(last) // 2])


def _empty_next(segments: Sequence[Path]) -> None:
    """A segment that was begun and has nothing in it."""
    number = int(segments[-1].stem.rpartition("-")[2]) + 1
    (segments[-1].parent / f"journal-{number:08}.log").touch()


def _flip(segments: Sequence[Path]) -> None:
    """A bit in the middle of what is written."""
    with segments[-1].open("r+b") as segment:
        end = len(segment.read().rstrip(b"\0"))
        segment.seek(end // 2)
        byte = segment.read(1)[0]
        segment.seek(end // 2)
        segment.write(bytes([byte ^ 4]))


async def _two_processes(scene: Scene) -> None:
    second = Daemon("second", "serve", scene.proxy.port, scene.daemon.environment, scene.proxy.directory / "second.log")
    try:
        await second.start(is_ready=False)
        scene.must(False, "a second process took the journal or the port")
    except AssertionError as error:
        scene.must("Traceback" not in str(error), f"the second process failed with {error}")
    finally:
        await second.kill()
    await scene.all_pass(5)


def _clock(*steps: str) -> Callable[[Scene], Awaitable[None]]:
    """The wall clock jumps in the middle of streams; the monotonic one does not."""

    async def run(scene: Scene) -> None:
        await scene.daemon.stop()
        stamp = scene.proxy.directory / "faketime"
        stamp.write_text("+0\n")
        fake = {
            "LD_PRELOAD": str(_FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        await scene.daemon.start(environment=fake)
        async with scene.streams(10, _paced(0.2)) as streams:
            for step in steps:
                stamp.write_text(f"{step}\n")
                await asyncio.sleep(0.3)
        for stream in streams:
            scene.is_whole(*stream.result())
        await scene.all_pass(5)
        await scene.stand.is_settled(UPSTREAM)

    return run


async def _no_descriptors(scene: Scene) -> None:
    """More connections than files may be open; what is served goes on, and accepting resumes."""
    async with scene.streams(10, _paced(0.4)) as streams:
        scene.limit(resource.RLIMIT_NOFILE, scene.daemon.descriptors + 10)
        async with AsyncExitStack() as connections:
            for _ in range(60):
                await connections.enter_async_context(a_client(scene.proxy.port))
            await asyncio.sleep(1)
    for stream in streams:
        scene.is_whole(*stream.result())
    scene.limit(resource.RLIMIT_NOFILE, 1024)
    await asyncio.sleep(0.5)
    await scene.recovers()


async def _stands_still(scene: Scene) -> None:
    """The whole process, for three seconds."""
    async with scene.streams(20, _paced(0.2)) as streams:
        scene.daemon.signal(signal.SIGSTOP)
        await asyncio.sleep(3)
        scene.daemon.signal(signal.SIGCONT)
    for stream in streams:
        scene.is_whole(*stream.result())


async def _posted_twice(scene: Scene) -> None:
    """Rows that the backend has are posted again: the journal is one from before."""
    scene.stand.backend.signal(signal.SIGSTOP)
    await scene.all_pass(20)
    await asyncio.sleep(1)
    copy = scene.proxy.directory / "copy"
    await scene.daemon.kill()
    shutil.copytree(scene.proxy.journal, copy)
    scene.stand.backend.signal(signal.SIGCONT)
    for _ in range(3):
        await scene.daemon.start()
        await scene.stand.is_settled(UPSTREAM)
        await scene.daemon.kill()
        shutil.rmtree(scene.proxy.journal)
        shutil.copytree(copy, scene.proxy.journal)
    shutil.rmtree(copy)
    await scene.daemon.start()
    await scene.all_pass(5)


@dataclass(frozen=True, slots=True)
class Happening:
    """A kind of fault that befalls a process, and all requests that it serves."""

    row: str
    name: str
    happens: str
    billed: str
    run: Callable[[Scene], Awaitable[None]]
    can_be: Callable[[], bool] = lambda: True
    """On this machine."""

    def __str__(self) -> str:
        return f"{self.row} {self.name}"


def _is_root() -> bool:
    return os.geteuid() == 0


def _has_strace() -> bool:
    return shutil.which("strace") is not None


_WHOLE = "what runs is answered in full"
_503 = "new requests: 503 before the provider is asked; what runs is answered in full; recovers without a restart"
_SERVED = "requests are answered as ever"
HAPPENINGS = [
    Happening("P1", "SIGTERM with 300 streams that end in time", f"{_WHOLE}; nothing new is accepted", "exact",
              _leaves_in_time),
    Happening("P1", "SIGTERM with streams that do not end", "an error event at the end of the grace period",
              "estimated", _outlasts_the_grace),
    Happening("P2", "SIGKILL in the middle of streams", "a broken stream; served again after the start",
              "interrupted: what was noted", _killed),
    Happening("P4", "a disk without room at the start", "503 until there is room; recovers without a restart", "exact",
              _no_space, _is_root),
    Happening("P4", "a disk that takes nothing more", _503, "exact", _takes_nothing),
    Happening("P4", "ENOSPC on writing", "503 for some requests, or none; recovers", "exact",
              _call_fails("pwrite64", "ENOSPC"), _has_strace),
    Happening("P5", "EIO on writing", "503 for some requests, or none; recovers", "exact",
              _call_fails("pwrite64", "EIO"), _has_strace),
    Happening("P5", "EIO on syncing", "503 for some requests, or none; a new segment, and no second sync of the old",
              "exact", _call_fails("fdatasync", "EIO"), _has_strace),
    Happening("P6", "the backend is killed", _SERVED, "exact, when it is back", _backend_killed),
    Happening("P6", "the backend hangs", _SERVED, "exact, when it is back", _backend_hangs),
    Happening("P6", "the store is locked", _SERVED, "exact, when it is free", _store_locked),
    Happening("P6", "keys.json is truncated, empty, zeros, another document", f"{_SERVED}: the last good keys hold",
              "exact", _keys_corrupt),
    Happening("P6", "the journal's last record is torn", _SERVED, "exact; interrupted what ran",
              _journal_damaged(_tear, loses=False)),
    Happening("P6", "an empty segment of the journal", _SERVED, "exact; interrupted what ran",
              _journal_damaged(_empty_next, loses=False)),
    Happening("P6", "a flipped bit in the journal", f"{_SERVED}; the segment is kept, and an error logged",
              "exact what was posted; interrupted what can be read of the rest", _journal_damaged(_flip, loses=True)),
    Happening("P6", "a second process on the same journal", "the second one ends with a reason", "exact",
              _two_processes),
    Happening("P7", "the clock goes three hours forth and back", _SERVED, "exact", _clock("+3h", "-3h", "+0"),
              _FAKETIME.exists),
    Happening("P7", "the clock goes 100 days forth", _SERVED, "exact", _clock("+100d"), _FAKETIME.exists),
    Happening("P8", "no more descriptors", f"{_WHOLE}; accepting resumes", "exact", _no_descriptors),
    Happening("P8", "the process stands still for 3 s", _WHOLE, "exact", _stands_still),
    Happening("P9", "rows are posted again, thrice", _SERVED, "exact, once", _posted_twice),
]  # fmt: skip
