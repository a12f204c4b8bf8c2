"""The fault matrix: every kind of fault against real processes, and the invariants after each group."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from torture.client import a_client
from torture.faults import clients, door, processes, reaching, upstream
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
    left_out: list[str] = field(default_factory=list)


@dataclass
class _Matrix:
    """What faults are injected into."""

    stand: Stand
    hostile: Hostile
    neighbour: Neighbour
    logs: Logs
    before: dict[str, Footing]
    numbers: Iterator[int]
    size: float
    found: Found


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Inject every kind of fault."""
    found = uvloop.run(_measure(size, scratch))
    for violation in found.violations:
        log.warning("%s", violation)
    for kind in found.left_out:
        log.warning("%s: cannot be done on this machine", kind)
    return {
        "faults.kinds": found.kinds,
        "faults.injections": found.injections,
        "faults.left_out": len(found.left_out),
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
        name = door.NAME if reaching.can_resolve_here() else "localhost"
        entrance = await stack.enter_async_context(
            door.a_door(name, scratch / reaching.UPSTREAM / "ca", hostile.answer)
        )
        tortured = {"endpoints": endpoint(hostile.url), "timeouts": _TIMEOUTS}
        accounts = ["warm", "neighbour", reaching.UPSTREAM, processes.UPSTREAM, *map(account_of, GROUPS)]
        documents: dict[str, dict[str, Any]] = {
            "drains": tortured,
            "aborts": tortured | {"disconnect": {"policy": "abort"}},
            "neighbour": {"endpoints": endpoint(good.url)},
            reaching.UPSTREAM: tortured | {"endpoints": endpoint(entrance.url), "is_idle": True},
            processes.UPSTREAM: {"endpoints": endpoint(hostile.url), "is_idle": True},
        }
        stand = await stack.enter_async_context(a_stand(scratch, accounts, **documents))
        numbers = itertools.count(1)
        await _warm_up(stand, numbers)
        before = {upstream: footing(stand.proxies[upstream].daemon) for upstream in ("drains", "aborts")}
        logs = Logs([stand.backend, *(proxy.daemon for proxy in stand.proxies.values())])
        port, key = stand.proxies["neighbour"].port, stand.keys["neighbour"]
        async with under_load(port, key, _CLIENTS, _PAUSE) as neighbour:
            matrix = _Matrix(stand, hostile, neighbour, logs, before, numbers, size, found)
            for group, kinds in GROUPS.items():
                injected = await _inject(matrix, account_of(group), kinds)
                await _judge(matrix, account_of(group), injected, "drains", "aborts")
            await _reach(matrix, entrance)
            await _befall(matrix)
    return found


async def _warm_up(stand: Stand, numbers: Iterator[int]) -> None:
    """So that what is loaded and pooled once is there before memory is compared."""
    for upstream_name in ("drains", "aborts"):
        async with a_client(stand.proxies[upstream_name].port) as client:
            for _ in range(_WARM):
                await client.ask(stand.keys["warm"], next(numbers))
                await client.seen()
    await stand.is_settled("drains", "aborts")


async def _inject(matrix: _Matrix, account: str, kinds: Sequence[Kind]) -> dict[int, Kind]:
    """All of these kinds at once, as often as the size wants; which request was of which kind."""
    stand, hostile, found = matrix.stand, matrix.hostile, matrix.found
    injected: dict[int, Kind] = {}
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, kind: Kind) -> None:
        async with slots:
            port = stand.proxies[kind.upstream].port
            injection = Injection(number, stand.keys[account], port, stand, lambda: hostile.record.get(number))
            try:
                problem = await kind.act(injection)
            except Exception as error:
                log.debug("%s", kind, exc_info=True)
                problem = f"{error!r}"
            if problem:
                found.violations.append(f"{kind}: request {number}: {problem}")

    async with asyncio.TaskGroup() as tasks:
        for kind in kinds:
            for _ in range(max(1, round(PER_KIND * kind.share * matrix.size))):
                number = next(matrix.numbers)
                injected[number] = kind
                hostile.answers[number] = kind.answer
                tasks.create_task(one(number, kind))
    found.kinds += len(kinds)
    found.injections += len(injected)
    return injected


async def _judge(matrix: _Matrix, account: str, injected: Mapping[int, Kind], *upstreams: str) -> None:
    """I1 to I6."""
    stand, hostile, violations = matrix.stand, matrix.hostile, matrix.found.violations
    if not await stand.is_settled(*upstreams):
        violations.append(f"I4: after {account} something still runs, or is not posted")
    violations += await of_rows(stand, account, injected, hostile)
    violations += of_neighbour(matrix.neighbour)
    hostile.hang_up()
    for upstream_name in upstreams:
        violations += await of_process(stand.proxies[upstream_name], matrix.before[upstream_name])
    violations += matrix.logs.look(stand.secrets())


async def _reach(matrix: _Matrix, entrance: door.Door) -> None:
    """U1 to U4, one after the other: each is a setting of its own."""
    proxy = matrix.stand.proxies[reaching.UPSTREAM]
    settings = list(reaching.BY_SETTING)
    async with AsyncExitStack() as stack:
        names = door.Names()
        before: tuple[str, ...] = ()
        if reaching.can_resolve_here():
            await stack.enter_async_context(reaching.names_for_all(names))
            before = reaching.resolving_here(proxy.directory)
            settings += reaching.BY_NAME
        else:
            matrix.found.left_out += [str(kind) for kind, _ in reaching.BY_NAME]
        await proxy.daemon.start(before=before)
        matrix.before[proxy.upstream] = footing(proxy.daemon)
        injected: dict[int, Kind] = {}
        for kind, setting in settings:
            await setting(reaching.Way(entrance, names))
            injected |= await _inject(matrix, proxy.upstream, [kind])
        await _judge(matrix, proxy.upstream, injected, proxy.upstream)
        await proxy.daemon.stop()


async def _befall(matrix: _Matrix) -> None:
    """P1 to P9, one after the other."""
    stand, found = matrix.stand, matrix.found
    proxy = stand.proxies[processes.UPSTREAM]
    scene = processes.Scene(stand, matrix.hostile, matrix.numbers, stand.keys[proxy.upstream])
    for happening in processes.HAPPENINGS:
        if not happening.can_be():
            found.left_out.append(str(happening))
            continue
        scene.what = str(happening)
        found.kinds += 1
        found.injections += 1
        if not proxy.daemon.is_alive:
            await proxy.daemon.start()
        try:
            await happening.run(scene)
        except Exception as error:
            log.debug("%s", happening, exc_info=True)
            found.violations.append(f"{happening}: {error!r}")
        if not proxy.daemon.is_alive:
            await proxy.daemon.start()
        matrix.before[proxy.upstream] = footing(proxy.daemon)
        found.violations += scene.violations
        scene.violations.clear()
    await _judge(matrix, proxy.upstream, scene.injected, proxy.upstream)
