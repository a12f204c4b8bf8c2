"""The database under the store: SQLite or PostgreSQL, one writer, one transaction for each piece of work.

All work runs in one thread, one piece after the other, each in a transaction of its own: it is committed when `run`
returns, and gone when `run` raises. A database that cannot be had now (locked, away, full) is `StoreUnavailable` after
a second or so and never a wait without end; the callers try again, for all that they send is idempotent.

SQLite runs with a rollback journal, not with WAL: its versions before 3.51.3 can corrupt a WAL database that two
connections write or checkpoint at once, and distributions carry those versions. `synchronous=FULL` syncs database and
journal at each commit; with `journal_mode=TRUNCATE` the truncation is synced too, so that what was acknowledged is
there after a power loss.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, exc, make_url
from sqlalchemy.dialects import postgresql, sqlite

from goproxy.observe import log

T = TypeVar("T")

LOCK_SECONDS = 1.0
"""How long a transaction waits for a lock that another connection holds."""

QUEUE_SECONDS = 5.0
"""How long a piece of work waits for its turn before it is given up: whoever asked for it tries again."""

_POSTGRESQL = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A server that has gone without a word is given up in seconds, not in the kernel's quarter of an hour."""

_MIGRATIONS = Path(__file__).with_name("migrations")
_OUR_MISTAKES = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)


class StoreUnavailable(Exception):
    """The database cannot be had now; nothing of the work was stored, or whether it was is not known."""


class UnusableStore(Exception):
    """The database cannot be used at all; the text says why."""


class Database:
    """One store, as long as the process runs."""

    def __init__(self, url: str, observe: Callable[[str, float], None] = lambda _work, _seconds: None) -> None:
        """Nothing is opened yet.

        Args:
            url: as SQLAlchemy writes it, `sqlite:////path` or `postgresql://user:password@host/name`.
            observe: is told each piece of work by name, and the seconds that it took.

        Raises:
            UnusableStore: this is no such URL.
        """
        self.url = _known(url)
        self.problem: str | None = None
        """Why the last piece of work could not be done, if it could not."""
        self._observe = observe
        self._engine = _engine(self.url)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    @property
    def directory(self) -> Path | None:
        """Where the database's file is, if it is a file."""
        return Path(self.url.database or "").parent if self.url.get_backend_name() == "sqlite" else None

    async def run(self, name: str, work: Callable[[Connection], T]) -> T:
        """Do a piece of work in a transaction.

        Raises:
            StoreUnavailable: the database cannot be had now.
        """
        asked = time.monotonic()

        def turn() -> T:
            if time.monotonic() - asked > QUEUE_SECONDS:
                raise StoreUnavailable("the store is busy")
            return self.transact(name, work)

        return await asyncio.get_running_loop().run_in_executor(self._worker, turn)

    def transact(self, name: str, work: Callable[[Connection], T]) -> T:
        """The same, here and now: for the start, and for what must not hold up the queue (see `backup`).

        Raises:
            StoreUnavailable: the database cannot be had now.
        """
        began = time.monotonic()
        try:
            with self._engine.begin() as connection:
                result = work(connection)
        except _OUR_MISTAKES:
            raise
        except (exc.DBAPIError, exc.TimeoutError) as error:
            problem = _first_line(error)
            if self.problem is None:
                log("store unavailable", level=logging.ERROR, work=name, problem=problem)
            self.problem = problem
            raise StoreUnavailable(problem) from None
        finally:
            self._observe(name, time.monotonic() - began)
        if self.problem is not None:
            log("store available again")
            self.problem = None
        return result

    def migrate(self) -> None:
        """Bring the tables to this version of goproxy.

        Raises:
            UnusableStore: a newer goproxy made them, or the database cannot be had.
        """
        try:
            self.transact("migrate", upgrade)
        except StoreUnavailable as problem:
            raise UnusableStore(f"{self}: {problem}") from None
        except CommandError as problem:
            raise UnusableStore(f"{self}: {problem}; was it made by a newer goproxy?") from None

    def close(self) -> None:
        """Finish what waits, and close."""
        self._worker.shutdown()
        self._engine.dispose()

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the tables from what they are to a revision."""
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def revisions() -> set[str]:
    """All that this version of goproxy knows."""
    return {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}


def keep_or_insert(connection: Connection, table: Table, **values: Any) -> bool:
    """Insert a record unless there is one of its key already; whether it was inserted."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(statement).first() is not None


def now() -> str:
    """The time, as it is stored: RFC 3339 in UTC with milliseconds."""
    return written(datetime.now(UTC))


def written(moment: datetime) -> str:
    """A time, as it is stored."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _known(text: str) -> URL:
    try:
        url = make_url(text)
    except exc.ArgumentError:
        raise UnusableStore("the database's URL cannot be read; sqlite:////PATH or postgresql://…") from None
    match url.get_backend_name():
        case "sqlite" if url.database and url.database != ":memory:":
            return url.set(drivername="sqlite")
        case "postgresql":
            return url.set(drivername="postgresql+psycopg")
    raise UnusableStore(f"{url.drivername}: expected sqlite with the path of a file, or postgresql")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(url, connect_args=_POSTGRESQL, pool_pre_ping=True)
        event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing: `_begin_sqlite` does
    for pragma in ("journal_mode=TRUNCATE", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # a lock that cannot be had is then found out before the work


def _prepare_postgresql(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        cursor.execute("SET synchronous_commit = on")
    connection.commit()


def _first_line(error: exc.SQLAlchemyError) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
