"""`goproxy serve` as a process of its own, as it runs in its container."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.backend import Backend, proxy_token
from tests.gateway import UPSTREAM_SECRET
from tests.raw import connected

_NOTED = re.compile(rb'"kind":"progress","id":"([^"]+)"')

_PROGRAM = ("-m", "goproxy.cli", "serve")

_NEVER_GIVEN = range(10_000, 20_000)
"""Below the ports that Linux gives by itself, and those of the testkit (testkit/world.yml), which may run beside."""


@dataclass(frozen=True)
class Serving:
    """A process that listens."""

    port: int
    process: asyncio.subprocess.Process
    log: Path

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log that say so. The last one may be on its way still."""
        *lines, _ = self.log.read_bytes().split(b"\n")
        return [line for line in map(json.loads, lines) if line["event"] == event]


@asynccontextmanager
async def serving(
    document: dict[str, Any],
    backend: Backend,
    directory: Path,
    grace: float = 5,
    *,
    beside: Path | None = None,
    is_awaited: bool = True,
    output: int | None = None,
    program: Sequence[str] = _PROGRAM,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Serving]:
    """Serve `document`, with a journal in `directory`; the process is killed at the end if it still runs.

    `beside`: the directory of a process that shares its journal's with this one. `output`: where its log goes instead
    of to a file. `program`: what the interpreter is told to run. `environment`: what else it finds there.
    """
    directory.mkdir(exist_ok=True)
    port = free_port()
    (directory / "config.json").write_text(json.dumps(document | {"port": port}))
    (directory / "secret").write_text(UPSTREAM_SECRET + "\n")
    (directory / "token").write_text(proxy_token(document["upstream"]) + "\n")
    log = directory / "log"
    environment = {
        **os.environ,
        "CONFIG_PATH": str(directory / "config.json"),
        "BACKEND_URL": backend.url,
        "JOURNAL_PATH": str((beside or directory) / "journal"),
        "PROXY_TOKEN_PATH": str(directory / "token"),
        "UPSTREAM_API_KEY_PATH": str(directory / "secret"),
        "GRACE_SECONDS": str(grace),
        **(environment or {}),
    }
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *program), env=environment, stdout=output or file
        )
    try:
        async with asyncio.timeout(30):
            while is_awaited and b'"listening"' not in log.read_bytes():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.01)
        yield Serving(port, process, log)
    except BaseException:
        if not output:
            print(log.read_text())  # pytest shows it beside what failed
        raise
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def listens(port: int) -> bool:
    """Whether it accepts a connection."""
    try:
        async with connected(port):
            return True
    except ConnectionError:
        return False


def noted(served: Path) -> set[str]:
    """The requests of which the journal in the directory of a `serving` has the usage while they ran."""
    files = [each for each in (served / "journal").rglob("*") if each.is_file()]
    return {id_.decode() for each in files for id_ in _NOTED.findall(each.read_bytes())}


def free_port() -> int:
    """A port that is free, and that no connection is given for its own end until somebody listens on it."""
    while True:
        port = secrets.choice(_NEVER_GIVEN)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
