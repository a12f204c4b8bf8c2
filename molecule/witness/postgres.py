"""A real PostgreSQL (Debian's package) on this machine, where the VPS reaches it: the operator's own database."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).parents[2]
USER, NAME = "trollllm", "ledger"


class Postgres:
    """A running server with one database, whose user has a password."""

    def __init__(self, address: str, port: int) -> None:
        """Choose the password."""
        self.password = secrets.token_hex(16)
        self.url = f"postgresql://{USER}:{self.password}@{address}:{port}/{NAME}"

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database itself."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return list(connection.execute(query.encode(), values).fetchall())


@contextmanager
def running_postgres(network: str) -> Iterator[Postgres]:
    """Start a server at this machine's address on the testkit's network (its first three octets)."""
    subprocess.run([ROOT / "testkit/packages.sh", "postgresql"], check=True)
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    address = f"{network}.1"
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    server = Postgres(address, port)
    directory = Path(tempfile.mkdtemp(prefix="witness-postgres-"))
    shutil.chown(directory, "postgres")  # it refuses to run as root
    data = directory / "data"

    def run(*command: str | Path, check: bool = True) -> None:
        done = subprocess.run(
            command, cwd="/", user="postgres", group="postgres", extra_groups=[], capture_output=True, check=False
        )
        log = directory / "log"
        assert done.returncode == 0 or not check, done.stderr.decode() + (log.read_text() if log.exists() else "")

    run(programs / "initdb", "-D", data, "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
    # By password from outside; the socket in the directory is for this function alone.
    (data / "pg_hba.conf").write_text(f"local all postgres trust\nhost {NAME} {USER} all scram-sha-256\n")
    options = f"-k {directory} -p {port} -c listen_addresses={address} -c fsync=off"
    try:
        run(programs / "pg_ctl", "-D", data, "-w", "-s", "-l", directory / "log", "-o", options, "start")
        with psycopg.connect(f"host={directory} port={port} user=postgres dbname=postgres", autocommit=True) as owner:
            owner.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{server.password}'".encode())
            owner.execute(f"CREATE DATABASE {NAME} OWNER {USER}".encode())
        yield server
    finally:
        run(programs / "pg_ctl", "-D", data, "-w", "-s", "-m", "immediate", "stop", check=False)
        shutil.rmtree(directory, ignore_errors=True)


def of_the_testkit() -> str:
    """The testkit's network, as the scenario's environment says."""
    return os.environ["TESTKIT_NETWORK"]
