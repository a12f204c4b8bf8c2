"""Kill a program that keeps the backend's store at its system calls, and look what is there afterwards.

python -m tests.crash.store_sweep 100
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from goproxy.control_plane.store import accounts
from goproxy.control_plane.store.database import Database
from tests.crash.store_child import CREDIT
from tests.crash.strace import NoStrace

ROUNDS = 4
CALLS = {"pwrite64": 200, "fdatasync": 40, "ftruncate": 25}
"""By which SQLite keeps something, and about how often in a run."""

_ROOT = Path(__file__).parents[2]
_SECONDS = 30


@dataclass
class StoreFigures:
    """How often the program was killed, at which system calls, and what that broke."""

    points: int = 0
    at: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Everything that should not be."""
        return self.lost + self.doubled + self.unbalanced


@dataclass
class Told:
    """What the program said in all its lives."""

    rows: dict[str, int] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    credited: set[str] = field(default_factory=set)
    lent: int = 0

    def hear(self, lines: list[str]) -> None:
        for line in lines:
            match line.split():
                case ["posting", id_, cost]:
                    self.rows[id_] = int(cost)
                case ["accepted", id_, _]:
                    self.accepted.add(id_)
                case ["credited", id_]:
                    self.credited.add(id_)
                case ["lent", total]:
                    self.lent = int(total)


def store_sweep(points: int, *, seed: int = 1) -> StoreFigures:
    """Kill the program so many times; one store lives through all of it.

    Raises:
        NoStrace: there is no strace.
    """
    if shutil.which("strace") is None:
        raise NoStrace("strace is not installed; on Debian: apt-get install strace")
    chance, figures, told = random.Random(seed), StoreFigures(), Told()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "backend.sqlite3"
        database = Database(f"sqlite:///{path}")
        database.migrate()
        database.transact("account", lambda store: accounts.create(store, "alice"))
        database.close()
        life = 0
        while figures.points < points:
            call = sorted(CALLS)[life % len(CALLS)]
            lines, was_killed = _live(path, life, told.lent, call, chance.randint(1, CALLS[call]))
            told.hear(lines)
            if was_killed:
                figures.points += 1
                figures.at[call] += 1
            look(path, told, figures)
            life += 1
    return figures


def _live(path: Path, life: int, lent: int, call: str, number: int) -> tuple[list[str], bool]:
    """One life of the program, which ends at a system call if it makes so many; what it said, and whether it did."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.store_child", f"sqlite:///{path}", str(life + 1), str(ROUNDS), str(lent)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    options = ("-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
    tracer = subprocess.Popen(["strace", *options, "-p", str(child.pid)])
    until = time.monotonic() + _SECONDS
    while "TracerPid:\t0\n" in Path(f"/proc/{child.pid}/status").read_text():
        assert time.monotonic() < until, "strace does not attach"
        assert tracer.poll() is None, "strace ended"
        time.sleep(0.005)
    said, _ = child.communicate("go\n", timeout=_SECONDS)
    tracer.wait(_SECONDS)
    assert child.returncode in (0, -signal.SIGKILL), child.returncode
    whole = [line.removesuffix("\n") for line in said.splitlines(keepends=True) if line.endswith("\n")]
    return whole, child.returncode == -signal.SIGKILL


def look(path: Path, told: Told, figures: StoreFigures) -> None:
    """Everything that was acknowledged is there, and charged once.

    The id is the store's primary key, so that no row can be there twice: what could be is its cost, and what each row
    costs is known from the program, which says so before it posts it.
    """
    with sqlite3.connect(path) as store:
        stored = dict(store.execute("SELECT id, cost_nanodollars FROM ledger_rows").fetchall())
        (granted, spent_total), credits_ = (
            store.execute(
                "SELECT coalesce(sum(granted_total), 0), coalesce(sum(spent_total), 0) FROM leases"
            ).fetchone(),
            store.execute("SELECT credits FROM wallets WHERE id = 'alice'").fetchone(),
        )
    store.close()
    figures.lost += [id_ for id_ in sorted(told.accepted) if id_ not in stored]
    costs = {id_: told.rows.get(id_) for id_ in stored}
    figures.unbalanced += [
        f"{id_} costs {stored[id_]}, and {cost} was posted" for id_, cost in costs.items() if cost != stored[id_]
    ]
    charged = sum(cost or 0 for cost in costs.values())
    if spent_total > charged:
        figures.doubled.append(f"{spent_total} is charged for rows of {charged}")
    if spent_total < charged:
        figures.lost.append(f"{spent_total} is charged for rows of {charged}")
    if granted < told.lent:
        figures.unbalanced.append(f"{granted} is lent of {told.lent} told")
    if credits_ is not None and credits_[0] < CREDIT * len(told.credited):
        figures.lost.append(f"credits are {credits_[0]}, {len(told.credited)} grants were acknowledged")


def main() -> None:
    """Print what a sweep finds."""
    figures = store_sweep(int(sys.argv[1]))
    print(f"{figures.points} kills at {dict(figures.at)}; broken: {figures.broken}")
    sys.exit(1 if figures.broken else 0)


if __name__ == "__main__":
    main()
