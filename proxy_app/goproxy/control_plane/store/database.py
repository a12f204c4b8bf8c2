"""The database under the store: SQLite or PostgreSQL, one writer, one transaction for each piece of work.

What changes something runs in one thread, one piece after the other, each in a transaction of its own: it is committed
when `run` returns, and gone when `run` raises. What only reads (`read`) has threads and connections of its own. A
database that cannot be had now (locked, away, full) is `StoreUnavailable` after a few seconds; the callers try again,
for all that they send is idempotent. A database may also hang: it takes a commit and says nothing, as PostgreSQL does
whose synchronous standby is gone. The piece of work that met it waits with it, for whether it is stored is not known;
all others are refused, and the store is told as away.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, Table, exc
from sqlalchemy.dialects import postgresql, sqlite

from goproxy.control_plane.store import copying, engine
from goproxy.control_plane.store.engine import UnusableStore
from goproxy.control_plane.store.migrating import Migration, Taken
from goproxy.control_plane.store.walk import Position
from goproxy.control_plane.store.worker import Leaving, Worker
from goproxy.observe import log

T = TypeVar("T")

QUEUE_SECONDS = 5.0
"""How long a piece of work waits for its turn before it is given up: whoever asked for it tries again."""

HANGS_AFTER = 10.0
"""Seconds after which the database is taken to hang in a piece of work that is not long by its nature."""

_OUR_MISTAKES = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)
_COPY = "copy-"

Observe = Callable[[str, float], None]


class StoreUnavailable(Exception):
    """The database cannot be had now; nothing of the work was stored, or whether it was is not known."""


class Database:
    """One store, as long as the process runs."""

    def __init__(self, url: str, observe: Observe = lambda _work, _seconds: None) -> None:
        """Nothing is opened yet.

        Args:
            url: as SQLAlchemy writes it, `sqlite:////path` or `postgresql://user:password@host/name`.
            observe: is told each piece of work by name, and the seconds that it took.

        Raises:
            UnusableStore: this is no such URL.
        """
        self.url = engine.known_url(url)
        self._file = engine.sqlite_file(self.url)
        self._worker = Worker("store")
        self._writing = _Lane(engine.to_write(self.url), self._worker, 1, observe)
        readers = ThreadPoolExecutor(engine.READERS, thread_name_prefix="store-read")
        self._reading = _Lane(engine.to_read(self.url), readers, engine.READERS, observe)
        self._one_copy = asyncio.Lock()
        self._migration = Migration()

    @property
    def problem(self) -> str | None:
        """Why the last piece of work could not be done, if it could not, or is not done yet."""
        return self._writing.problem or self._reading.problem

    @property
    def directory(self) -> Path | None:
        """Where the database's file is, if it is a file."""
        return None if self._file is None else self._file.parent

    async def run(self, name: str, work: Callable[[Connection], T], *, is_long: bool = False) -> T:
        """Do a piece of work in a transaction.

        Args:
            is_long: it takes its time by its nature, and is no sign that the database hangs.

        Raises:
            StoreUnavailable: the database cannot be had now.
        """
        return await self._writing.run(name, work, is_long=is_long)

    async def read(self, name: str, work: Callable[[Connection], T]) -> T:
        """Do a piece of work that changes nothing. It must be short: what may be long is read in steps.

        Raises:
            StoreUnavailable: the database cannot be had now.
        """
        return await self._reading.run(name, work)

    async def read_in_steps(
        self,
        name: str,
        step: Callable[[Connection, Position | None], tuple[T, Position | None]],
        position: Position | None = None,
    ) -> AsyncIterator[T]:
        """Do the steps of a long reading (see `walk`), each in a transaction of its own.

        Args:
            step: is given the place where the step before ended, and tells where it ends itself, None at last.
            position: where the first one begins; None: at the beginning.

        Raises:
            StoreUnavailable: the database cannot be had now.
        """
        while True:
            found, position = await self.read(name, partial(_on_from, step, position))
            yield found
            if position is None:
                return

    async def at_one_moment(self, name: str, work: Callable[[Connection], T]) -> T:
        """Read everything as it is at one moment, however long that takes: nobody waits for it.

        PostgreSQL shows a transaction just that, if it asks for it (REPEATABLE READ). SQLite is copied first.

        Raises:
            StoreUnavailable: the database cannot be had now.
            OSError: there is no room for a copy.
        """
        async with self._one_copy:
            if self._file is None:
                return await asyncio.to_thread(self._reading.transact, name, work, is_long=True)
            copying.make_sure_of_room(self._file)
            with tempfile.TemporaryDirectory(prefix=_COPY, dir=self._file.parent) as scratch:
                copied = Path(scratch) / self._file.name
                await self._copy(copied)
                return await asyncio.to_thread(_read_whole, self.url.set(database=str(copied)), name, work)

    def transact(self, name: str, work: Callable[[Connection], T]) -> T:
        """Do a piece of work here and now: for the start.

        Raises:
            StoreUnavailable: the database cannot be had now.
        """
        return self._writing.transact(name, work)

    def migrate(self) -> None:
        """Bring the tables to this version of goproxy, and clear away what a process before left lying about.

        It waits for another backend that is at it (PostgreSQL; on SQLite there is none).

        Raises:
            UnusableStore: a newer goproxy made them, or the database cannot be had.
            GivenUp: see `give_up`.
        """
        is_waiting = False
        try:
            while True:
                began = time.monotonic()
                try:
                    self._writing.transact("migrate", self._migration.work, is_long=True)
                except Taken:
                    if not is_waiting:
                        log("another backend migrates the store")
                    is_waiting = True
                    self._migration.wait_for_the_other()
                else:
                    self._migration.tell(time.monotonic() - began)
                    break
        except (StoreUnavailable, exc.DBAPIError) as problem:
            raise UnusableStore(f"{self}: {_first_line(problem)}") from None
        except CommandError as problem:
            raise UnusableStore(f"{self}: {problem}; was it made by a newer goproxy?") from None
        if self._file is not None:
            copying.clear(self._file.parent, _COPY)

    def give_up(self) -> None:
        """Have `migrate`, in another thread, end and be undone. To be called until it has."""
        self._migration.give_up()

    def close(self) -> None:
        """Finish what waits, and close."""
        self._writing.close()
        self._reading.close()

    async def _copy(self, target: Path) -> None:
        abandoned = threading.Event()

        def in_between() -> None:
            if abandoned.is_set():
                raise Leaving
            self._worker.do_what_waits()

        def make() -> None:
            with self._writing.engine.connect() as connection:
                source = cast("sqlite3.Connection", connection.connection.driver_connection)
            copying.copy(source, target, in_between)  # the pool keeps it, and lends it to the work in between

        try:
            await asyncio.get_running_loop().run_in_executor(self._worker, make)
        except (sqlite3.Error, exc.DBAPIError, exc.TimeoutError, copying.Disturbed, Leaving) as problem:
            raise StoreUnavailable(f"it cannot be copied: {_first_line(problem)}") from None
        finally:
            abandoned.set()

    def __str__(self) -> str:
        return self.url.set(query={}).render_as_string(hide_password=True)  # a password may stand in its options, too


