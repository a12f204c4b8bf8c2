"""Running the child under strace: to stop it at a system call, to make one fail, or to see them all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_path

WRITING = ("write", "pwrite64", "fdatasync", "fsync", "rename", "fallocate", "ftruncate", "unlink")
"""The system calls by which the child says or keeps something."""

_ROOT = Path(__file__).parents[2]
_SECONDS = 30


class NoStrace(Exception):
    """strace is not installed."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of the child said, and how it ended: 0, or minus the number of the signal."""

    said: list[str]
    code: int


def run(directory: Path, name: str, rounds: int, *options: str) -> Run:
    """Run the child under strace with these options.

    Raises:
        NoStrace: it cannot be run.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise NoStrace("strace is not installed; on Debian: apt-get install strace")
    faster = () if any("signal=SIGKILL" in option for option in options) else ("--seccomp-bpf",)  # kills nobody
    # The interpreter itself: `python` may be a script that finds it. The packages are where they are here.
    python = str(Path("/proc/self/exe").readlink())
    done = subprocess.run(
        [
            *(strace, "-f", "-qq", "-e", "signal=none", *faster, *options),
            *(python, "-S", "-m", "tests.crash.child", str(directory), name, str(rounds)),
        ],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{_ROOT}{os.pathsep}{get_path('platlib')}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    lines = done.stdout.splitlines()
    if done.returncode not in (0, -9, 137) or "Traceback" in done.stdout:
        raise AssertionError(f"the child failed ({done.returncode}):\n{done.stdout[-500:]}\n{done.stderr[-3000:]}")
    return Run([line for line in lines if line], -9 if done.returncode == 137 else done.returncode)


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that has returned."""

    thread: str
    name: str
    arguments: str
    result: str
    begun: int
    """The line of the log that it began in: nothing of it was done before."""
    returned: int
    """The line that it returned in: all of it was done, and its thread went on only then."""

    @property
    def descriptor(self) -> int:
        """Its first argument."""
        return int(re.split("[,<]", self.arguments, maxsplit=1)[0])

    @property
    def succeeded(self) -> bool:
        """Whether it did what it was asked for."""
        return not self.result.startswith(("-1", "?"))

    @property
    def data(self) -> bytes:
        """The first string among its arguments."""
        return self.strings[0]

    @property
    def strings(self) -> list[bytes]:
        """All of them."""
        return [
            bytes.fromhex(text.replace("\\x", "")) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', self.arguments)
        ]


_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (.+)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (.+)")


def traced(directory: Path, name: str, rounds: int, log: Path, *options: str) -> tuple[Run, list[Call]]:
    """Run the child, and see its system calls in the order in which they returned."""
    seen = ",".join([*WRITING, "openat", "close"])
    ran = run(directory, name, rounds, "-o", str(log), "-xx", "-s", "1000000", "-e", f"trace={seen}", *options)
    return ran, list(calls_in(log.read_text().splitlines()))


def calls_in(lines: Sequence[str]) -> Iterator[Call]:
    """The system calls of a log, in the order in which they returned."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        if found := _BEGUN.fullmatch(line):
            begun[found[1]] = number, found[3]
        elif found := _RESUMED.fullmatch(line):
            began, arguments = begun.pop(found[1])
            yield Call(found[1], found[2], arguments + found[3], found[4], began, number)
        elif found := _WHOLE.fullmatch(line):
            yield Call(found[1], found[2], found[3], found[4], number, number)
