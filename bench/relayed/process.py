"""A process on one core: started, watched, ended. What it writes is read as it comes, and its last words are kept."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_TAIL = 4000
_PATIENCE = 15.0
_NEVER_GIVEN = range(10_000, 20_000)
"""Below the ports that Linux gives by itself, and those of the testkit (testkit/world.yml): a test runs a sample."""


class CannotMeasure(Exception):
    """What stands in the way of a measurement, and what can be done about it."""


class Process:
    """A running process, and all that it started."""

    def __init__(self, name: str, child: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._child = child
        self._tail = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pids(self) -> list[int]:
        """Its id and those of all its descendants."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found = [self._child.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    @property
    def rss_kib(self) -> int:
        """Resident memory of all of them together."""
        total = 0
        for pid in self.pids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        return total

    @property
    def cpu_seconds(self) -> float:
        """CPU time that all of them have taken so far, in user and in system mode."""
        ticks = 0
        for pid in self.pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    @property
    def last_words(self) -> str:
        """The end of what it has written."""
        return self._tail.decode(errors="replace")

    def await_true(self, condition: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
        """Wait until it holds.

        Raises:
            CannotMeasure: it does not, or the process has ended.
        """
        until = time.monotonic() + seconds
        while not condition():
            if self._child.poll() is not None:
                raise CannotMeasure(f"{self.name} ended (exit code {self._child.returncode}):\n{self.last_words}")
            if time.monotonic() > until:
                raise CannotMeasure(f"{self.name}: {what} took more than {seconds:.0f} s:\n{self.last_words}")
            time.sleep(0.02)

    def await_port(self, port: int, seconds: float = _PATIENCE) -> None:
        """Wait until it listens."""
        self.await_true(lambda: _listens(port), f"listening on port {port}", seconds)

    def first_line(self) -> str:
        """The first line that it writes."""
        self.await_true(lambda: b"\n" in self._tail, "its first line")
        return self._tail.split(b"\n")[0].decode()

    def end(self) -> None:
        """End it, at first kindly."""
        self._child.terminate()
        try:
            self._child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._reader.join(_PATIENCE)
        if self._child.stdout is not None and not self._reader.is_alive():
            self._child.stdout.close()

    def _read(self) -> None:
        assert self._child.stdout is not None
        while written := os.read(self._child.stdout.fileno(), 65536):
            self._tail = (self._tail + written)[-_TAIL:]


def pinned(core: int | Sequence[int], command: Sequence[str], niceness: int = 0) -> list[str]:
    """The command, bound to a core, or to some, and to the life of this process."""
    cores = str(core) if isinstance(core, int) else ",".join(map(str, core))
    bound = ["setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", cores]
    return [*bound, *(["nice", "-n", str(niceness)] if niceness else []), *command]


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    core: int | Sequence[int],
    environment: Mapping[str, str] | None = None,
    niceness: int = 0,
) -> Iterator[Process]:
    """Run a command on a core, or on some; with niceness it gets what others leave.

    Raises:
        CannotMeasure: there is no such command.
    """
    if shutil.which(command[0], path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None:
        raise CannotMeasure(f"{name}: there is no {command[0]}; `make bench` installs it")
    child = subprocess.Popen(
        pinned(core, command, niceness),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"} | dict(environment or {}),
    )
    process = Process(name, child)
    try:
        yield process
    finally:
        process.end()


def interpreter() -> str:
    """Debian's Python, as in the image, where it is of this version: one that was built by hand is often built slow."""
    debians = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    return str(debians) if debians.exists() else sys.executable


def free_port() -> int:
    """A port that is free, and that no connection is given for its own end until somebody listens on it."""
    while True:
        port = secrets.choice(_NEVER_GIVEN)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
