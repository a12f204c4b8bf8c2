"""The journal: what this proxy promised, on its own disk before anybody relies on it.

One thread writes. Whatever came while it waited for the disk goes out in its next write and shares its one sync (group
commit). What is live is in memory too, so that a segment that is full, or that the disk failed to sync, is followed by
a new one that begins with all of it.

When the disk does not take more, requests that are not sent yet are refused, and those that run are settled in the
space that was taken for them beforehand, or, where the disk takes nothing at all, kept in memory until it does. It is
tried again every second. A disk that does not answer for longer than a slow one counts as one that takes no more, until
it does.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from goproxy.core.journal_record import (
    Leased,
    Opened,
    Posted,
    Progressed,
    Reader,
    Record,
    Settled,
    Started,
    Synced,
    Voided,
    encode,
)
from goproxy.core.journal_state import JournalState, Unposted, replay
from goproxy.core.ledger import Hold, Row
from goproxy.core.usage import Usage
from goproxy.data_plane.journal_directory import InUse, JournalDirectory, Segment
from goproxy.data_plane.prompt_future import PromptFuture
from goproxy.observe import exception_fields, log

_SEGMENT_BYTES = 8 * 1024 * 1024

_SETTLEMENT_BYTES = 4096
"""Kept free in the segment for the row of each open request; a row is 1 to 2 KiB."""

_PATIENCE = 0.005
"""Seconds that a row may wait for a record that is in a hurry."""

_LINGER = 0.2
"""Seconds that a record may stay in memory for which nobody waits."""

_SYNCED = encode(Synced())

_RETRY = 1.0
"""Seconds between two attempts on a disk that does not take more."""

_SILENT = 5.0
"""Seconds after which a disk that was told to write something does not answer. Slow ones take two or three."""

_LOOK_EVERY = 0.5
"""Seconds between two looks at that, while something is on its way to it."""

_LAST_WRITE = 10.0
"""Seconds for the disk to take what there is when the journal is closed."""

_NO_ANSWER = "the disk does not answer"


class JournalUnwritable(Exception):
    """The disk does not take the record: nothing that relies on it may be done."""


class JournalInUse(Exception):
    """Another process writes this journal."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the journal said when it was opened. Money is in nano-dollars."""

    instance: str
    """Whom the control plane lends to: this proxy, for as long as its journal lives."""
    is_disowned: bool
    """It must become another instance, once its rows are posted: there was damage."""
    start: int
    """How often this journal was opened, this time included."""
    holds: Sequence[tuple[Hold, Usage | None]]
    """Requests in whose middle the process before ended, with what they had used as far as it was noted."""
    unposted: Mapping[str, Unposted]
    granted_totals: Mapping[str, int]
    spent_totals: Mapping[str, int]
    """By wallet."""


Told = Callable[["asyncio.Future[bytes]"], object]
"""Called with a future when it is done, as its own callbacks are, but at once: they would wait for the loop's next
turn, which costs more than what they do."""


@dataclass(slots=True)
class _Entry:
    record: Record
    line: bytes
    written: asyncio.Future[bytes] | None
    told: Told | None = None


