"""The path of the bytes of an answer: every piece goes to the client as it came, and waits until it is taken.

An end is only written where the upstream wrote one. An answer that breaks off breaks off at the client too; one that
stalls ends in the protocol's own error event, if it is an event stream, and then breaks off as well. Beside the path
stands a `Tap`, which sees every piece before the client gets it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

import aiohttp
from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11

from goproxy.core.headers import to_client
from goproxy.core.wire import Fault, WireProtocol
from goproxy.data_plane.exchange import EVENT_STREAM
from goproxy.data_plane.upstream import Patience
from goproxy.hosting import is_gone
from goproxy.observe import Outcome, RequestRecord

_LAST_PIECE = 5.0
"""Seconds for a client to take what was on its way when the answer broke off."""


class Tap(Protocol):
    """What sees an answer on its way."""

    def take(self, piece: bytes) -> bytes:
        """A piece came; what of it goes to the client."""

    def end(self) -> bytes:
        """The answer is whole; what still goes to the client."""


class Unmetered:
    """A tap that looks at nothing."""

    def take(self, piece: bytes) -> bytes:
        return piece

    def end(self) -> bytes:
        return b""


async def relay(
    request: web.Request,
    answer: aiohttp.ClientResponse,
    protocol: WireProtocol,
    patience: Patience,
    record: RequestRecord,
    own_headers: Mapping[str, str],
    tap: Tap,
) -> web.StreamResponse:
    """Pass `answer` on to the client of `request`; how that ended stands in the record afterwards."""
    response = web.StreamResponse(status=answer.status, headers=to_client(answer.headers.items()))
    response.headers.update(own_headers)
    is_event_stream = answer.content_type == EVENT_STREAM
    if is_event_stream:
        response.headers["X-Accel-Buffering"] = "no"  # nginx: pass each event on at once
        response.headers.pop("Content-Length", None)  # a tap may withhold a chunk
    record.status = answer.status
    path = _Path(request, response, patience, record, tap)
    ended = Outcome.INTERNAL_ERROR
    try:
        await response.prepare(request)
        ended = await path.run(answer)
        if ended is Outcome.OK:
            await response.write_eof()
            return response
    except ConnectionError:
        ended = Outcome.CLIENT_GONE
    except asyncio.CancelledError:
        ended = Outcome.CLIENT_GONE if is_gone(request) else Outcome.SHUTDOWN
        raise
    finally:
        if ended is not Outcome.OK:
            record.outcome = ended
            if is_event_stream and (reason := _reason(ended, patience, has_begun=record.bytes_out > 0)):
                await path.last_words(protocol.error_event(*reason, record.request_id))
            path.break_off()
    return response


def _reason(ended: Outcome, patience: Patience, *, has_begun: bool) -> tuple[Fault, str] | None:
    """What a client whose stream is cut by us is told."""
    timeouts = patience.timeouts
    match ended:
        case Outcome.UPSTREAM_STALLED:
            silence = timeouts.idle if has_begun else max(timeouts.idle, timeouts.first_byte)
            return Fault.UPSTREAM_TIMEOUT, f"The upstream sent nothing for {silence:g} s."
        case Outcome.UPSTREAM_TIMEOUT:
            return Fault.UPSTREAM_TIMEOUT, f"The answer took longer than {timeouts.total:g} s."
        case Outcome.SHUTDOWN:
            return Fault.UNAVAILABLE, "The gateway is being restarted. Try again."
        case _:
            return None


class _Path:
    """From one upstream connection to one client connection."""

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        patience: Patience,
        record: RequestRecord,
        tap: Tap,
    ) -> None:
        self._tap = tap
        self._request = request
        self._response = response
        self._patience = patience
        self._record = record
        self._last = b"\n"
        """The last byte that was written; a stream begins on a new line."""

    async def run(self, answer: aiohttp.ClientResponse) -> Outcome:
        """Pass on every piece of `answer`, to its end or to where it stops.

        Raises:
            ConnectionError: the client is gone.
        """
        while True:
            deadline = self._patience.for_piece(first=self._record.bytes_out == 0)
            try:
                async with asyncio.timeout_at(deadline):
                    piece = await answer.content.readany()
            except TimeoutError:
                is_over = self._patience.is_over()
                return Outcome.UPSTREAM_TIMEOUT if is_over else Outcome.UPSTREAM_STALLED
            except (aiohttp.ClientError, HttpProcessingError, OSError):
                # What arrived before the break waits in the reader, which refuses to give it out any more: the one
                # place where a private name of aiohttp is needed (tests/test_truncation.py holds it in place).
                rest = answer.content._read_nowait(-1)
                return await self._write(self._tap.take(rest)) or Outcome.UPSTREAM_TRUNCATED
            if not piece:
                return await self._write(self._tap.end()) or Outcome.OK
            if stopped := await self._write(self._tap.take(piece)):
                return stopped

    async def last_words(self, event: bytes) -> None:
        """Write an event into a stream that ends here, on a line of its own."""
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1):
                await self._response.write(event if self._last == b"\n" else b"\n" + event)

    def break_off(self) -> None:
        """Close the client's connection without the end that HTTP would want, so that nobody takes it for one."""
        transport = self._request.transport
        if transport is None:
            return
        if self._request.version < HttpVersion11:
            # In HTTP/1.0 a closed connection is how a whole answer ends. Only a reset can say that it is not.
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
            return
        transport.close()
        asyncio.get_running_loop().call_later(_LAST_PIECE, transport.abort)

    async def _write(self, piece: bytes) -> Outcome | None:
        if not piece:
            return None
        if not self._record.bytes_out:
            self._record.first_byte_ms = self._record.age_ms()
        try:
            async with asyncio.timeout_at(self._patience.for_client()):
                await self._response.write(piece)
        except TimeoutError:
            return Outcome.CLIENT_STALLED
        self._record.bytes_out += len(piece)
        self._last = piece[-1:]
        return None
