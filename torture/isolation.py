"""One upstream crashes, hangs, is flooded or has no memory and no disk: what do clients of the other one feel?

A trouble that nobody has proves nothing: of each it is said by what it is felt at the upstream that has it, and the
other one is asked when it is. What is not felt in time is no trouble, and the figures say so.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from torture.client import End, a_client
from torture.faults.hostile import Hostile, a_hostile_provider
from torture.faults.kind import Turn
from torture.neighbour import COST, Neighbour, a_good_provider, under_load
from torture.stand import Proxy, Stand, a_stand, endpoint

WHOLE_RUN = 100_000
_CLIENTS = 8
_TROUBLE = 100
"""Clients of the other one."""

_PATIENCE = 600
_FELT = 60
"""Seconds in which a trouble must be felt."""

_TIMEOUTS = {"connect": 2, "first_byte": 20, "idle": 20, "total": 30}

log = logging.getLogger("torture.isolation")


class _Site:
    """The upstream that is in trouble."""

    def __init__(self, stand: Stand, hostile: Hostile) -> None:
        self.stand = stand
        self.hostile = hostile
        self.proxy: Proxy = stand.proxies["troubled"]
        self.numbers: Iterator[int] = itertools.count(1)
        self.seen: Counter[str] = Counter()
        """What clients got while this trouble lasts: `whole`, a status, how an answer ended, or `refused`."""
        self.waiting = 0
        """Clients that have asked, and have not got all of their answer."""
        self.kills = 0

    @property
    def spoiled(self) -> int:
        """Requests that were not answered as they should be."""
        return self.seen.total() - self.seen["whole"]

    @property
    def is_stopped(self) -> bool:
        """Whether the process stands still."""
        return Path(f"/proc/{self.proxy.daemon.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    async def ask_on(self, pause: float = 0.0) -> None:
        """One client that asks, whatever it gets."""
        while True:
            try:
                got = await self._ask(next(self.numbers))
            except (OSError, asyncio.IncompleteReadError):
                got = "refused"
            self.seen[got] += 1
            await asyncio.sleep(pause)

    async def _ask(self, number: int) -> str:
        async with a_client(self.proxy.port) as client:
            self.waiting += 1
            try:
                await client.ask(self.stand.keys["troubled"], number)
                answer = await client.seen()
            finally:
                self.waiting -= 1
        if answer.end is not End.WHOLE:
            return f"{answer.end}"
        return "whole" if answer.status == 200 else f"{answer.status}"

    async def is_felt(self, trouble: Trouble) -> bool:
        """Wait until it is, or for too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FELT):
                while not trouble.is_felt(self):
                    await asyncio.sleep(0.02)
                return True
        return False

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
        site.kills += 1
        try:
            yield
        finally:
            await site.proxy.daemon.start()


@asynccontextmanager
async def _crashes_in_a_loop(site: _Site) -> AsyncIterator[None]:
    async def crash() -> None:
        while True:
            await site.proxy.daemon.kill()
            site.kills += 1
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


@dataclass(frozen=True)
class Trouble:
    """What happens, and by what it is known that it does."""

    happens: Callable[[_Site], AbstractAsyncContextManager[None]]
    is_felt: Callable[[_Site], bool]


TROUBLES: Mapping[str, Trouble] = {
    "provider stalls": Trouble(
        _provider_stalls, lambda site: site.waiting == _TROUBLE and len(site.hostile.record) >= _TROUBLE
    ),
    "provider sends garbage": Trouble(_provider_sends_garbage, lambda site: site.spoiled >= 8),
    "flooded": Trouble(_flooded, lambda site: site.seen["whole"] >= _TROUBLE),
    "paused": Trouble(_paused, lambda site: site.is_stopped and site.waiting == 8),
    "crashed": Trouble(_crashed, lambda site: site.kills == 1 and site.seen["refused"] >= 8),
    "crashes in a loop": Trouble(_crashes_in_a_loop, lambda site: site.kills > 1 and site.seen["refused"] >= 8),
    "no disk": Trouble(_no_disk, lambda site: site.seen["503"] >= 8),
    "no memory": Trouble(_no_memory, lambda site: site.spoiled >= 8),
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
            felt = 0
            async with under_load(port, key, _CLIENTS, 0) as neighbour:
                each = count // (1 + len(TROUBLES))
                quiet = await _until(neighbour, each)
                for name, trouble in TROUBLES.items():
                    hostile.otherwise = hostile.whole
                    site.seen.clear()
                    site.kills = 0
                    async with trouble.happens(site):
                        if await site.is_felt(trouble):
                            felt += 1
                        else:
                            log.warning("%s: it was not felt; clients got %s", name, dict(site.seen))
                        slowest[name] = await _until(neighbour, each)
                    hostile.hang_up()
            errors = [*neighbour.errors, *await _ledger(stand, neighbour)]
    for error in errors:
        log.warning("%s", error)
    return {
        "isolation.troubles": len(TROUBLES),
        "isolation.troubles_felt": felt,
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
