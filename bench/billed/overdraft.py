"""50 requests at once over both proxies, each of which takes a tenth of the balance: how much is spent beyond it?"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from random import Random

import aiohttp

from billed.answers import SHAPES
from billed.ledger import true_cost
from billed.prices import CONTEXT_TOKENS, MODEL_IDS, OHMYGPT, OPENHANDS
from billed.provider import Plan, TruthfulProvider, truthful_provider
from billed.report import Findings
from billed.rig import PATHS, Rig, a_rig
from goproxy.core.usage import Usage

_AT_ONCE = 50
_TENTHS = 10
_WORST = Usage(cache_write_1h=CONTEXT_TOKENS, output=64_000)
"""The whole context at the dearest kind of input and the longest answer: what is held, all of it."""


async def measure(directory: Path, rounds: int) -> Findings:
    """So many rounds, each with an account of its own."""
    findings = Findings()
    numbers = itertools.count()
    async with truthful_provider() as provider, a_rig(directory, provider.url) as rig:
        found = [await _round(f"account-{turn}", numbers, provider, rig, findings) for turn in range(rounds)]
    passed, overdrafts = zip(*found, strict=True)
    findings.must_be_zero("billing.overdraft_nanodollars", max(overdrafts))
    findings.note("billing.overdraft_rounds", rounds)
    findings.note("billing.overdraft_passed", passed)
    return findings


async def _round(
    account: str, numbers: itertools.count[int], provider: TruthfulProvider, rig: Rig, findings: Findings
) -> tuple[int, int]:
    """How many of the requests passed, and by how much their costs were above the credits."""
    plans = [_plan(next(numbers), (OPENHANDS, OHMYGPT)[turn % 2]) for turn in range(_AT_ONCE)]
    provider.plans = {plan.number: plan for plan in plans}
    credit = _TENTHS * max(map(true_cost, plans))
    key = await rig.new_account(account, credit)
    async with aiohttp.ClientSession(headers={"x-api-key": key}, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(plan: Plan) -> int:
            url = rig.proxies[plan.upstream].url + PATHS[plan.protocol]
            async with session.post(url, data=plan.body()) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*map(ask, plans))
    await rig.is_posted()
    passed, wallet = statuses.count(200), await rig.wallet(account)
    costs = sum([row["cost_nanodollars"] async for row in rig.rows(account)])
    if passed + statuses.count(402) != _AT_ONCE or not 1 <= passed <= _TENTHS:
        findings.wrong(f"{account}: {passed} requests passed; statuses {sorted({*statuses})}")
    if wallet["spent"] != costs or wallet["credits"] != wallet["balance"] + wallet["held"] + wallet["spent"]:
        findings.wrong(f"{account}: the wallet does not add up: {wallet}, rows {costs}")
    return passed, max(0, costs - credit, -wallet["balance"])


def _plan(number: int, upstream: str) -> Plan:
    shape = next(shape for shape in SHAPES if shape.protocol == "anthropic" and not shape.is_stream)
    pieces = shape.word(_WORST, Random(number))
    return Plan(number, shape.protocol, MODEL_IDS[0], upstream, _WORST, pieces, is_stream=False)
