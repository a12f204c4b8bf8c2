"""Kill the child at every kind of system call by which it keeps or says something, again and again, and count.

    python -m tests.crash.sweep 300

A journal is crashed several times before it may end in peace, so that what is found again after one crash is what the
next one hits. SIGKILL leaves what the kernel has: it shows that a process may die anywhere. That a machine may, shows
power_loss.py.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.promises import Broken, Promises, read
from tests.crash.strace import WRITING, run, traced

ROUNDS = 9
_CRASHES = 8
"""Of one journal, before it may end in peace."""


@dataclass
class CrashFigures:
    """How often the child was killed, at which system calls, and what that broke."""

    points: int = 0
    at: Counter[str] = field(default_factory=Counter)
    broken: Broken = field(default_factory=Broken)

    @property
    def lost(self) -> int:
        """Holds and rows that were acknowledged, and are not there."""
        return len(self.broken.lost)

    @property
    def doubled(self) -> int:
        """Requests that have two rows, or would get a second one."""
        return len(self.broken.doubled)

    @property
    def leases_off(self) -> int:
        """Leases that are above what was told, or are not what was noted last."""
        return len(self.broken.leases)

    def __iadd__(self, other: CrashFigures) -> CrashFigures:
        self.points += other.points
        self.at += other.at
        self.broken += other.broken
        return self


def sweep(points: int, *, workers: int = 2, seed: int = 1) -> CrashFigures:
    """Kill the child at so many system calls.

    Raises:
        NoStrace: there is no strace.
    """
    with tempfile.TemporaryDirectory() as scratch:
        counts = _calls_of_a_run(Path(scratch))
        shares = [points // workers + (worker < points % workers) for worker in range(workers)]
        figures = CrashFigures()
        with ThreadPoolExecutor(workers) as pool:
            for part in pool.map(
                lambda worker: _crash(Path(scratch), worker, shares[worker], counts, seed), range(workers)
            ):
                figures += part
    return figures


def _calls_of_a_run(scratch: Path) -> Mapping[str, int]:
    """How often a thread makes each system call: strace counts them by thread."""
    _, calls = traced(scratch / "counted", "0", ROUNDS, scratch / "log")
    by_thread = Counter((call.name, call.thread) for call in calls if call.name in WRITING)
    return {name: max(n for (other, _), n in by_thread.items() if other == name) for name, _ in by_thread}


def _crash(scratch: Path, worker: int, points: int, counts: Mapping[str, int], seed: int) -> CrashFigures:
    figures = CrashFigures()
    places = _places(counts, random.Random(f"{seed} {worker}"))
    journal = 0
    while figures.points < points:
        directory = scratch / f"journal-{worker}-{journal}"
        promises = Promises()
        for crash in range(min(_CRASHES, points - figures.points)):
            call, number = next(places)
            inject = f"inject={call}:signal=SIGKILL:when={number}"
            ran = run(directory, f"{crash}", ROUNDS, "-e", f"trace={call}", "-e", inject)
            promises.hear(ran.said)
            figures.broken += promises.broken_by(read(directory))
            if ran.code:
                figures.points += 1
                figures.at[call] += 1
        promises.hear(run(directory, "end", 1, "-e", "trace=none").said)
        figures.broken += promises.balance(read(directory))
        journal += 1
    return figures


def _places(counts: Mapping[str, int], chance: random.Random) -> Iterator[tuple[str, int]]:
    while True:
        for call in sorted(counts):
            yield call, chance.randint(1, counts[call])


def main() -> None:
    """Print what a sweep finds."""
    figures = sweep(int(sys.argv[1]))
    print(f"figure billing.crash_points {figures.points}")
    print(f"figure billing.crash_lost_rows {figures.lost}")
    print(f"figure billing.crash_doubled_rows {figures.doubled}")
    print(f"at {dict(figures.at)}; leases off: {figures.leases_off}")
    if figures.broken:
        print(figures.broken)
        sys.exit(1)


if __name__ == "__main__":
    main()
