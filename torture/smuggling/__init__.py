"""Request smuggling: one request in, at most one out, and nobody else's is touched.

The payloads go over HTTP/1 and HTTP/2 with TLS through the edge to the proxy, and to the proxy directly, whole and in
pieces. The provider keeps every byte that it gets. After each payload an honest client asks on a connection of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from torture.deployment import DOMAINS, Deployment, deployed
from torture.smuggling.corpus import BODY, Payload, payloads
from torture.smuggling.downgrade import Stream, streams
from torture.smuggling.record import Record, recording_provider
from torture.smuggling.sending import Way, asked, sent, sent_h2

_log = logging.getLogger("torture")
_AT_ONCE = 12
_SPARSEST = 100
"""At least one payload in so many is sent, however short the run."""

_SETTLE = 1.5
"""Seconds after the last payload, for what may still be on its way."""

_UPSTREAM = "openhands"
_HOST = DOMAINS[_UPSTREAM]
_OTHER = "/ohmygpt/"
_FAIRLY_REFUSED = {500 + number for number in (1, 5)}
"""A coding or a version that is not implemented."""

_T = TypeVar("_T")

_WHOLE, _HALVES, _DRIBBLE = "whole", "in two pieces", "byte by byte"


@dataclass
class Found:
    """What went wrong, by family, with the payload that did it."""

    extra: Counter[str] = field(default_factory=Counter)
    disturbed: Counter[str] = field(default_factory=Counter)
    server_errors: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    deliveries: int = 0

    def note(self, where: Counter[str], family: str, what: str) -> None:
        """Count it, and keep what shows it."""
        where[family] += 1
        self.examples.append(f"{family}: {what}")


class _Desk:
    """Hands out numbers, sends, and looks at what came up."""

    def __init__(self, deployment: Deployment, record: Record) -> None:
        self.found = Found()
        self._record = record
        self._key = deployment.key
        self._numbers: dict[int, tuple[str, str]] = {}
        """What each payload was: its family, and how it looked."""
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._canary: tuple[bytes, bytes] | None = None

    async def deliver(self, family: str, shown: bytes, way: Way, send: Callable[[int], Awaitable[list[int]]]) -> None:
        """Send one payload, then ask honestly on another connection."""
        async with self._free:
            number = len(self._numbers) + 1
            self._numbers[number] = (family, f"{shown[:300]!r}")
            self.found.deliveries += 1
            statuses = await send(number)
            odd = [status for status in statuses if status >= 500 and status not in _FAIRLY_REFUSED]
            if odd:
                self.found.note(self.found.server_errors, family, f"answered {odd}: {shown[:300]!r}")
            await self._ask_honestly(number, family, shown, way)

    async def _ask_honestly(self, number: int, family: str, shown: bytes, way: Way) -> None:
        target = f"/v1/messages?beta=canary-{number:012}"
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {_HOST}\r\nx-api-key: {self._key}\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        try:
            status, came = await asked(way, head.encode(), BODY)
        except (OSError, TimeoutError) as error:
            self.found.note(self.found.disturbed, family, f"the next request got {error!r}: {shown[:300]!r}")
            return
        whole = came.partition(b"\r\n\r\n")[2]
        upstream = [each for each in self._record.asked if target in each.target]
        alike = (re.sub(rb"canary-\d+", b"canary-", upstream[0].head), upstream[0].body) if upstream else None
        self._canary = self._canary or alike
        if status != 200 or b"msg_1" not in whole or len(upstream) != 1 or alike != self._canary:
            self.found.note(
                self.found.disturbed, family, f"the next request got {status}, {came[:200]!r}: {shown[:300]!r}"
            )

    def look(self) -> None:
        """Find every request at the provider that no payload was meant to be."""
        outer: Counter[int] = Counter()
        for each in self._record.asked:
            number = re.search(r"(outer|inner|canary)-(\d+)", each.target)
            family, shown = self._numbers.get(int(number[2]), ("?", "?")) if number else ("?", "?")
            if number and number[1] == "outer":
                outer[int(number[2])] += 1
                extra = outer[int(number[2])] > 1
            else:
                extra = not number or number[1] == "inner"
            if extra or each.target.startswith(_OTHER):
                self.found.note(self.found.extra, family, f"{each.head!r} came of {shown}")
        for bytes_ in self._record.not_requests:
            self.found.note(self.found.extra, "not a request", f"{bytes_[:300]!r}")


async def _deliver_all(desk: _Desk, deployment: Deployment, size: float) -> int:
    """Send the corpus by every way; how many payloads it has."""
    tls, direct = deployment.tls("http/1.1"), Way(deployment.proxy_ports[_UPSTREAM])
    edge = Way(deployment.edge_port, tls, _HOST)
    h2 = replace(edge, tls=deployment.tls("h2"))
    chosen, chosen_streams = _part(payloads(), size), _part(streams(), size)
    deliveries = []

    def h1(payload: Payload, way: Way, slicing: str) -> None:
        async def send(number: int) -> list[int]:
            return await sent(way, _sliced(payload.filled(number, deployment.key, _HOST), slicing))

        deliveries.append(desk.deliver(f"{payload.family}, {slicing}", payload.data, way, send))

    def over_h2(stream: Stream) -> None:
        async def send(number: int) -> list[int]:
            return await sent_h2(h2, _filled(stream, number, deployment.key))

        deliveries.append(desk.deliver(stream.family, repr(stream.headers[:12]).encode(), edge, send))

    for payload in chosen:
        for way in (edge, direct):
            h1(payload, way, _WHOLE)
            h1(payload, way, _HALVES)
        if len(payload.data) < 1500:
            h1(payload, direct, _DRIBBLE)
    for stream in chosen_streams:
        over_h2(stream)
    await asyncio.gather(*deliveries)
    await asyncio.sleep(_SETTLE)
    desk.look()
    return len(chosen) + len(chosen_streams)


def _part(all_of_them: list[_T], size: float) -> list[_T]:
    """A part of them in which each family has its share."""
    step = min(_SPARSEST, max(1, round(1 / size)))
    return all_of_them[::step]


def _sliced(data: bytes, slicing: str) -> list[bytes]:
    match slicing:
        case "whole":
            return [data]
        case "in two pieces":
            cut = data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data[:-4] else len(data) // 2
            return [data[:cut], data[cut:]]
        case _:
            return [data[at : at + 1] for at in range(len(data))]


def _filled(stream: Stream, number: int, key: str) -> Stream:
    def fill(data: bytes) -> bytes:
        return Payload("", data).filled(number, key, _HOST)

    return replace(
        stream,
        headers=tuple((fill(name), fill(value)) for name, value in stream.headers),
        data=tuple(map(fill, stream.data)),
        trailers=tuple((fill(name), fill(value)) for name, value in stream.trailers),
        more=tuple(map(fill, stream.more)),
    )


async def _measure(size: float, scratch: Path) -> tuple[int, Found]:
    async with recording_provider() as record:
        with deployed(scratch / "smuggling", record.url) as deployment:
            desk = _Desk(deployment, record)
            count = await _deliver_all(desk, deployment, size)
            for process in deployment.processes.values():
                if not process.is_alive:
                    desk.found.note(desk.found.server_errors, "crash", f"{process.name} has ended")
    for example in desk.found.examples:
        _log.warning("smuggling: %s", example)
    return count, desk.found


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Send the corpus, or a part of it."""
    count, found = asyncio.run(_measure(size, scratch))
    return {
        "smuggling.payloads": count,
        "smuggling.deliveries": found.deliveries,
        "smuggling.extra_requests": found.extra.total(),
        "smuggling.disturbed_neighbours": found.disturbed.total(),
        "smuggling.server_errors": found.server_errors.total(),
    }
