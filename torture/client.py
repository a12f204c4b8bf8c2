"""What a client sees of an answer, byte by byte: so that a broken one can be told from a whole one."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from tests.raw import RawClient
from torture.stand import PATHS, request_body

_PATIENCE = 60.0


class End(StrEnum):
    """How an answer ended."""

    WHOLE = "whole"
    BROKEN = "broken"
    NONE = "none"  # not even a head came


@dataclass
class Seen:
    """An answer as a client saw it."""

    end: End = End.NONE
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.status}, {self.end}, {len(self.body)} bytes {self.body[:160]!r} after {self.seconds:.1f} s"


class Client(RawClient):
    """One connection."""

    async def ask(
        self, key: str, number: int, protocol: str = "anthropic", *headers: str, is_stream: bool = True
    ) -> None:
        """Write the request of this number."""
        await self.post(request_body(number, protocol, is_stream=is_stream), PATHS[protocol], *headers, key=key)

    async def seen(self, events: int | None = None) -> Seen:
        """Read the answer to where it ends; `events`: or until so many events of a stream have come."""
        seen, began = Seen(), time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE):
                seen.status, seen.headers = await self.head()
                seen.end = End.BROKEN
                if "content-length" in seen.headers:
                    await self._counted(seen, int(seen.headers["content-length"]))
                elif "transfer-encoding" in seen.headers:
                    await self._chunked(seen, events)
                else:
                    seen.end = End.WHOLE
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        seen.seconds = time.monotonic() - began
        return seen

    async def _chunked(self, seen: Seen, events: int | None) -> None:
        came, count = bytearray(), 0
        try:
            while events is None or count < events:
                chunk = await self.chunk()
                came += chunk
                count += chunk.count(b"\n\n")
                if not chunk:
                    seen.end = End.WHOLE
                    break
        finally:
            seen.body = bytes(came)

    async def _counted(self, seen: Seen, length: int) -> None:
        try:
            seen.body = await self.reader.readexactly(length)
        except asyncio.IncompleteReadError as cut:
            seen.body = cut.partial
        else:
            seen.end = End.WHOLE

    def vanish(self) -> None:
        """Close the connection with a reset."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def leave(self) -> None:
        """Close the connection in good order."""
        self.writer.close()


@asynccontextmanager
async def a_client(port: int, receives: int | None = None) -> AsyncIterator[Client]:
    """A connection to a goproxy; `receives`: the size of the receive buffer."""
    connection = socket.socket()
    connection.setblocking(False)
    if receives is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    try:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=receives or 2**20)
    except BaseException:
        connection.close()
        raise
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
