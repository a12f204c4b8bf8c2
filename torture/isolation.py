"""One upstream crashes, hangs, is flooded or has no memory and no disk: what do clients of the other one feel?"""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop

from torture.client import a_client
from torture.faults.hostile import Hostile, a_hostile_provider
from torture.faults.kind import Turn
from torture.neighbour import COST, Neighbour, a_good_provider, under_load
from torture.stand import Proxy, Stand, a_stand, endpoint

WHOLE_RUN = 100_000
_CLIENTS = 8
_TROUBLE = 100
"""Clients of the other one."""

_PATIENCE = 600
_TIMEOUTS = {"connect": 2, "first_byte": 20, "idle": 20, "total": 30}

Trouble = Callable[["_Site"], AbstractAsyncContextManager[None]]

log = logging.getLogger("torture.isolation")


class _Site:
    """The upstream that is in trouble."""

    def __init__(self, stand: Stand, hostile: Hostile) -> None:
        self.stand = stand
        self.hostile = hostile
        self.proxy: Proxy = stand.proxies["troubled"]
        self.numbers: Iterator[int] = itertools.count(1)

    async def ask_on(self, pause: float = 0.0, padding: int = 0) -> None:
        """One client that asks, whatever it gets."""
        key = self.stand.keys["troubled"]
        for number in self.numbers:
            with suppress(OSError, asyncio.IncompleteReadError):
                async with a_client(self.proxy.port) as client:
                    await client.ask(key, number, "anthropic", *(["X-Padding: " + "x" * padding] if padding else []))
                    await client.seen()
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def clients(self, count: int, pause: float = 0.0) -> AsyncIterator[None]:
        """So many of them."""
        tasks = [asyncio.create_task(self.ask_on(pause)) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def limit(self, kind: int, soft: int) -> None:
        """A limit of the process; -1: none."""
        _, hard = resource.prlimit(self.proxy.daemon.pid, kind)
        resource.prlimit(self.proxy.daemon.pid, kind, (soft, hard))


@asynccontextmanager
async def _quiet(_: _Site) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _provider_stalls(site: _Site) -> AsyncIterator[None]:
    async def stall(turn: Turn) -> None:
        await turn.begin()
        await turn.events(turn.pieces[0])
        await turn.wire.until_closed()

    site.hostile.otherwise = stall
    async with site.clients(_TROUBLE):
        yield


@asynccontextmanager
async def _provider_sends_garbage(site: _Site) -> AsyncIterator[None]:
    async def garbage(turn: Turn) -> None:
        with suppress(ConnectionError):
            if turn.number % 2:
                await turn.wire.send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000)
            else:
                await turn.begin()
                await turn.events(b"data: " + b"x" * 2**20)
        turn.wire.hang_up()

    site.hostile.otherwise = garbage
    async with site.clients(8, pause=0.02):
        yield


@asynccontextmanager
async def _flooded(site: _Site) -> AsyncIterator[None]:
    async with site.clients(_TROUBLE, pause=0.2):
        yield


@asynccontextmanager
async def _paused(site: _Site) -> AsyncIterator[None]:
    async with site.clients(8, pause=0.1):
        site.proxy.daemon.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            site.proxy.daemon.signal(signal.SIGCONT)


@asynccontextmanager
async def _crashed(site: _Site) -> AsyncIterator[None]:
    async with site.clients(8, pause=0.1):
        await site.proxy.daemon.kill()
        try:
            yield
        finally:
            await site.proxy.daemon.start()


@asynccontextmanager
async def _crashes_in_a_loop(site: _Site) -> AsyncIterator[None]:
    async def crash() -> None:
        while True:
            await site.proxy.daemon.kill()
            await site.proxy.daemon.start(is_ready=False)
            await asyncio.sleep(0.2)

    async with site.clients(8, pause=0.1):
        crashing = asyncio.create_task(crash())
        try:
            yield
        finally:
            crashing.cancel()
            await asyncio.gather(crashing, return_exceptions=True)
            await site.proxy.daemon.kill()
            await site.proxy.daemon.start()


@asynccontextmanager
async def _no_disk(site: _Site) -> AsyncIterator[None]:
    site.limit(resource.RLIMIT_FSIZE, 0)
    async with site.clients(8, pause=0.05):
        yield
    site.limit(resource.RLIMIT_FSIZE, -1)


@asynccontextmanager
async def _no_memory(site: _Site) -> AsyncIterator[None]:
    """It may get no more address space than it has; what comes of it, comes."""
    status = Path(f"/proc/{site.proxy.daemon.pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:"))
    site.limit(resource.RLIMIT_AS, kib * 1024)
    async with site.clients(_TROUBLE, pause=0.2):
        yield
    await site.proxy.daemon.kill()
    await site.proxy.daemon.start()


TROUBLES: Mapping[str, Trouble] = {
    "quiet": _quiet,
    "provider stalls": _provider_stalls,
    "provider sends garbage": _provider_sends_garbage,
    "flooded": _flooded,
    "paused": _paused,
    "crashed": _crashed,
    "crashes in a loop": _crashes_in_a_loop,
    "no disk": _no_disk,
    "no memory": _no_memory,
}


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Trouble one, and ask the other."""
    return uvloop.run(_measure(max(200, round(WHOLE_RUN * size)), scratch))


async def _measure(count: int, scratch: Path) -> Mapping[str, int | float]:
    async with a_hostile_provider() as hostile, a_good_provider() as good:
        documents: dict[str, dict[str, Any]] = {
            "troubled": {"endpoints": endpoint(hostile.url), "timeouts": _TIMEOUTS},
            "neighbour": {"endpoints": endpoint(good.url)},
        }
        async with a_stand(scratch, [*documents], **documents) as stand:
            site = _Site(stand, hostile)
            port, key = stand.proxies["neighbour"].port, stand.keys["neighbour"]
            slowest: dict[str, float] = {}
            async with under_load(port, key, _CLIENTS, 0) as neighbour:
                for trouble, make in TROUBLES.items():
                    hostile.otherwise = hostile.whole
                    async with make(site):
                        slowest[trouble] = await _until(neighbour, count // len(TROUBLES))
                    hostile.hang_up()
            errors = [*neighbour.errors, *await _ledger(stand, neighbour)]
    for error in errors:
        log.warning("%s", error)
    quiet = slowest.pop("quiet")
    return {
        "isolation.requests": neighbour.requests,
        "isolation.errors": len(errors),
        "isolation.first_event_p99_ms_quiet": quiet,
        "isolation.first_event_p99_ms_while_paused": slowest["paused"],
        "isolation.first_event_p99_ms_worst": max(slowest.values()),
    }


async def _until(neighbour: Neighbour, more: int) -> float:
    """Wait until it has answered so many more; the 99th percentile of their times to the first event."""
    neighbour.first_event_ms.clear()
    async with asyncio.timeout(_PATIENCE):
        while len(neighbour.first_event_ms) < more:
            await asyncio.sleep(0.05)
    return round(sorted(neighbour.first_event_ms)[int(0.99 * len(neighbour.first_event_ms))], 1)


async def _ledger(stand: Stand, neighbour: Neighbour) -> list[str]:
    """What was answered, and nothing else, is charged."""
    if not await stand.is_settled("neighbour"):
        return ["the rows of the other upstream are not all posted"]
    spent = (await stand.wallet("neighbour"))["spent"]
    expected = (neighbour.requests - len(neighbour.errors)) * COST
    return [] if spent == expected else [f"{spent} is charged at the other upstream, and {expected} is right"]
