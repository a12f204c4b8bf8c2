"""Clients that read a kibibyte a second of streams without end: what does each cost, and does that grow?"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import uvloop

from torture.client import Client, a_client
from torture.faults.hostile import a_hostile_provider
from torture.faults.kind import Turn
from torture.stand import Stand, a_stand, endpoint, number_of

WHOLE_RUN = 600
"""Seconds."""

READERS = 200
_PER_SECOND = 1024
_RECEIVES = 4096
_LINE = 1024
_WARM = 50
_APART = 0.02
"""Seconds between two readers: not more connections at once than the provider accepts."""

_TIMEOUTS = {"connect": 10, "first_byte": 60, "idle": 60, "total": 3600}

log = logging.getLogger("torture.slow_readers")


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Read slowly."""
    return uvloop.run(_measure(max(3, round(WHOLE_RUN * size)), max(5, round(READERS * min(1, 10 * size))), scratch))


async def _measure(seconds: int, readers: int, scratch: Path) -> Mapping[str, int | float]:
    async with a_hostile_provider() as hostile:
        document = {"endpoints": endpoint(hostile.url), "timeouts": _TIMEOUTS, "disconnect": {"policy": "abort"}}
        async with a_stand(scratch, ["slow"], slow=document) as stand:
            await _warm_up(stand)
            hostile.otherwise = _endless
            grown, cut = await _read(stand, seconds, readers)
            cut += await _given_up(stand)
    for problem in cut:
        log.warning("%s", problem)
    return {
        "slow_readers.streams": readers,
        "slow_readers.seconds": seconds,
        "slow_readers.kib_per_stream": round(grown / readers, 1),
        "slow_readers.cut_streams": len(cut),
    }


def _event(number: int) -> bytes:
    """One of the stream: a comment that says which."""
    return b": %d " % number + b"x" * (_LINE - len(str(number)) - 5) + b"\n\n"


async def _endless(turn: Turn) -> None:
    """As much as is taken, for as long as it is."""
    await turn.begin()
    number = 0
    try:
        while True:
            await turn.wire.chunk(b"".join(map(_event, range(number, number + 16))))
            number += 16
    except ConnectionError:
        pass


async def _warm_up(stand: Stand) -> None:
    async with a_client(stand.proxies["slow"].port) as client:
        for number in range(1, _WARM):
            await client.ask(stand.keys["slow"], number)
            await client.seen()


async def _read(stand: Stand, seconds: int, readers: int) -> tuple[int, list[str]]:
    """By how many KiB the process grew at most, and which streams broke or went wrong."""
    daemon = stand.proxies["slow"].daemon
    before = most = daemon.rss_kib
    cut: list[str] = []
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as tasks:
        for reader in range(readers):
            tasks.create_task(_reader(stand, _WARM + reader, until, cut))
            await asyncio.sleep(_APART)
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            most = max(most, daemon.rss_kib)
    return most - before, cut


async def _given_up(stand: Stand) -> list[str]:
    """What the gateway has cut; a client sees that only when it has read what the kernel still had for it."""
    await stand.is_settled("slow")
    rows = await stand.rows("slow")
    return [f"reader {number_of(row)} was given up" for row in rows if row["outcome"] == "client_stalled"]


async def _reader(stand: Stand, number: int, until: float, cut: list[str]) -> None:
    async with a_client(stand.proxies["slow"].port, _RECEIVES) as client:
        await client.ask(stand.keys["slow"], number)
        try:
            status, _ = await client.head()
            if status != 200:
                cut.append(f"reader {number}: {status}")
                return
            await _follow(client, until)
        except (ConnectionError, asyncio.IncompleteReadError, ValueError) as error:
            cut.append(f"reader {number}: {error!r}")


async def _follow(client: Client, until: float) -> None:
    """Read slowly, and see that nothing is missing."""
    came, at = b"", 0
    size = 0
    while time.monotonic() < until:
        await asyncio.sleep(1)
        taken = 0
        while taken < _PER_SECOND:
            if not size:
                size = int(await client.reader.readuntil(b"\r\n"), 16)
            piece = await client.reader.readexactly(min(size, _PER_SECOND - taken))
            taken, size, came = taken + len(piece), size - len(piece), came + piece
            if not size:
                await client.reader.readexactly(2)
        while len(came) >= _LINE:
            if not came.startswith(_event(at)):
                raise ValueError(f"event {at} is not what was sent: {came[:40]!r}")
            came, at = came[_LINE:], at + 1
