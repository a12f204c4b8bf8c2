"""The backend is away under load, and then its database is locked: which requests fail, and what is in the ledger?"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aiohttp

from billed.answers import SHAPES
from billed.ledger import Comparison, compare, true_cost
from billed.prices import MODEL_IDS
from billed.provider import Plan, TruthfulProvider, truthful_provider
from billed.report import Findings
from billed.rig import PATHS, Rig, a_rig
from goproxy.core.usage import Usage
from tests.gateway import ALICE

_CLIENTS = 4
"""At each proxy."""
_PAUSE = 0.1
_BEFORE_AND_AFTER = 0.5
_USAGE = Usage(input=9, output=7)
_BODY = '{"model": "%s", "max_tokens": 20, "stream": true, "messages": [{"role": "user", "content": [{"text": "%d"}]}]}'
"""Small requests, so that a lease lasts: one of these holds a fifth of a cent."""


@dataclass
class _Load:
    """Clients that ask one thing after the other."""

    provider: TruthfulProvider
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    failed: list[str] = field(default_factory=list)
    is_over: bool = False

    async def ask_on(self, upstream: str, url: str, session: aiohttp.ClientSession) -> None:
        shape = SHAPES[0]
        while not self.is_over:
            number = next(self.numbers)
            pieces = shape.word(_USAGE, Random(number))
            plan = Plan(number, shape.protocol, MODEL_IDS[0], upstream, _USAGE, pieces)
            self.provider.plans[number] = plan
            try:
                async with session.post(url + PATHS[shape.protocol], data=_BODY % (plan.model, number)) as answer:
                    body = await answer.read()
            except aiohttp.ClientError as error:
                self.failed.append(repr(error))
            else:
                if (answer.status, body) != (200, plan.visible()):
                    self.failed.append(f"{answer.status} {body[:200]!r}")
            await asyncio.sleep(_PAUSE)


async def measure(directory: Path, away: float, locked: float) -> Findings:
    """So many seconds without a backend, and so many with a backend whose database somebody else has locked."""
    findings = Findings()
    async with truthful_provider() as provider, a_rig(directory, provider.url) as rig:
        load = _Load(provider)
        async with (
            aiohttp.ClientSession(headers={"x-api-key": ALICE}) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for upstream, proxy in [*rig.proxies.items()] * _CLIENTS:
                tasks.create_task(load.ask_on(upstream, proxy.url, session))
            await asyncio.sleep(_BEFORE_AND_AFTER)
            await _without_backend(rig, away)
            await asyncio.sleep(_BEFORE_AND_AFTER)
            await _with_locked_database(rig, locked)
            await asyncio.sleep(_BEFORE_AND_AFTER)
            load.is_over = True
        comparison = await compare(rig, provider)
    findings.must_be_zero("billing.backend_outage_failed_requests", len(load.failed))
    findings.count("billing.backend_outage_requests", len(comparison.record))
    findings.count("billing.backend_outage_seconds", round(away, 1))
    findings.note("billing.database_locked_seconds", round(locked, 1))
    findings.problems += sorted({*load.failed})
    _judge(comparison, findings)
    return findings


async def _without_backend(rig: Rig, seconds: float) -> None:
    await rig.backend.stop()
    await asyncio.sleep(seconds)
    await rig.backend.start()


async def _with_locked_database(rig: Rig, seconds: float) -> None:
    store = rig.backend.directory / "backend.sqlite3"
    with closing(sqlite3.connect(store, isolation_level=None, check_same_thread=False)) as other:
        await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
        await asyncio.sleep(seconds)
        other.execute("ROLLBACK")


def _judge(comparison: Comparison, findings: Findings) -> None:
    """Nothing may be lost of what was served meanwhile."""
    findings.must_be_zero("billing.backend_outage_missing_rows", len(comparison.missing) + comparison.doubled)
    for id_, entry in comparison.rows.items():
        plan = comparison.record[id_]
        if (entry.settlement, entry.usage, entry.cost) != ("exact", plan.usage, true_cost(plan)):
            findings.wrong(f"request {plan.number}: {entry}")
