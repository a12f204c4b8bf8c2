"""A goproxy is killed again and again under load: is its ledger still the provider's record?

By the rules of docs/billing.md: each request that the provider had has one row; a row that claims to be exact is; that
of a request in whose middle the process died is `interrupted`, and charges what had been noted of it by then, or
nothing. A row of a request that the provider never had (its hold was on the disk, and then it was not sent) charges
nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import uvloop

from goproxy.core.usage import Usage
from torture.client import a_client
from torture.faults.hostile import Hostile, a_hostile_provider
from torture.faults.kind import Turn
from torture.stand import Row, Stand, a_stand, cost, endpoint, number_of, usage_of

WHOLE_RUN = 200
_CLIENTS = 8
_PACE = 0.01
_BETWEEN = (0.15, 0.9)
"""Seconds from a start to the next kill."""

log = logging.getLogger("torture.kill9")


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Kill it."""
    return uvloop.run(_measure(max(2, round(WHOLE_RUN * size)), scratch))


async def _measure(kills: int, scratch: Path) -> Mapping[str, int | float]:
    async with a_hostile_provider() as hostile:
        document = {"endpoints": endpoint(hostile.url)}
        async with a_stand(scratch, ["killed"], killed=document) as stand:
            hostile.otherwise = _paced
            await _kill_under_load(stand, kills)
            differences = await _differences(stand, hostile)
            requests = len(hostile.record)
    for difference in differences:
        log.warning("%s", difference)
    return {"kill9.count": kills, "kill9.requests": requests, "kill9.ledger_difference_rows": len(differences)}


async def _paced(turn: Turn) -> None:
    """Every tenth answer is slow, so that its usage is noted before its end."""
    if not turn.wants_stream:
        await turn.message()
        return
    pace = 0.2 if turn.number % 10 == 0 else _PACE
    await turn.begin()
    for piece in turn.pieces:
        await turn.events(piece)
        await asyncio.sleep(pace)
    await turn.wire.end_stream()


async def _kill_under_load(stand: Stand, kills: int) -> None:
    daemon, chance = stand.proxies["killed"].daemon, Random(9)
    numbers = itertools.count(1)
    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(_ask_on(stand, numbers)) for _ in range(_CLIENTS)]
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(*_BETWEEN))
            await daemon.kill()
            await daemon.start(is_ready=False)
        for client in clients:
            client.cancel()
    if not await stand.is_settled("killed"):
        log.warning("not everything is posted")


async def _ask_on(stand: Stand, numbers: Iterator[int]) -> None:
    """One client: whatever becomes of a request, the next is another one."""
    port, key = stand.proxies["killed"].port, stand.keys["killed"]
    for number in numbers:
        try:
            async with a_client(port) as client:
                await client.ask(key, number, is_stream=number % 4 != 0)
                await client.seen()
        except OSError:
            await asyncio.sleep(0.02)


async def _differences(stand: Stand, hostile: Hostile) -> list[str]:
    found: list[str] = []
    rows: dict[int, Row] = {}
    charged = 0
    for row in await stand.rows("killed"):
        number = number_of(row)
        charged += row["cost_nanodollars"]
        if number in rows:
            found.append(f"request {number} has two rows")
        rows[number] = row
        if problem := _judged(row, number, hostile):
            found.append(f"request {number}: {problem}: {row['settlement']} {row['usage']} {row['flags']}")
    found += [f"request {number} has no row" for number in hostile.record.keys() - rows.keys()]
    wallet = await stand.wallet("killed")
    if wallet["spent"] != charged:
        found.append(f"the rows charge {charged}, and the wallet has spent {wallet['spent']}")
    if wallet["credits"] != wallet["balance"] + wallet["held"] + wallet["spent"]:
        found.append(f"the wallet does not add up: {wallet}")
    log.info("%s", Counter(row["settlement"] for row in rows.values()))
    return found


def _judged(row: Row, number: int, hostile: Hostile) -> str | None:
    usage, truth = Usage.from_json(row["usage"]), usage_of(number)
    if row["cost_nanodollars"] != cost(usage):
        return "its cost is not that of its usage"
    if number not in hostile.record:
        return "the provider never had it" if row["cost_nanodollars"] else None
    match row["settlement"]:
        case "exact" | "drained":
            return None if usage == truth else f"it claims to be exact, and the provider bills {truth}"
        case "interrupted":
            noted = (Usage(), Usage(input=truth.input, output=1), truth)
            return None if usage in noted else f"nothing of that was told; the provider bills {truth}"
        case "estimated":  # the load ended, and its clients left
            return None if row["outcome"] == "client_gone" else "nobody left"
    return "it may not be settled so"
