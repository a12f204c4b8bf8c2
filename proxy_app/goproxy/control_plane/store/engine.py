"""How the databases are opened: a connection that writes, and others that only read.

SQLite runs with a rollback journal, not with WAL: its versions before 3.51.3 can corrupt a WAL database that two
connections write or checkpoint at once, and distributions carry those versions. `synchronous=FULL` syncs database and
journal at each commit; with `journal_mode=TRUNCATE` the truncation is synced too, so that what was acknowledged is
there after a power loss. The price of a rollback journal: while somebody reads, nobody can commit. Who reads must be
quick about it (see `walk`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

LOCK_SECONDS = 4.0
"""How long a transaction waits for a lock that another connection holds: a busy disk keeps a commit for a second and
more. Less than whoever asked waits for an answer (control_client.py)."""

READERS = 3
"""Connections that only read."""

_POSTGRESQL = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A server that has gone without a word is given up in seconds, not in the kernel's quarter of an hour."""

IDLE_SECONDS = 60.0
"""How long the server waits for a transaction to go on. A backend pauses for its own work only, not for others'."""

_GIVEN_UP = (
    "SET tcp_keepalives_idle = 5",
    "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 10000",
)
"""The same the other way round: a backend that has gone leaves its locks in seconds, not in the server's two hours."""


class UnusableStore(Exception):
    """The database cannot be used at all; the text says why."""


def known_url(text: str) -> URL:
    """The URL of a database that can be a store.

    Raises:
        UnusableStore: it is none.
    """
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):  # ValueError: its port is no number, be it that of a password with an @
        raise UnusableStore("the database's URL cannot be read; sqlite:////PATH or postgresql://…") from None
    match url.get_backend_name():
        case "sqlite" if url.database and url.database != ":memory:":
            return url.set(drivername="sqlite")
        case "postgresql":
            return url.set(drivername="postgresql+psycopg")
    raise UnusableStore(f"{url.drivername}: expected sqlite with the path of a file, or postgresql")


def sqlite_file(url: URL) -> Path | None:
    """The database's file, if it is a file."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def to_write(url: URL) -> Engine:
    """The database for whoever changes it. SQLite has one connection for that: who wants it waits for his turn."""
    if sqlite_file(url) is None:
        return _postgresql(url)
    return _sqlite(url, 1, "BEGIN IMMEDIATE", "synchronous=FULL", "journal_mode=TRUNCATE", "foreign_keys=ON")


def to_read(url: URL) -> Engine:
    """The database for whoever changes nothing, which it makes sure of."""
    if sqlite_file(url) is None:
        return _postgresql(
            url,
            "SET default_transaction_read_only = on",
            "SET default_transaction_isolation = 'repeatable read'",  # what one transaction reads is of one moment
        )
    return _sqlite(url, READERS, "BEGIN", "query_only=ON")


def _sqlite(url: URL, connections: int, begin: str, *pragmas: str) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": LOCK_SECONDS},
        pool_size=connections,
        max_overflow=0,
        pool_timeout=LOCK_SECONDS,
    )

    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing: `_begin` does
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)  # IMMEDIATE: a lock that cannot be had is found out before the work

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", start)
    return engine


def _postgresql(url: URL, *more: str) -> Engine:
    engine = create_engine(url, connect_args=_POSTGRESQL, pool_pre_ping=True)
    waits = (
        f"SET lock_timeout = '{LOCK_SECONDS}s'",
        f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'",
    )
    event.listen(engine, "connect", _preparing(*waits, *_GIVEN_UP, *more))
    return engine


def _preparing(*statements: str) -> Callable[[Any, Any], None]:
    def prepare(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            for statement in (*statements, "SET synchronous_commit = on"):
                cursor.execute(statement)
        connection.commit()

    return prepare
