"""Answers that do not reach their end: is every one of them in the ledger, once, and exact or flagged?

- The upstream breaks off at every byte of six recorded streams, and by a reset, a stall or an error event at every
  event of every shape of answer.
- The client is gone at every event of every shape, by a reset and in good order, at the upstream whose answers are
  drained then and at the one whose answers are broken off.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from billed.answers import SHAPES, Shape, final_after
from billed.ledger import Comparison, compare, true_cost
from billed.prices import MODEL_IDS, OHMYGPT, OPENHANDS
from billed.provider import Ending, Plan, TruthfulProvider, truthful_provider
from billed.report import Findings
from billed.rig import PATHS, Rig, a_rig
from tests.raw import RawClient

WHOLE_RUN = 20_000
_AT_ONCE = 96
_PATIENCE = 60
_TIMEOUTS = {"connect": 3, "first_byte": 3, "idle": 3, "total": 120}
_UPSTREAMS = (OPENHANDS, OHMYGPT)
_SHAPES = tuple(shape for shape in SHAPES if shape.is_cut)
_BY_UPSTREAM = (Ending.RESET, Ending.STALL, Ending.ERROR_EVENT)
_BY_CLIENT = (Ending.CLIENT_RESETS, Ending.CLIENT_CLOSES)
_RECORDED = {
    "anthropic": ("cache with its split", "cumulative in every message_delta", "thinking and a tool"),
    "openai": ("usage chunk", "Anthropic's cache within", "usage in every chunk"),
    "responses": ("a response",),
}


async def measure(directory: Path, count: int) -> Findings:
    """So many of them, spread evenly over the kinds."""
    findings = Findings()
    cases = list(itertools.islice(_all(), max(count, WHOLE_RUN)))
    plans = [_plan(at, cases[at]) for at in (number * len(cases) // count for number in range(count))]
    async with truthful_provider() as provider, a_rig(directory, provider.url, timeouts=_TIMEOUTS) as rig:
        provider.plans = {plan.number: plan for plan in plans}
        waiting = iter(plans)
        await asyncio.gather(*(_client(waiting, rig, findings) for _ in range(_AT_ONCE)))
        comparison = await compare(rig, provider)
        spent = (await rig.wallet())["spent"]
    if spent != comparison.charged:
        findings.wrong(f"the wallet has spent {spent}, and the rows say {comparison.charged}")
    if not_there := len(plans) - len(provider.record):
        findings.wrong(f"{not_there} requests did not reach the provider")
    _judge(comparison, provider, findings)
    findings.note("billing.interrupted_by", dict(Counter(plan.ending for plan in plans)))
    findings.note("billing.interrupted_settled", dict(comparison.settlements))
    return findings


class _Case(NamedTuple):
    shape: Shape
    upstream: str
    ending: Ending
    at: int
    is_recorded: bool = False
    """The same numbers as in all other cases of this shape that are."""


def _all() -> Iterator[_Case]:
    """Every byte of the recorded streams, and then every event of every shape again and again, with other numbers."""
    for shape in _SHAPES:
        if shape.name in _RECORDED[shape.protocol]:
            recorded = _plan(0, _Case(shape, OPENHANDS, Ending.TRUNCATED, 0, is_recorded=True))
            for at in range(len(b"".join(recorded.pieces))):
                yield _Case(shape, _UPSTREAMS[at % 2], Ending.TRUNCATED, at, is_recorded=True)
    events = {shape: len(_plan(0, _Case(shape, OPENHANDS, Ending.WHOLE, 0)).pieces) for shape in _SHAPES}
    for turn in itertools.count():
        for shape in _SHAPES:
            for ending, at in itertools.product(_BY_UPSTREAM, range(events[shape] + 1)):
                yield _Case(shape, _UPSTREAMS[turn % 2], ending, at)
            for ending, at, upstream in itertools.product(_BY_CLIENT, range(-1, events[shape] + 1), _UPSTREAMS):
                yield _Case(shape, upstream, ending, at)


def _plan(number: int, case: _Case) -> Plan:
    shape = case.shape
    chance = Random(f"interrupted {shape.protocol} {shape.name} {0 if case.is_recorded else number}")
    usage = shape.draw(chance)
    pieces = shape.word(usage, chance)
    return Plan(
        number,
        shape.protocol,
        chance.choice(MODEL_IDS),
        case.upstream,
        usage,
        pieces,
        asks_usage=shape.protocol == "openai" and chance.random() < 0.5,
        final_after=final_after(shape, pieces),
        ending=case.ending,
        at=case.at,
    )


async def _client(plans: Iterator[Plan], rig: Rig, findings: Findings) -> None:
    """Ask one after the other, each on a connection of its own."""
    for plan in plans:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.proxies[plan.upstream].port)
        raw = RawClient(reader, writer)
        try:
            async with asyncio.timeout(_PATIENCE):
                await raw.post(plan.body(), PATHS[plan.protocol])
                await (_leave(plan, raw) if plan.ending.is_by_client else _stay(plan, raw, findings))
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError) as error:
            findings.wrong(f"request {plan.number}, {plan.ending} at {plan.at}: the client saw {error!r}")
        finally:
            plan.client_left.set()
            writer.transport.abort()


async def _leave(plan: Plan, raw: RawClient) -> None:
    """Read up to where the client goes, and go."""
    await plan.arrived.wait()
    if plan.at >= 0:
        await raw.head()
        seen, left = b"", plan.visible(end=plan.at)
        while seen != left:
            seen += await raw.chunk()
            if not left.startswith(seen):
                raise ConnectionError("other bytes than were sent")
    if plan.ending is Ending.CLIENT_RESETS:
        connection: socket.socket = raw.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.writer.transport.abort()
    else:
        raw.writer.close()


async def _stay(plan: Plan, raw: RawClient, findings: Findings) -> None:
    """Read all that comes; an answer that was cut must not look like a whole one."""
    status, headers = await raw.head()
    if "content-length" in headers:
        await raw.reader.readexactly(int(headers["content-length"]))
        if status != 502:  # the upstream was gone before the first byte
            findings.wrong(f"request {plan.number}, {plan.ending} at {plan.at}: status {status}")
        return
    got, is_whole = b"", False
    try:
        while piece := await raw.chunk():
            got += piece
        is_whole = True
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    if is_whole != (plan.ending is Ending.ERROR_EVENT):
        findings.wrong(f"request {plan.number}, {plan.ending} at {plan.at}: whole is {is_whole}")
    if plan.ending is Ending.TRUNCATED and plan.asks_usage and got != plan.visible()[: plan.at]:
        findings.wrong(f"request {plan.number}: cut at {plan.at}, the client got {len(got)} bytes")


def _must_be_exact(plan: Plan) -> bool:
    """Whether the proxy has certainly seen the provider's last word on the usage."""
    match plan.ending:
        case Ending.TRUNCATED:
            return plan.at >= len(b"".join(plan.pieces[: plan.final_after]))
        case Ending.STALL | Ending.ERROR_EVENT:
            return plan.at >= plan.final_after
        case Ending.CLIENT_RESETS | Ending.CLIENT_CLOSES:
            # Where nothing is drained: certainly if the client has that word, or something that came after it.
            return plan.upstream == OPENHANDS or bool(plan.visible(plan.final_after - 1, max(plan.at, 0)))
    return False  # a reset takes with it what was not read by then


def _judge(comparison: Comparison, provider: TruthfulProvider, findings: Findings) -> None:
    unflagged = not_exact = 0
    for id_, entry in comparison.rows.items():
        plan = comparison.record[id_]
        if entry.claims_to_be_exact:
            is_true = (entry.usage, entry.cost) == (plan.usage, true_cost(plan))
            unflagged += not is_true
        elif _must_be_exact(plan):
            not_exact += 1
            findings.wrong(f"request {plan.number}, {plan.ending} at {plan.at}: {entry}")
    findings.count("billing.interrupted_streams", len(comparison.record))
    findings.must_be_zero("billing.interrupted_missing_rows", len(comparison.missing))
    findings.must_be_zero("billing.interrupted_doubled_rows", comparison.doubled + len(provider.repeated))
    findings.must_be_zero("billing.interrupted_inexact_unflagged", unflagged)
    findings.must_be_zero("billing.interrupted_seen_and_not_exact", not_exact)
