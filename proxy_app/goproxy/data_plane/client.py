"""The client's end of one request: the bytes of an answer, written below any framework.

Whoever accepted the request, the fast lane or aiohttp (see front.py), the answer is written here, so that there is one
way in which it can be framed. An answer that breaks off is closed without the end that HTTP would want, so that nobody
takes it for a whole one.
"""

from __future__ import annotations

import asyncio
import http
import socket
import struct
import time
from email.utils import formatdate
from typing import Protocol

from goproxy.core.headers import WITHOUT_BODY, Headers
from goproxy.data_plane.outbox import Outbox, waiting_on

_LAST_PIECE = 5.0
"""Seconds for a client to take what was on its way when the answer broke off."""

_NO_CONTENT = http.HTTPStatus.NO_CONTENT.value
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


class Watcher(Protocol):
    """Who writes to a client, and wants to know how fast that goes."""

    def client_is_full(self) -> None:
        """More waits for the client than it should: write no more."""

    def client_takes_more(self) -> None:
        """Go on."""


_LARGE = 16 * 1024
"""Bytes of a piece that goes out at once, so that it shows whether the client takes it."""


class Client:
    """Where one answer goes."""

    def __init__(self, transport: asyncio.Transport, outbox: Outbox, *, is_http_1_0: bool, keeps_alive: bool) -> None:
        self._transport = transport
        self._outbox = outbox
        self.loop = outbox.loop
        self._out: list[bytes] = []
        """What goes out at the end of this turn."""
        self._is_http_1_0 = is_http_1_0
        self.keeps_alive = keeps_alive and not is_http_1_0
        """The connection is used again after this answer."""
        self.has_begun = False
        """The status is on its way: there is no other answer any more."""
        self.is_full = False
        self.watcher: Watcher | None = None
        self._is_chunked = False

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        return self._transport.is_closing()

    @property
    def waiting(self) -> int:
        """Bytes that were written and that the client has not taken: what is here, and what the kernel has of it."""
        return waiting_on(self._transport) + sum(map(len, self._out))

    def begin(self, status: int, headers: Headers) -> None:
        """Write the head.

        A body without a length is chunked, or for HTTP/1.0 ended by the connection's end. Where there can be no body,
        there is no length (RFC 9110, 8.6).
        """
        if status == _NO_CONTENT:
            headers = [pair for pair in headers if pair[0].lower() != "content-length"]
        head = f"HTTP/1.1 {status} {_REASONS.get(status, '')}"
        for name, value in headers:
            head += f"\r\n{name}: {value}"
        told, has_body = head.lower(), status not in WITHOUT_BODY
        self._is_chunked = has_body and "\r\ncontent-length:" not in told and not self._is_http_1_0
        if self._is_chunked:
            head += "\r\nTransfer-Encoding: chunked"
        if has_body and "\r\ncontent-type:" not in told:
            head += "\r\nContent-Type: application/octet-stream"
        if "\r\ndate:" not in told:
            head += f"\r\nDate: {_Clock.date()}"
        if not self.keeps_alive:
            head += "\r\nConnection: close"
        self.has_begun = True
        self._put(f"{head}\r\nServer: goproxy\r\n\r\n".encode())

    def write(self, piece: bytes) -> None:
        """Write a piece of the body; it is on its way when this turn of the loop is over."""
        self._put(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)

    def write_last(self, piece: bytes) -> None:
        """Write the last piece of the body, which may be nothing, and its end, which costs no write of its own."""
        if not self._is_chunked:
            self._put(piece)
        elif piece:
            self._put(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece))
        else:
            self._put(b"0\r\n\r\n")

    def _put(self, part: bytes) -> None:
        if not self._out:
            self._outbox.add(self)
        self._out.append(part)
        if len(part) >= _LARGE:
            self.flush()

    def flush(self) -> None:
        """Send what has been written."""
        out = self._out
        if out:
            self._out = []
            if not self._transport.is_closing():
                self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole answer."""
        self.begin(status, [*headers, ("Content-Length", str(len(body)))])
        self.write_last(body)

    def break_off(self) -> None:
        """Close the connection in the middle of an answer."""
        self.keeps_alive = False
        self.flush()
        if self._is_http_1_0:
            # In HTTP/1.0 a closed connection is how a whole answer ends. Only a reset can say that it is not.
            connection = self._transport.get_extra_info("socket")
            if connection is not None and not self._transport.is_closing():
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            return
        self._transport.close()
        self.loop.call_later(_LAST_PIECE, self._transport.abort)

    # From the connection.

    def pause_writing(self) -> None:
        self.is_full = True
        if self.watcher is not None:
            self.watcher.client_is_full()

    def resume_writing(self) -> None:
        self.is_full = False
        if self.watcher is not None:
            self.watcher.client_takes_more()


class _Clock:
    """The date as HTTP writes it, made once a second."""

    _second = 0
    _date = ""

    @classmethod
    def date(cls) -> str:
        now = int(time.time())
        if now != cls._second:
            cls._second, cls._date = now, formatdate(now, usegmt=True)
        return cls._date
