"""One request's answer on its way out: every byte written is recorded, and it can be cut in the ways of a fault."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from aiohttp import web

from .record import Record


class Cut(Exception):
    """The answer was ended on purpose, in the middle."""


class Exchange:
    """A request, the record of it, and the response being written."""

    def __init__(self, request: web.Request, body: bytes, record: Record) -> None:
        """Begin with nothing written."""
        self.request = request
        self.body = body
        self.record = record
        self.released = asyncio.Event()  # a held or stalled answer goes on; set before it was held, it never is
        self.headers: dict[str, str] = {}
        self.response = web.StreamResponse()

    async def begin(self, status: int, content_type: str, length: int | None = None) -> None:
        """Send the status line and the headers."""
        self.response = web.StreamResponse(status=status, headers={"content-type": content_type, **self.headers})
        self.response.content_length = length
        self.record.status = status
        await self.response.prepare(self.request)
        self.record.first_byte = time.time()

    async def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        await self.response.write(data)
        self.record.sent += data

    async def send(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Send a whole answer."""
        await self.begin(status, content_type, len(body))
        await self.write(body)

    async def wait(self, gap: float | None = None, keep_alive: bytes = b"") -> None:
        """Wait until released, sending a keep-alive every `gap` seconds."""
        while not self.released.is_set():
            try:
                await asyncio.wait_for(self.released.wait(), gap and max(gap, 0.01))
            except TimeoutError:
                await self.write(keep_alive)

    def reset(self) -> NoReturn:
        """Drop the connection with a TCP RST."""
        if self.request.transport is not None:
            raw = self.request.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.transport.abort()
        raise Cut

    def hang_up(self) -> NoReturn:
        """Close the connection in good order, in the middle of the body."""
        if self.request.transport is not None:
            self.request.transport.close()
        raise Cut

    @asynccontextmanager
    async def recorded(self) -> AsyncIterator[None]:
        """Note how the answer ended."""
        try:
            yield
            await self.response.write_eof()
            self.record.complete = True
        except Cut:
            self.response.force_close()
        except (ConnectionResetError, asyncio.CancelledError):
            self.record.client_gone = True
            raise
        finally:
            self.record.ended = time.time()
