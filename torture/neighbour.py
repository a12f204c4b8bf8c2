"""The other upstream: clients that ask it one thing after the other, and whose every answer must be whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.provider import Provider, Received, Wire, running_provider
from tests.raw import RawClient
from tests.streams import anthropic_stream
from torture.client import a_client
from torture.stand import request_body

_NUMBER = 1000
_USAGE = {"input_tokens": 9, "output_tokens": 1}
_PIECES = anthropic_stream(_USAGE, {"output_tokens": 7})
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_ANSWER = _HEAD + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _PIECES) + b"0\r\n\r\n"
_WHOLE = b"".join(_PIECES)
COST = 16_000
"""Nano-dollars, of each request."""

_PATIENCE = 20.0


async def answer(_: Received, wire: Wire) -> None:
    """What its provider does."""
    await wire.send(_ANSWER)


@asynccontextmanager
async def a_good_provider() -> AsyncIterator[Provider]:
    """Its provider."""
    async with running_provider() as provider:
        provider.received = _Nothing()
        provider.script = answer
        yield provider


class _Nothing(list[Received]):
    """Forgets."""

    def append(self, _: Received) -> None:
        pass


@dataclass
class Neighbour:
    """The load on it."""

    port: int
    key: str
    pause: float = 0.0
    requests: int = 0
    errors: list[str] = field(default_factory=list)
    first_event_ms: list[float] = field(default_factory=list)
    is_over: bool = False

    async def ask_on(self) -> None:
        """One client, on one connection as long as that holds."""
        request = request_body(_NUMBER)
        while not self.is_over:
            try:
                async with a_client(self.port) as client:
                    while not self.is_over:
                        async with asyncio.timeout(_PATIENCE):
                            await self._ask(client, request)
                        await asyncio.sleep(self.pause)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                self.requests += 1
                self.errors.append(repr(error))
                await asyncio.sleep(0.05)

    async def _ask(self, client: RawClient, request: bytes) -> None:
        began = time.perf_counter()
        await client.post(request, key=self.key)
        status, headers = await client.head()
        body = b""
        if "content-length" in headers:
            body = await client.reader.readexactly(int(headers["content-length"]))
        else:
            while chunk := await client.chunk():
                if not body:
                    self.first_event_ms.append(1000 * (time.perf_counter() - began))
                body += chunk
        self.requests += 1
        if (status, body) != (200, _WHOLE):
            self.errors.append(f"{status} {body[:200]!r}")


@asynccontextmanager
async def under_load(port: int, key: str, clients: int, pause: float) -> AsyncIterator[Neighbour]:
    """Keep it busy for the length of the block."""
    neighbour = Neighbour(port, key, pause)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(neighbour.ask_on())
        try:
            yield neighbour
        finally:
            neighbour.is_over = True
