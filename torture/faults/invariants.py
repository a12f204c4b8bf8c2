"""I1 to I6: what holds after each group of faults, whatever they were.

I1: one row for each request that reached the provider. I2: what the rows charge is what the provider bills, or is
marked. I3: the other upstream had no error. I4: memory, files and threads are back where they were, and nothing is
running or held. I5: no secret and no prompt in any log or error. I6: the process is the one that it was, and answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torture.daemon import Daemon
from torture.faults.hostile import Hostile
from torture.faults.kind import Kind
from torture.neighbour import Neighbour
from torture.stand import Proxy, Row, Stand, number_of

RSS_KIB = 48 * 1024
"""More than at the start: what the allocator keeps after answers of 16 MiB."""

_DESCRIPTORS = 12
_THREADS = 6
_CLOSING = 5.0
"""Seconds for connections that the provider has closed to be closed here."""
_RUNNING = ("requests_in_flight", "streams_in_flight", "holds", "held_nanodollars", "journal_unsettled_rows")


@dataclass(frozen=True, slots=True)
class Footing:
    """How a process stood before."""

    pid: int
    rss_kib: int
    descriptors: int
    threads: int


def footing(daemon: Daemon) -> Footing:
    return Footing(daemon.pid, daemon.rss_kib, daemon.descriptors, daemon.threads)


async def of_rows(stand: Stand, account: str, injected: Mapping[int, Kind], hostile: Hostile) -> list[str]:
    """I1 and I2."""
    found: list[str] = []
    by_number: dict[int, Row] = {}
    rows = await stand.rows(account)
    for each in rows:
        number = number_of(each)
        if number in by_number:
            found.append(f"I1: {injected.get(number)}: two rows for request {number}")
        by_number[number] = each
    for number, kind in injected.items():
        row, turn = by_number.get(number), hostile.record.get(number)
        if kind.billed.settlements and row is None and (turn is not None or kind.reaches):
            found.append(f"I1: {kind}: request {number} has no row")
        if kind.reaches and turn is None:
            found.append(f"I1: {kind}: request {number} did not reach the provider")
        if kind.reaches is False and turn is not None:
            found.append(f"I1: {kind}: request {number} reached the provider")
        if row is not None:
            if not kind.billed.settlements:
                found.append(f"I1: {kind}: request {number} has a row")
            elif problem := kind.billed.judge(row, turn):
                found.append(f"I2: {kind}: request {number}: {problem}")
    found += [f"I1: a row for {number}, which nobody asked" for number in by_number.keys() - injected.keys()]
    found += [f"I1: {injected[each]}: {each} was sent twice" for each in hostile.repeated if each in injected]
    charged, spent = sum(row["cost_nanodollars"] for row in rows), (await stand.wallet(account))["spent"]
    if charged != spent:
        found.append(f"I2: the rows of {account} charge {charged}, and the wallet has spent {spent}")
    return found


def of_neighbour(neighbour: Neighbour) -> list[str]:
    """I3; what was told is forgotten."""
    found = [f"I3: the other upstream: {error}" for error in neighbour.errors]
    neighbour.errors.clear()
    return found


async def of_process(proxy: Proxy, before: Footing) -> list[str]:
    """I4 and I6."""
    daemon = proxy.daemon
    if not daemon.is_alive:
        return [f"I6: {proxy.upstream} has ended"]
    found = []
    if daemon.pid != before.pid:
        found.append(f"I6: {proxy.upstream} is another process")
    if not await daemon.is_ready():
        found.append(f"I6: {proxy.upstream} is not ready")
    metrics = await daemon.metrics()
    found += [
        f"I4: {proxy.upstream}: {name} is {metrics[f'goproxy_{name}']:.0f}"
        for name in _RUNNING
        if metrics[f"goproxy_{name}"]
    ]
    now = footing(daemon)
    until = time.monotonic() + _CLOSING
    while now.descriptors - before.descriptors > _DESCRIPTORS and time.monotonic() < until:
        await asyncio.sleep(0.1)
        now = footing(daemon)
    for name, more, bound in (
        ("KiB", now.rss_kib - before.rss_kib, RSS_KIB),
        ("descriptors", now.descriptors - before.descriptors, _DESCRIPTORS),
        ("threads", now.threads - before.threads, _THREADS),
    ):
        if more > bound:
            found.append(f"I4: {proxy.upstream} has {more} {name} more than before")
    return found


class Logs:
    """I5: what was logged since the last look."""

    def __init__(self, daemons: Collection[Daemon]) -> None:
        self._read = dict.fromkeys(daemons, 0)

    def look(self, secrets: Mapping[str, bytes]) -> Sequence[str]:
        found = []
        for daemon, offset in self._read.items():
            if not daemon.log.exists():
                continue
            with daemon.log.open("rb") as log:
                log.seek(offset)
                said = log.read()
                self._read[daemon] = log.tell()
            found += [
                f"I5: {name} is in the log of {daemon.name}" for name, secret in secrets.items() if secret in said
            ]
            found += [f"I6: {daemon.name} failed: {line[:600]!r}" for line in said.splitlines() if _is_failure(line)]
        return found


def _is_failure(line: bytes) -> bool:
    """Whether it tells of a failure of our own."""
    return b'"exception"' in line or b"Traceback" in line
