"""Puts payloads on the wire as they are, and waits until nothing more comes."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from torture.smuggling.downgrade import Header, Stream

_QUIET = 0.35
"""Seconds in which nothing comes: the answer was all, or there will be none before the other side's patience ends."""

_DEADLINE = 8.0
_PIECE = 48 * 1024
_STATUS = re.compile(rb"(?:^|\r\n\r\n|\}|\n)HTTP/1\.[01] (\d{3})")


@dataclass(frozen=True)
class Way:
    """Where to, and by what name."""

    port: int
    tls: ssl.SSLContext | None = None
    name: str = ""

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection."""
        if self.tls is None:
            return await asyncio.open_connection("127.0.0.1", self.port)
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname=self.name)


async def sent(way: Way, pieces: Sequence[bytes]) -> list[int]:
    """Send these pieces, each by itself; the statuses of the answers."""
    reader, writer = await way.open()
    came = b""
    try:
        async with asyncio.timeout(_DEADLINE):
            with suppress(OSError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    if len(pieces) > 1:
                        await asyncio.sleep(0.002)
            with suppress(OSError, TimeoutError):
                while data := await asyncio.wait_for(reader.read(65536), _QUIET):
                    came += data
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return [int(status) for status in _STATUS.findall(came)]


async def asked(way: Way, head: bytes, body: bytes) -> tuple[int, bytes]:
    """An honest request on a connection of its own: the status and the whole answer."""
    reader, writer = await way.open()
    try:
        async with asyncio.timeout(_DEADLINE):
            writer.write(head + body)
            await writer.drain()
            came = await reader.read(-1)
    finally:
        writer.transport.abort()
    found = _STATUS.match(came)
    return (int(found[1]) if found else 0), came


async def sent_h2(way: Way, stream: Stream) -> list[int]:
    """Send a stream as it is, valid or not; the statuses of the answers."""
    config = h2.config.H2Configuration(
        client_side=True,
        header_encoding=None,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        split_outbound_cookies=False,
        validate_inbound_headers=False,
    )
    connection = h2.connection.H2Connection(config)
    reader, writer = await way.open()
    statuses: list[int] = []
    try:
        async with asyncio.timeout(_DEADLINE):
            connection.initiate_connection()
            writer.write(connection.data_to_send())
            with suppress(OSError, h2.exceptions.ProtocolError):
                _write_stream(connection, writer, stream)
                await writer.drain()
            with suppress(OSError, TimeoutError, h2.exceptions.ProtocolError):
                while data := await asyncio.wait_for(reader.read(65536), _QUIET):
                    for event in connection.receive_data(data):
                        if isinstance(event, h2.events.ResponseReceived):
                            statuses.append(int(dict(event.headers or ())[b":status"]))
                    writer.write(connection.data_to_send())
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return statuses


def _write_stream(connection: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: Stream) -> None:
    """Frames of the library for what it writes, by hand what it would not."""
    pieces = [piece[at : at + 16_000] for piece in stream.data for at in range(0, len(piece) or 1, 16_000)]
    encoder = connection.encoder
    ends_at_once = not pieces and not stream.trailers
    writer.write(_headers(encoder.encode(_plain(stream.headers)), is_end=ends_at_once))
    for number, piece in enumerate(pieces):
        is_last = number == len(pieces) - 1 and not stream.trailers
        writer.write(_frame(0x0, 0x1 if is_last else 0x0, piece))
    if stream.trailers:
        writer.write(_headers(encoder.encode(_plain(stream.trailers)), is_end=True))
    for piece in stream.more:
        writer.write(_frame(0x0, 0x1, piece))
    # The library must know of the stream to read its answer.
    connection.send_headers(1, [(b":method", b"POST"), (b":path", b"/")], end_stream=True)
    connection.data_to_send()


def _plain(headers: Sequence[Header]) -> list[tuple[bytes, bytes, bool]]:
    """Never indexed: the library's own headers, which are not sent, must not disturb the table."""
    return [(name, value, True) for name, value in headers]


def _headers(block: bytes, *, is_end: bool) -> bytes:
    """A HEADERS frame, and CONTINUATION for what does not fit into it."""
    pieces = [block[at : at + 16_000] for at in range(0, len(block) or 1, 16_000)]
    written = b""
    for number, piece in enumerate(pieces):
        flags = (0x4 if number == len(pieces) - 1 else 0) | (0x1 if is_end and number == 0 else 0)
        written += _frame(0x9 if number else 0x1, flags, piece)
    return written


def _frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload
