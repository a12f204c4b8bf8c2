"""A real PostgreSQL (Debian's package) for as long as the tests run: on a Unix socket in a directory of its own, and
on a port of this machine alone, for what holds of TCP only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from tests.process import free_port

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",  # nothing of a test outlives a power loss
    "full_page_writes": "off",
    "max_connections": "30",
    "deadlock_timeout": "200ms",
}


class Postgres:
    """A running server."""

    def __init__(self, socket_directory: Path, port: int, user: str) -> None:
        self._parameters = f"host={socket_directory} port={port} user={user}"
        self._address = f"{user}@/{{name}}?host={socket_directory}&port={port}"
        self._by_tcp = f"postgresql://{user}@127.0.0.1:{port}"
        self._names = (f"test_{number}" for number in count())

    def connect(self, name: str = "postgres") -> psycopg.Connection[Any]:
        """A connection of the test's own."""
        return psycopg.connect(f"{self._parameters} dbname={name}", autocommit=True)

    def new_database(self) -> str:
        """The URL of an empty database that nobody else uses."""
        name = next(self._names)
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"postgresql://{self._address.format(name=name)}"

    def by_tcp(self, url: str) -> str:
        """The URL of the same database, by TCP."""
        return f"{self._by_tcp}/{name_of(url)}"


def name_of(url: str) -> str:
    """The name of the database at one of this server's URLs."""
    return urlsplit(url).path.removeprefix("/")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not programs:
        pytest.fail("there is no PostgreSQL here, and these tests need a real one: apt-get install postgresql")
    owner = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    directory = Path(tempfile.mkdtemp(prefix="goproxy-postgres-"))
    as_owner: dict[str, Any] = {"cwd": "/"}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(directory, owner)
        as_owner |= {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []}
    data = directory / "data"
    # A language whose order of letters is not that of their code points: the store must not depend on it.
    language = ["--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"]
    initdb: list[str | Path] = [programs[-1] / "initdb", "-D", data, "-U", owner, "-A", "trust", "--no-sync", *language]
    port = free_port()
    settings = " ".join(f"-c {name}='{value}'" for name, value in _SETTINGS.items())
    ctl: list[str | Path] = [programs[-1] / "pg_ctl", "-D", data, "-w", "-s"]
    start: list[str | Path] = [*ctl, "-l", directory / "log", "-o", f"-k {directory} -p {port} {settings}", "start"]
    try:
        for command in (initdb, start):
            done = subprocess.run(command, **as_owner, capture_output=True, text=True, check=False)
            if done.returncode:
                log = directory / "log"
                pytest.fail(f"{command[0]} failed:\n{done.stderr}{log.read_text() if log.exists() else ''}")
        yield Postgres(directory, port, owner)
    finally:
        subprocess.run([*ctl, "-m", "immediate", "stop"], **as_owner, capture_output=True, check=False)
        shutil.rmtree(directory, ignore_errors=True)