class Journal:
    """The journal of one proxy, in a directory of its own. To be used from one event loop."""

    def __init__(self, directory: Path, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._directory = JournalDirectory(directory)
        self._segment_bytes = segment_bytes
        self.instance = ""
        self.syncs = 0
        """How often the disk was waited for."""
        self.damaged = 0
        """Damaged places that were found at the start."""
        self._start = 0
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

        # From the event loop to the thread: a record each, and a token where one shall not wait.
        self._queue: deque[_Entry] = deque()
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._is_called = False
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        """Runs while something may be on its way to the disk: one for all who wait."""
        self._is_silence_told = False

        # From the thread to the event loop.
        self._failure: str | None = "it is not open"
        """Why the last attempt failed."""
        self._began = 0.0
        """When it turned to the disk; 0: it does not wait for it."""
        self._batch: Sequence[_Entry] = ()
        """What it is writing."""

        # What follows is the writing thread's alone, once it runs.
        self._state = JournalState()
        self._segment: Segment | None = None
        self._waiting: list[_Entry] = []
        """In memory, not on the disk, and somebody waits for it."""
        self._retry_at = 0.0
        self._is_to_rotate = False
        """This one is set by the event loop."""
        self._to_set_aside: list[int] = []

    @property
    def problem(self) -> str | None:
        """Why nothing can be written at the moment."""
        return _NO_ANSWER if self._failure is None and self._is_silent else self._failure

    @property
    def _is_silent(self) -> bool:
        began = self._began
        return began > 0 and time.monotonic() - began >= _SILENT

    async def start(self) -> Recovered:
        """Lock the directory, read what is there, and begin a segment of this process.

        The disk may refuse that segment (`problem` says so then): the journal is read all the same, and tries on.

        Raises:
            JournalInUse: another process has the directory.
            JournalUnwritable: the directory can be neither read nor made.
        """
        self._loop = asyncio.get_running_loop()
        try:
            recovered = await asyncio.to_thread(self._recover)
            self._thread.start()
        except InUse as error:
            raise JournalInUse(f"{error}: another process writes this journal") from None
        except OSError as error:
            self._directory.release()
            raise JournalUnwritable(f"{error.filename}: the journal cannot be read: {error.strerror}") from None
        except Exception:  # there may be no thread to be had: whoever comes next shall find the directory free
            if self._segment is not None:
                self._segment.close()
            self._directory.release()
            raise  # (who is cancelled keeps it, for the reading goes on and may write)
        return recovered

    async def open(self, hold: Hold) -> None:
        """On return the hold is on the disk, and the request may be sent.

        Raises:
            JournalUnwritable: it may not.
        """
        try:
            await self._put(Opened(hold), PromptFuture(loop=self._loop))
        except asyncio.CancelledError:
            self.void(hold.id)
            raise

    def void(self, id: str) -> None:  # noqa: A002 - the request's id, as in a row
        """The request of an open hold is not sent after all; there will be no row."""
        self._note(Voided(id))

    def progress(self, id: str, usage: Usage, terms: str) -> None:  # noqa: A002
        """Note what an open request has used so far, and on which terms, soon."""
        self._note(Progressed(id, usage, terms))

    def settle(self, row: Row, told: Told | None = None) -> asyncio.Future[bytes]:
        """Close a hold with its row. Done, with the row's line, when it is on the disk, however long that takes.

        No client waits for that: a row waits a moment for a record that somebody waits for, and shares its sync.
        """
        return self._put(Settled(row), told=told, is_patient=True)

    def posted(self, ids: Sequence[str]) -> None:
        """The control plane has these rows. (Should this be lost, they are posted again, which changes nothing.)"""
        self._note(Posted(tuple(ids)))

    def lease(self, wallet: str, granted_total: int) -> asyncio.Future[bytes]:
        """Note what is lent of a wallet. Done when it is on the disk; no later record is there before it."""
        return _unobserved(self._put(Leased(wallet, granted_total)))

    def renew(self) -> None:
        """Become another instance, which was lent nothing yet. No later record is on the disk before that."""
        self.instance = secrets.token_hex(16)
        _unobserved(self._put(Started(self.instance, self._start)))

    def begin_segment(self) -> asyncio.Future[bytes]:
        """Go on in another segment: a start reads only what is live now, and what comes after it. Done when it does."""
        self._is_to_rotate = True
        return self._put(Synced())

    async def close(self) -> None:
        """Write what there is to write, and leave the directory to others."""
        self._is_closing = True
        self._tokens.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, _LAST_WRITE)
        if self._watch is not None:
            self._watch.cancel()
        if self._thread.is_alive():  # it may write yet: until the process ends nobody else may
            log("journal is closed while the disk does not answer", level=logging.ERROR)
            self._loop.call_soon(_resolve, [*self._waiting, *self._batch, *self._queue], _unwritable(_NO_ANSWER))
        else:
            self._directory.release()

    def _put(
        self,
        record: Record,
        written: asyncio.Future[bytes] | None = None,
        *,
        told: Told | None = None,
        is_patient: bool = False,
    ) -> asyncio.Future[bytes]:
        """Done, with the record's line, when it is on the disk. `is_patient`: that may be a moment later."""
        if written is None:
            written = self._loop.create_future()
        entry = _Entry(record, encode(record), written, told)
        if self._is_closing:
            self._loop.call_soon(_resolve, [entry], JournalUnwritable("The journal is closed."))
            return written
        self._queue.append(entry)
        if is_patient:
            if self._timer is None:
                self._timer = self._loop.call_later(_PATIENCE, self._call)
        else:
            self._call()
        return written

    def _call(self) -> None:
        """Have the thread write what is in the queue."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue and not self._is_called:
            self._is_called = True
            self._tokens.put(None)
            if self._watch is None:
                self._watch = self._loop.call_later(_LOOK_EVERY, self._look)

    def _look(self) -> None:
        """Refuse who waits to begin while the disk does not answer."""
        self._watch = None
        if not (self._began or self._queue):
            return
        self._watch = self._loop.call_later(_LOOK_EVERY, self._look)
        if not self._is_silent:
            return
        if not self._is_silence_told:
            self._is_silence_told = True
            log("journal cannot be written; new requests are refused", level=logging.ERROR, problem=_NO_ANSWER)
        for entry in [*self._batch, *self._queue]:
            if isinstance(entry.record, Opened) and entry.written is not None and not entry.written.done():
                self._note(Voided(entry.record.hold.id))  # it is on the disk, or will be
                _resolve([entry], _unwritable(_NO_ANSWER))

    def _note(self, record: Record) -> None:
        """It will be on the disk soon; nobody waits for that."""
        if not self._is_closing:
            self._queue.append(_Entry(record, encode(record), None))

    # The thread.

    def _recover(self) -> Recovered:
        self._directory.take()
        read: list[tuple[int, Reader]] = []

        def newest_first() -> Iterator[Reader]:
            for number in reversed(self._directory.numbers()):
                read.append((number, self._directory.read(number)))
                yield read[-1][1]

        state = self._state = replay(newest_first())
        for number, reader in reversed(read):
            if reader.damaged:
                self.damaged += len(reader.damaged)
                self._to_set_aside.append(number)
            if reader.torn:
                log("journal ends in records that were not written whole", segment=number, places=len(reader.torn))
        if self.damaged:
            # What was lent, or spent of it, may be among what is lost. So it shall become another instance, which was
            # lent nothing: that errs on the safe side, and what this one was lent is the operator's to call back.
            log(
                "journal is damaged; the damaged segments are kept, and this proxy begins a new instance",
                level=logging.ERROR,
                places=self.damaged,
                segments=self._to_set_aside,
                former_instance=state.instance,
            )
            state.lent = {}
        self.instance = state.instance or secrets.token_hex(16)
        self._start = state.start + 1
        started = Started(self.instance, self._start)
        state.apply(started, encode(started))
        self._commit(())
        return Recovered(
            instance=self.instance,
            is_disowned=self.damaged > 0,
            start=self._start,
            holds=[(hold, state.progress.get(hold.id)) for hold in state.holds.values()],
            unposted=dict(state.unposted),
            granted_totals={wallet: lent.granted_total for wallet, lent in state.lent.items()},
            spent_totals=state.spent_totals(),
        )

    def _run(self) -> None:
        while True:
            with suppress(Empty):
                self._tokens.get(timeout=self._until_retry())
            self._began = time.monotonic()  # before the queue is emptied: who finds it so sees who has what was in it
            is_closing = self._is_closing
            self._is_called = False  # before the queue is emptied: what comes from here on calls again
            batch = [self._queue.popleft() for _ in range(len(self._queue))]
            if not (batch or is_closing or self._retry_at):
                self._began = 0.0
                continue
            if is_closing:
                self._retry_at = min(self._retry_at, time.monotonic())
            self._batch = batch
            self._commit(batch)
            self._batch, self._began = (), 0.0
            if is_closing:
                self._leave()
                return

    def _until_retry(self) -> float:
        return max(0.01, self._retry_at - time.monotonic()) if self._retry_at else _LINGER

    def _commit(self, batch: Sequence[_Entry]) -> None:
        for entry in batch:
            self._state.apply(entry.record, entry.line)
        if time.monotonic() < self._retry_at:
            self._make_do(batch)
            return
        try:
            self._write(b"".join([entry.line for entry in batch]))
        except Exception as error:  # whatever it is: who cannot write must say so
            self._cannot(error)
            self._make_do(batch)
            return
        if self._is_silence_told or (self._failure is not None and self._retry_at):
            log("journal can be written again")
        self._failure, self._retry_at, self._is_silence_told = None, 0.0, False
        waiting, self._waiting = self._waiting, []
        self._tell([*waiting, *batch])

    def _write(self, lines: bytes) -> None:
        """Bring the disk to what the state says; `lines` is what it does not say yet, if all went well before."""
        reserved = _SETTLEMENT_BYTES * len(self._state.holds)
        is_full = self._segment is None or self._segment.room < len(_SYNCED + lines) + reserved
        if is_full or self._retry_at or self._is_to_rotate:
            self._is_to_rotate = False
            self._rotate(reserved)
        elif lines:
            self._append(lines)

    def _rotate(self, reserved: int) -> None:
        head = self._state.checkpoint()
        self._go_on()
        segment = self._directory.draft(head, len(head) + reserved + max(self._segment_bytes, len(head)))
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        self._go_on()
        try:
            self._directory.publish()
        except OSError:
            segment.close()
            raise
        self._segment = segment
        self.syncs += 1
        for number in self._to_set_aside:
            self._directory.set_aside(number)
        self._to_set_aside = []
        self._directory.tidy()

    def _go_on(self) -> None:
        """The disk has answered, and is told something else."""
        if self._began:
            self._began = time.monotonic()

    def _append(self, lines: bytes) -> None:
        assert self._segment is not None
        self._go_on()
        try:
            self._segment.append(_SYNCED + lines)
        except OSError:
            self._segment.close()
            self._segment = None
            raise
        self.syncs += 1

    def _make_do(self, batch: Sequence[_Entry]) -> None:
        """The disk takes no new segment: refuse what has not begun, end in the old one what can be ended there."""
        opens = [entry for entry in batch if isinstance(entry.record, Opened)]
        for entry in opens:
            assert isinstance(entry.record, Opened)
            self._state.take_back(entry.record.hold.id)
        self._tell(opens, _unwritable(self._failure))
        ends = [entry for entry in batch if isinstance(entry.record, Settled | Voided)]
        lines = b"".join(entry.line for entry in ends)
        if self._segment is not None and lines and len(_SYNCED + lines) <= self._segment.room:
            with suppress(OSError):
                self._append(lines)
                self._tell(ends)
                ends = []
        others = [entry for entry in batch if not isinstance(entry.record, Opened | Settled | Voided)]
        self._waiting += [entry for entry in (*ends, *others) if entry.written]

    def _cannot(self, error: Exception) -> None:
        problem = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        if problem != self._failure:
            log("journal cannot be written; new requests are refused", level=logging.ERROR, problem=problem)
        self._failure, self._retry_at = problem, time.monotonic() + _RETRY

    def _leave(self) -> None:
        if self._segment is not None:
            self._segment.close()
        if self._waiting:
            log("journal is closed with records that the disk did not take", level=logging.ERROR, n=len(self._waiting))
            self._tell(self._waiting, _unwritable(self._failure))

    def _tell(self, entries: Sequence[_Entry], error: Exception | None = None) -> None:
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_resolve, entries, error)


def _unwritable(problem: str | None) -> JournalUnwritable:
    return JournalUnwritable(f"The journal cannot be written: {problem}")


def _unobserved(written: asyncio.Future[bytes]) -> asyncio.Future[bytes]:
    """Not everybody looks whether it went well."""
    written.add_done_callback(lambda done: done.cancelled() or done.exception())
    return written


def _resolve(entries: Sequence[_Entry], error: Exception | None) -> None:
    for entry in entries:
        if entry.written is None or entry.written.done():
            continue
        if error is None:
            entry.written.set_result(entry.line)
        else:
            entry.written.set_exception(error)
        if entry.told is not None:
            try:
                entry.told(entry.written)
            except Exception as fault:  # others wait for what was written with it
                log("telling of a row failed", level=logging.ERROR, **exception_fields(fault))