class _Turn(Generic[T]):
    """A piece of work that waits. It holds what was posted, and stays in the queue when nobody wants it any more."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work

    def __call__(self) -> T:
        work, self._work = self._work, None
        assert work is not None
        return work()

    def let_go(self) -> None:
        """It will not be done."""
        self._work = None


class _Lane:
    """A way to the database, to write or to read: connections, threads, and how it stands."""

    def __init__(self, to: Engine, threads: Executor, width: int, observe: Observe) -> None:
        self.engine = to
        self._failure: str | None = None
        self._threads = threads
        self._width = width
        self._running: dict[object, tuple[str, float]] = {}
        """What runs and should be short: its name, and when it began."""
        self._observe = observe

    @property
    def problem(self) -> str | None:
        return self._failure or next(iter(self._hanging()), None)

    async def run(self, name: str, work: Callable[[Connection], T], *, is_long: bool = False) -> T:
        if len(hanging := self._hanging()) >= self._width:  # its turn would not come: nothing piles up behind them
            raise self._failed(name, hanging[0])
        turn = _Turn(partial(self.transact, name, work, is_long=is_long))
        taken = self._threads.submit(turn)
        done = asyncio.wrap_future(taken)
        try:
            await asyncio.wait([done], timeout=QUEUE_SECONDS)
        except asyncio.CancelledError:
            if taken.cancel():
                turn.let_go()
            raise
        if taken.cancel():  # its turn has not begun, and now never will
            turn.let_go()
            raise StoreUnavailable("the store is busy")
        return await done

    def transact(self, name: str, work: Callable[[Connection], T], *, is_long: bool = False) -> T:
        began = time.monotonic()
        this = object()
        if not is_long:
            self._running[this] = name, began
        try:
            with self.engine.begin() as connection:
                result = work(connection)
        except _OUR_MISTAKES:
            raise
        except (exc.DBAPIError, exc.TimeoutError) as error:
            raise self._failed(name, _first_line(error)) from None
        finally:
            self._running.pop(this, None)
            self._observe(name, time.monotonic() - began)
        if self._failure is not None:
            log("store available again")
            self._failure = None
        return result

    def _hanging(self) -> list[str]:
        """What has run for longer than it should, told."""
        before = time.monotonic() - HANGS_AFTER
        return [
            f"it hangs: no answer to {name!r} for more than {HANGS_AFTER:.0f} s"
            for name, began in list(self._running.values())
            if began < before
        ]

    def _failed(self, name: str, problem: str) -> StoreUnavailable:
        if self._failure is None:
            log("store unavailable", level=logging.ERROR, work=name, problem=problem)
        self._failure = problem
        return StoreUnavailable(problem)

    def close(self) -> None:
        self._threads.shutdown()
        self.engine.dispose()


def _on_from(step: Callable[[Connection, Position | None], T], position: Position | None, connection: Connection) -> T:
    return step(connection, position)


def _read_whole(url: URL, name: str, work: Callable[[Connection], T]) -> T:
    """Read a database that nobody else has."""
    lane = _Lane(engine.to_read(url), ThreadPoolExecutor(1), 1, lambda _work, _seconds: None)
    try:
        return lane.transact(name, work)
    finally:
        lane.close()


def keep_or_insert(connection: Connection, table: Table, **values: Any) -> bool:
    """Insert a record unless there is one of its key already; whether it was inserted."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(statement).first() is not None


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
