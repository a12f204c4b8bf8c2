"""The provider of the measurements: it answers as it is told, breaks off as it is told, and keeps its own record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from billed.answers import ERRORS, Pieces, is_usage_chunk
from goproxy.core.usage import Usage
from tests.provider import Provider, Received, Wire, running_provider


class Ending(StrEnum):
    """How an answer ends."""

    WHOLE = "whole"
    CLIENT_RESETS = "client_resets"  # the client is gone after `at` events; -1: before the status line
    CLIENT_CLOSES = "client_closes"  # the same, in good order
    TRUNCATED = "truncated"  # the connection is closed after `at` bytes
    RESET = "reset"  # the same with a reset, after `at` events
    STALL = "stall"  # silence after `at` events
    ERROR_EVENT = "error_event"  # an error event after `at` events, and a proper end

    @property
    def is_by_client(self) -> bool:
        """Whether it is the client that goes."""
        return self in (Ending.CLIENT_RESETS, Ending.CLIENT_CLOSES)


_END = 1_000_000
"""Beyond every answer."""


@dataclass
class Plan:
    """One request: what the provider shall answer, and how that ends."""

    number: int
    protocol: str
    model: str
    upstream: str
    usage: Usage
    """What the provider bills."""
    pieces: Pieces
    name: str = ""
    """What the client calls the model, if not by its id."""
    is_stream: bool = True
    asks_usage: bool = False
    """The client itself asks for the usage chunk."""
    final_after: int = 0
    """After so many events the provider's last word on the usage has been said."""
    ending: Ending = Ending.WHOLE
    at: int = _END
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    client_left: asyncio.Event = field(default_factory=asyncio.Event)

    def body(self) -> bytes:
        """The request's body. The image, which only the provider sees, makes the hold as large as the context."""
        url = "https://images.example.org/1.png"
        images: dict[str, dict[str, Any]] = {
            "anthropic": {"type": "image", "source": {"type": "url", "url": url}},
            "openai": {"type": "image_url", "image_url": {"url": url}},
            "responses": {"type": "input_image", "image_url": url},
        }
        is_response = self.protocol == "responses"
        content = [{"type": "input_text" if is_response else "text", "text": str(self.number)}, images[self.protocol]]
        asked: dict[str, Any] = {"model": self.name or self.model}
        asked["input" if is_response else "messages"] = [{"role": "user", "content": content}]
        asked |= {"stream": self.is_stream}
        if self.asks_usage:
            asked["stream_options"] = {"include_usage": True}
        return json.dumps(asked).encode()

    def visible(self, start: int = 0, end: int | None = None) -> bytes:
        """What of these events the client is to see."""
        return b"".join(piece for piece in self.pieces[start:end] if self.asks_usage or not is_usage_chunk(piece))


class TruthfulProvider:
    """Its record says which requests it had, and so what it bills."""

    def __init__(self, provider: Provider) -> None:
        self.url = provider.url
        self.plans: dict[int, Plan] = {}
        """By number, of the requests to come."""
        self.record: dict[str, Plan] = {}
        """By the id that it gave the request."""
        self.repeated: list[int] = []
        """Requests that came twice."""
        self._received = provider.received
        provider.script = self._answer

    async def _answer(self, request: Received, wire: Wire) -> None:
        self._received.clear()
        asked = json.loads(request.body)
        (message,) = asked.get("messages") or asked["input"]
        plan = self.plans[int(message["content"][0]["text"])]
        id_ = f"req_{plan.number:08}"
        if id_ in self.record:
            self.repeated.append(plan.number)
        self.record[id_] = plan
        plan.arrived.set()
        header = ("request-id" if plan.protocol == "anthropic" else "x-request-id", id_)
        if plan.at == -1:
            await plan.client_left.wait()
        if not plan.is_stream:
            await wire.whole(plan.pieces[0], 200, header)
            return
        wants_usage = asked.get("stream_options", {}).get("include_usage")
        pieces = [piece for piece in plan.pieces if wants_usage or not is_usage_chunk(piece)]
        await wire.begin_stream(header)
        if plan.ending is Ending.TRUNCATED:
            await _truncated(pieces, plan.at, wire)
            return
        for piece in pieces[: max(plan.at, 0)]:
            await wire.chunk(piece)
        match plan.ending:
            case Ending.RESET:
                wire.reset()
                return
            case Ending.STALL:
                await wire.until_closed()
                return
            case Ending.ERROR_EVENT:
                await wire.chunk(ERRORS[plan.protocol])
            case Ending.CLIENT_RESETS | Ending.CLIENT_CLOSES:
                await plan.client_left.wait()
                for piece in pieces[max(plan.at, 0) :]:
                    await wire.chunk(piece)
        await wire.end_stream()


async def _truncated(pieces: list[bytes], at: int, wire: Wire) -> None:
    """Send each event as a chunk, the last one in part, and close the connection."""
    for piece in pieces:
        if at < len(piece):
            if at:
                await wire.send(b"%x\r\n%b" % (len(piece), piece[:at]))
            break
        await wire.chunk(piece)
        at -= len(piece)
    wire.hang_up()


@asynccontextmanager
async def truthful_provider() -> AsyncIterator[TruthfulProvider]:
    """A provider on a port of its own."""
    async with running_provider() as provider:
        yield TruthfulProvider(provider)
