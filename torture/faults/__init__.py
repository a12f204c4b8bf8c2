"""The fault matrix: every kind of fault against real processes, and the invariants after each group."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from torture.client import a_client
from torture.faults import clients, upstream
from torture.faults.hostile import Hostile, a_hostile_provider
from torture.faults.invariants import Footing, Logs, footing, of_neighbour, of_process, of_rows
from torture.faults.kind import Injection, Kind
from torture.neighbour import Neighbour, a_good_provider, under_load
from torture.stand import Stand, a_stand, endpoint

PER_KIND = 60
"""Injections of a kind in a whole run."""

_AT_ONCE = 40
_WARM = 100
_CLIENTS, _PAUSE = 2, 0.05
_TIMEOUTS = {
    "connect": upstream.CONNECT,
    "first_byte": upstream.FIRST_BYTE,
    "idle": upstream.IDLE,
    "total": upstream.TOTAL,
}
GROUPS: Mapping[str, Sequence[Kind]] = upstream.GROUPS | clients.GROUPS

log = logging.getLogger("torture.faults")


@dataclass
class Found:
    """What came of it."""

    kinds: int = 0
    injections: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass
class _Matrix:
    """What a group is injected into."""

    stand: Stand
    hostile: Hostile
    neighbour: Neighbour
    logs: Logs
    before: dict[str, Footing]
    numbers: Iterator[int]


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Inject every kind of fault."""
    found = uvloop.run(_measure(size, scratch))
    for violation in found.violations:
        log.warning("%s", violation)
    return {
        "faults.kinds": found.kinds,
        "faults.injections": found.injections,
        "faults.invariant_violations": len(found.violations),
    }


def account_of(group: str) -> str:
    """Each group has an account of its own."""
    return group.replace(" ", "-")


async def _measure(size: float, scratch: Path) -> Found:
    found = Found()
    async with AsyncExitStack() as stack:
        hostile = await stack.enter_async_context(a_hostile_provider())
        good = await stack.enter_async_context(a_good_provider())
        tortured = {"endpoints": endpoint(hostile.url), "timeouts": _TIMEOUTS}
        accounts = ["warm", "neighbour", *map(account_of, GROUPS)]
        stand = await stack.enter_async_context(
            a_stand(
                scratch,
                accounts,
                drains=tortured,
                aborts=tortured | {"disconnect": {"policy": "abort"}},
                neighbour={"endpoints": endpoint(good.url)},
            )
        )
        numbers = itertools.count(1)
        await _warm_up(stand, numbers)
        before = {upstream: footing(proxy.daemon) for upstream, proxy in stand.proxies.items()}
        logs = Logs([stand.backend, *(proxy.daemon for proxy in stand.proxies.values())])
        port, key = stand.proxies["neighbour"].port, stand.keys["neighbour"]
        async with under_load(port, key, _CLIENTS, _PAUSE) as neighbour:
            matrix = _Matrix(stand, hostile, neighbour, logs, before, numbers)
            for group, kinds in GROUPS.items():
                await _inject(matrix, group, kinds, size, found)
    return found


async def _warm_up(stand: Stand, numbers: Iterator[int]) -> None:
    """So that what is loaded and pooled once is there before memory is compared."""
    for upstream_name in ("drains", "aborts"):
        async with a_client(stand.proxies[upstream_name].port) as client:
            for _ in range(_WARM):
                await client.ask(stand.keys["warm"], next(numbers))
                await client.seen()
    await stand.is_settled("drains", "aborts")


async def _inject(matrix: _Matrix, group: str, kinds: Sequence[Kind], size: float, found: Found) -> None:
    stand, hostile = matrix.stand, matrix.hostile
    key = stand.keys[account_of(group)]
    injected: dict[int, Kind] = {}
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, kind: Kind) -> None:
        async with slots:
            port = stand.proxies[kind.upstream].port
            injection = Injection(number, key, port, stand, lambda: hostile.record.get(number))
            try:
                problem = await kind.act(injection)
            except Exception as error:
                log.debug("%s", kind, exc_info=True)
                problem = f"{error!r}"
            if problem:
                found.violations.append(f"{kind}: request {number}: {problem}")

    async with asyncio.TaskGroup() as tasks:
        for kind in kinds:
            for _ in range(max(1, round(PER_KIND * kind.share * size))):
                number = next(matrix.numbers)
                injected[number] = kind
                hostile.answers[number] = kind.answer
                tasks.create_task(one(number, kind))
    found.kinds += len(kinds)
    found.injections += len(injected)
    if not await stand.is_settled("drains", "aborts"):
        found.violations.append(f"I4: after {group} something still runs, or is not posted")
    broken, _ = await of_rows(stand, account_of(group), injected, hostile)
    found.violations += broken
    found.violations += of_neighbour(matrix.neighbour)
    hostile.hang_up()
    for upstream_name in ("drains", "aborts"):
        found.violations += await of_process(stand.proxies[upstream_name], matrix.before[upstream_name])
    found.violations += matrix.logs.look(stand.secrets())
