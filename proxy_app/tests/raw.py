"""A client that sees the bytes of HTTP itself, and so can tell a broken answer from a whole one."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from tests.gateway import ALICE


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(
        self,
        body: bytes | dict[str, Any],
        path: str = "/v1/messages",
        *headers: str,
        key: str = ALICE,
        version: str = "1.1",
    ) -> None:
        """Write a whole request."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = (
            f"POST {path} HTTP/{version}",
            "Host: chat.trollllm.xyz",
            f"x-api-key: {key}",
            f"Content-Length: {len(data)}",
            *headers,
        )
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read the status and the headers of an answer."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        return int(first.split()[1]), {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }

    async def answer(self) -> tuple[int, bytes]:
        """Read a whole answer that has a length."""
        status, headers = await self.head()
        return status, await self.reader.readexactly(int(headers["content-length"]))

    async def chunk(self) -> bytes:
        """Read one chunk; the last one is empty."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def chunks_until_broken(self) -> bytes:
        """Read chunks until the connection ends without a last one."""
        data = b""
        while True:
            try:
                chunk = await self.chunk()
            except (asyncio.IncompleteReadError, ConnectionError):
                return data
            assert chunk, "the answer ended as if it were whole"
            data += chunk

    def reset(self) -> None:
        """Vanish."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int, *, is_slow: bool = False) -> AsyncIterator[RawClient]:
    """A connection to a goproxy, for at most half a minute. `is_slow`: it takes little before it is read from."""
    with ExitStack() as stack:
        connection = stack.enter_context(socket.socket())
        if is_slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        stack.pop_all()
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096 if is_slow else 2**16)
    try:
        async with asyncio.timeout(30):
            yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
