"""Complete answers of all protocols, in every shape of usage: what differs between ledger and provider?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random

import aiohttp

from billed.answers import SHAPES
from billed.ledger import Comparison, compare, tokens_between, true_cost
from billed.prices import ALIASES, MODEL_IDS
from billed.provider import Plan, TruthfulProvider, truthful_provider
from billed.report import Findings
from billed.rig import PATHS, Rig, a_rig
from goproxy.core.usage import Usage
from tests.gateway import ALICE

_AT_ONCE = 48


async def measure(directory: Path, count: int) -> Findings:
    """So many complete answers."""
    findings = Findings()
    async with truthful_provider() as provider, a_rig(directory, provider.url) as rig:
        plans = _plans(count, list(rig.proxies))
        async with aiohttp.ClientSession(
            headers={"x-api-key": ALICE}, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            await asyncio.gather(*(_client(plans, provider, rig, session, findings) for _ in range(_AT_ONCE)))
        comparison = await compare(rig, provider)
        spent = (await rig.wallet())["spent"]
    _judge(comparison, spent, findings)
    return findings


def _plans(count: int, upstreams: list[str]) -> Iterator[Plan]:
    for number in range(count):
        chance = Random(f"complete {number}")
        shape = SHAPES[number % len(SHAPES)]
        usage = shape.draw(chance)
        model = chance.choice(MODEL_IDS)
        yield Plan(
            number,
            shape.protocol,
            model,
            chance.choice(upstreams),
            usage,
            shape.word(usage, chance),
            name=chance.choice((model, ALIASES[model])),
            is_stream=shape.is_stream,
            asks_usage=shape.protocol == "openai" and shape.is_stream and chance.random() < 0.5,
        )


async def _client(
    plans: Iterator[Plan], provider: TruthfulProvider, rig: Rig, session: aiohttp.ClientSession, findings: Findings
) -> None:
    """Ask one after the other."""
    for plan in plans:
        provider.plans[plan.number] = plan
        url = rig.proxies[plan.upstream].url + PATHS[plan.protocol]
        async with session.post(url, data=plan.body()) as answer:
            body = await answer.read()
        if (answer.status, body) != (200, plan.visible()):
            findings.wrong(f"request {plan.number}: the client got {answer.status} with {len(body)} bytes")
        del provider.plans[plan.number]
        plan.pieces = ()  # its memory


def _judge(comparison: Comparison, spent: int, findings: Findings) -> None:
    tokens = nanodollars = total = 0
    for id_, plan in comparison.record.items():
        entry = comparison.rows.get(id_)
        total += true_cost(plan)
        tokens += tokens_between(plan.usage, entry.usage if entry else Usage())
        nanodollars += abs(true_cost(plan) - (entry.cost if entry else 0))
        if entry is not None and (entry.settlement != "exact" or "above_hold" in entry.flags):
            findings.wrong(f"request {plan.number}: {entry.settlement} {entry.flags}")
    nanodollars += abs(comparison.charged - total) + abs(spent - total)
    findings.count("billing.complete_streams", len(comparison.record))
    findings.must_be_zero("billing.complete_token_difference", tokens)
    findings.must_be_zero("billing.complete_cost_difference_nanodollars", nanodollars)
    if comparison.doubled:
        findings.wrong(f"{comparison.doubled} rows too many")
    findings.note("billing.complete_charged_nanodollars", comparison.charged)
