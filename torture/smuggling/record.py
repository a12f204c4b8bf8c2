"""The provider of the torture: it keeps every byte that it gets, and knows a request only by the strictest reading.

What is left over after a request is the next one, whatever it looks like: nothing that goes up is overlooked.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.provider import ANTHROPIC_MESSAGE, OPENAI_COMPLETION

_HEAD = re.compile(rb"POST /[!-~]+ HTTP/1\.1\r\n(?:[!-9;-~]+: ?[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)\r\n", re.IGNORECASE)
_UNCLEAR = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """One request, byte for byte."""

    head: bytes
    body: bytes

    @property
    def target(self) -> str:
        """Path and query."""
        return self.head.split(b" ", 2)[1].decode("latin-1")

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        lines = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip().decode("latin-1") for key, _, value in lines if key.decode("latin-1").lower() == name]


@dataclass
class Record:
    """What came up."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    not_requests: list[bytes] = field(default_factory=list)
    """What came on a connection and is no request that a gateway should send."""

    @property
    def url(self) -> str:
        """Of the provider."""
        return f"http://127.0.0.1:{self.port}"

    def targets(self, part: str) -> list[str]:
        """Of the requests whose target has this in it."""
        return [asked.target for asked in self.asked if part in asked.target]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await self._read(reader)) is not None:
                self.asked.append(asked)
                told = ANTHROPIC_MESSAGE if "/v1/messages" in asked.target else OPENAI_COMPLETION
                answer = json.dumps(told).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
                writer.write(head.encode() + answer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Asked | None:
        came = b""
        try:
            came = head = await reader.readuntil(b"\r\n\r\n")
            lengths = _LENGTH.findall(head)
            if not _HEAD.fullmatch(head) or len(lengths) != 1 or _UNCLEAR.search(head):
                raise asyncio.IncompleteReadError(b"", None)
            return Asked(head, await reader.readexactly(int(lengths[0])))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            if isinstance(error, asyncio.IncompleteReadError):
                came += error.partial
            if came:
                self.not_requests.append(came)
            return None


@asynccontextmanager
async def recording_provider() -> AsyncIterator[Record]:
    """On a port of its own."""
    record = Record()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(record._serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1024 * 1024)
    record.port = server.sockets[0].getsockname()[1]
    try:
        yield record
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
