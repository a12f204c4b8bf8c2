"""A provider that answers with exactly the bytes it is told to, when it is told to, and keeps what it was sent.

It speaks just enough HTTP/1.1 to read a request; the answer is written by the test, frame by frame if need be.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

ANTHROPIC_EVENTS = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"content":[],"model":"claude-opus-4-5-20251101","stop_reason":null,"stop_sequence":null,'
    b'"usage":{"input_tokens":9,"output_tokens":1}}}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n',
    b'event: ping\ndata: {"type":"ping"}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"Gr\xc3\xbc\xc3\x9fe "}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"\xf0\x9f\x8c\x8d"}}\n\n',
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":7}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)

OPENAI_EVENTS = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":"Hel"},"finish_reason":null}],"usage":null}\n\n',
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}],"usage":null}\n\n',
    b"data: [DONE]\n\n",
)

ANTHROPIC_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-5-20251101",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 7},
}

OPENAI_COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
}


@dataclass
class Received:
    """A request as it came in."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that must not stand there twice."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Wire:
    """The provider's end of one connection, while it answers one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.bytes_written = 0

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        if self._writer.is_closing():  # uvloop would call it a fault of ours
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()
        self.bytes_written += len(data)

    async def head(self, status: int = 200, *headers: tuple[str, str]) -> None:
        """Write a status line and headers."""
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers)]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def whole(
        self,
        body: bytes | dict[str, Any],
        status: int = 200,
        *headers: tuple[str, str],
        content_type: str = "application/json",
    ) -> None:
        """Write a whole answer with its length."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.head(status, ("Content-Type", content_type), ("Content-Length", str(len(data))), *headers)
        await self.send(data)

    async def begin_stream(self, *headers: tuple[str, str]) -> None:
        """Write the head of a chunked event stream."""
        await self.head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"), *headers)

    async def chunk(self, data: bytes) -> None:
        """Write one chunk."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        """Write the last chunk."""
        await self.send(b"0\r\n\r\n")

    async def stream(self, pieces: Iterable[bytes], pause: float = 0) -> None:
        """Write a whole event stream, in these pieces."""
        await self.begin_stream()
        for piece in pieces:
            await self.chunk(piece)
            await asyncio.sleep(pause)
        await self.end_stream()

    async def until_closed(self) -> None:
        """Wait until the other side closes the connection."""
        with suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def hang_up(self) -> None:
        """Close the connection, after what was written."""
        self._writer.close()

    def cut(self) -> None:
        """Close the connection without the farewell that TLS wants."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """Close the connection with a reset."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Received, Wire], Awaitable[None]]


async def say_hello(_: Received, wire: Wire) -> None:
    """The script that a provider has until it is given another."""
    await wire.whole(ANTHROPIC_MESSAGE)


@dataclass
class Provider:
    """A listening provider, its script, and the requests that it got."""

    port: int = 0
    scheme: str = "http"
    script: Script = say_hello
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    @property
    def last(self) -> Received:
        return self.received[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.open_connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                self.received.append(request)
                await self.script(request, Wire(reader, writer))
                if writer.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = int(next((value for name, value in headers if name.lower() == "content-length"), "0"))
    return Received(method, target, headers, await reader.readexactly(length))


@asynccontextmanager
async def running_provider(tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Provider]:
    """A provider on a port of its own."""
    provider = Provider(scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(provider.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=tls)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
