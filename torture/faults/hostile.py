"""A provider that answers each request as its kind of fault wants it, and whose record is the truth."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.provider import Provider, Received, Wire, running_provider
from torture.faults.kind import Answering, Turn, answer_all
from torture.stand import usage_of


class Hostile:
    """The provider of the tortured proxies."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.answers: dict[int, Answering] = {}
        """By number, of the requests to come."""
        self.otherwise: Answering = answer_all
        """How all others are answered."""
        self.record: dict[int, Turn] = {}
        self.repeated: list[int] = []
        """Requests that came twice."""
        self._wires: list[Wire] = []
        provider.script = self.answer

    @property
    def url(self) -> str:
        return self.provider.url

    whole = staticmethod(answer_all)

    async def answer(self, request: Received, wire: Wire) -> None:
        """Answer one request."""
        self.provider.received.clear()
        number = int(json.loads(request.body)["max_tokens"])
        self._wires.append(wire)
        turn = Turn(number, request, wire, usage_of(number))
        if number in self.record:
            self.repeated.append(number)
        self.record[number] = turn
        began = time.monotonic()
        try:
            await self.answers.pop(number, self.otherwise)(turn)
        except RuntimeError as error:  # uvloop's, for a write to a connection that the other side has closed
            raise ConnectionResetError from error
        finally:
            turn.ended_after = time.monotonic() - began

    def hang_up(self) -> None:
        """Close every connection that is kept for a next request, and forget what was."""
        for wire in self._wires:
            wire.hang_up()
        self._wires.clear()
        self.record.clear()


@asynccontextmanager
async def a_hostile_provider() -> AsyncIterator[Hostile]:
    """One on a port of its own."""
    async with running_provider() as provider:
        yield Hostile(provider)
