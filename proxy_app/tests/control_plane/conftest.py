"""What the tests of the control plane need: a store on each database, and a backend that runs on it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from goproxy.control_plane.store.database import Database
from goproxy.control_plane.store.schema import metadata
from tests.control_plane.backend import Backend, running_backend
from tests.control_plane.postgres import Postgres, name_of, running_postgres

SQLITE = pytest.param("sqlite", id="sqlite")
POSTGRESQL = pytest.param("postgresql", id="postgresql", marks=pytest.mark.postgresql)


on_sqlite = pytest.mark.parametrize("url", [SQLITE], indirect=True)
"""For what has nothing to do with the database."""

on_postgresql = pytest.mark.parametrize("url", [POSTGRESQL], indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def new_url(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Makes the URL of an empty store on the database of this kind. On PostgreSQL it is always the same, emptied."""
    made: dict[str, str] = {}

    def new(kind: str) -> str:
        if kind == "sqlite":
            directory = tmp_path_factory.mktemp("store")
            if kind not in made:
                made[kind] = f"sqlite:///{directory}/empty.sqlite3"
                _migrate(made[kind])
            shutil.copy(made[kind].removeprefix("sqlite:///"), directory / "store.sqlite3")
            return f"sqlite:///{directory}/store.sqlite3"
        server: Postgres = request.getfixturevalue("postgres")
        if kind not in made:
            made[kind] = server.new_database()
            _migrate(made[kind])
        with server.connect(name_of(made[kind])) as connection:
            connection.execute(f"TRUNCATE {', '.join(metadata.tables)}")
        return made[kind]

    return new


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """A migrated store, on either database."""
    return new_url(request.param)


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def own_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store whose tables a test may change."""
    server: Postgres | None = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    url = f"sqlite:///{tmp_path}/own.sqlite3" if server is None else server.new_database()
    _migrate(url)
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
async def backend(url: str, tmp_path: Path) -> AsyncIterator[Backend]:
    async with running_backend(url, tmp_path) as running:
        yield running


@pytest.fixture
def lock(url: str, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Holds, while it is entered, a lock that keeps the backend out of its database."""

    @contextmanager
    def locked() -> Iterator[None]:
        if url.startswith("sqlite"):
            connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")
            connection.close()
        else:
            server: Postgres = request.getfixturevalue("postgres")
            with server.connect(name_of(url)) as other:
                _lock_everything(other)
                yield
                other.execute("COMMIT")

    return locked


def _lock_everything(connection: psycopg.Connection[Any]) -> None:
    while True:
        connection.execute("BEGIN")
        try:
            connection.execute(f"LOCK TABLE {', '.join(metadata.tables)}")
        except psycopg.errors.DeadlockDetected:  # with what the backend is doing just now
            connection.execute("ROLLBACK")
        else:
            return
