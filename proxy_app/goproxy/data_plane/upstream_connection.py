"""One connection to the upstream, on asyncio's protocols: a request goes out, an answer comes in piece by piece.

The parser is llhttp (httptools), which is strict about what ends a body; nothing here frames by itself but the one case
that llhttp cannot see, a body that the end of the connection ends (RFC 9112, 6.3). The pieces of a body are pushed to
whoever takes the answer, in the callback that read them: an event costs no task and no future.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from goproxy.core.headers import WITHOUT_BODY, AnswerHead
from goproxy.data_plane.bodies import Body
from goproxy.data_plane.outbox import Outbox, waiting_on
from goproxy.observe import exception_fields, log

HEAD_BYTES = 256 * 1024
"""Bytes of an answer's head, interim answers included. Some gateways put 30 KB of policy into one header."""

_HEADERS = 512
_INTERIM = 16
"""Headers of an answer, and interim answers (1xx) before it."""

_KEPT = 128 * 1024
"""Bytes of a body that wait for a taker before reading pauses."""

_PIECE = 64 * 1024
"""Bytes of a long body that are written at once: each piece waits until the upstream has taken most of those before."""

_LITTLE = 15 * 1024
"""Bytes of a body that go out with the others of a turn (client.py): nobody has to see whether they are taken."""

_WINDOW = 48 * 1024
"""Bytes that the upstream's kernel takes, with a head, whether the upstream reads or not: Linux begins with 64 KiB. A
body that is not longer is written at once."""

UNACKNOWLEDGED = 30_000
"""Milliseconds without an acknowledgement after which a path is dead: the kernel would go on for a quarter of an hour,
and who waits, for all of `first_byte`. An upstream that pauses in reading a long body looks the same to the kernel,
though it acknowledges: with such a body the patience is `first_byte`."""


class AnswerBroken(Exception):
    """There is no answer."""


class NoAnswer(AnswerBroken):
    """The connection was closed before one began."""


class InvalidAnswer(AnswerBroken):
    """What came is not HTTP."""


class Asker(Protocol):
    """Who has sent a request. Exactly one of these is called, unless the connection is told to give up before."""

    def came(self, answer: Answer) -> None:
        """The head of the answer is there. The answer is closed by who gets it."""

    def failed(self, error: Exception) -> None:
        """AnswerBroken: there is no answer. TimeoutError: its head was not there in time."""


class Taker(Protocol):
    """Who gets the body of an answer. Exactly one of `ended` and `broke_off` comes, and comes last."""

    def take(self, piece: bytes) -> None:
        """The next piece."""

    def ended(self, last: bytes) -> None:
        """The body is whole, as HTTP says; `last`: what has not been taken of it, often nothing."""

    def broke_off(self) -> None:
        """There will not be more of it."""


class Answer:
    """The head of an answer, and its body as it comes. Its owner closes it."""

    def __init__(self, connection: UpstreamConnection, status: int, head: AnswerHead) -> None:
        self.status = status
        self.head = head
        self.content_type = head.first.get("content-type", "").partition(";")[0].strip().lower()
        """The media type in small letters, without parameters; empty if none was told."""
        self._connection = connection
        self._taker: Taker | None = None
        self.take: Callable[[bytes], object] = self._keep
        """Takes the next piece: the taker's own method while there is a taker, so that an event costs no call more."""
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._is_paused = False
        self._is_over = False
        self.is_whole = False
        """The body has come to its end, as HTTP says."""

    @property
    def ok(self) -> bool:
        """Whether the upstream did what it was asked for."""
        return self.status < 400

    @property
    def is_framed(self) -> bool:
        """Whether the body's end is told by its length or by its last chunk (RFC 9112, 6.3).

        Raises:
            InvalidAnswer: the body has another coding, which we have not asked for: nobody behind us would undo it.
        """
        if not self.head.codings:
            return "content-length" in self.head.first
        coding = ",".join(self.head.codings)
        if coding.rstrip(" ").lower() != "chunked":  # a tab behind it llhttp takes for another coding
            raise InvalidAnswer
        return True

    def header(self, name: str) -> str | None:
        """The first value of a header; `name` in small letters."""
        return self.head.first.get(name)

    @property
    def is_short(self) -> bool:
        """Whether all of it is here, and that is little."""
        return self.is_whole and self._kept_bytes < _LITTLE

    def rest(self) -> bytes:
        """What has come and was not taken yet, to be taken now."""
        kept, self._kept, self._kept_bytes = b"".join(self._kept), [], 0
        return kept

    def pass_to(self, taker: Taker | None) -> None:
        """Give what has come and what comes to this taker; None: keep it, within a bound."""
        self._give_to(taker)
        if taker is None:
            return
        kept = self.rest()
        if self.is_whole:
            self._give_to(None)
            taker.ended(kept)
            return
        if kept:
            taker.take(kept)
        if self._taker is not taker:  # it went away over that
            return
        if self._is_over:
            self._give_to(None)
            taker.broke_off()
        elif not self._is_paused:
            self._connection.resume()

    def pause(self) -> None:
        """Read no more for now; the upstream waits. Of an answer that is over the connection is another request's."""
        if not self._is_over:
            self._is_paused = True
            self._connection.pause()

    def resume(self) -> None:
        """Go on reading."""
        if not self._is_over:
            self._is_paused = False
            self._connection.resume()

    def close(self) -> None:
        """Nobody wants more of it. A connection that is not at its end cannot be used again."""
        was_over, self._is_over = self._is_over, True
        self._give_to(None)
        if not was_over:
            self._connection.abort()

    # From the connection.

    def on_end(self, last: bytes, *, is_whole: bool) -> None:
        """`last`: of a body that is whole, the rest of it."""
        if self._is_over:
            return
        self._is_over, self.is_whole = True, is_whole
        taker = self._taker
        self._give_to(None)
        if taker is None:
            self._kept.append(last)
            self._kept_bytes += len(last)
        elif is_whole:
            taker.ended(last)
        else:
            taker.broke_off()

    def _give_to(self, taker: Taker | None) -> None:
        self._taker = taker
        if taker is not None:
            self.take = taker.take
        else:
            self.take = _drop if self._is_over else self._keep

    def _keep(self, piece: bytes) -> None:
        """Nobody takes it yet."""
        self._kept.append(piece)
        self._kept_bytes += len(piece)
        if self._kept_bytes > _KEPT:
            self._connection.pause()


def _drop(piece: bytes) -> None:
    """Nobody takes it any more."""


class UpstreamConnection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(
        self,
        outbox: Outbox,
        released: Callable[[UpstreamConnection, str | None], None],
        lost: Callable[[UpstreamConnection], None],
    ) -> None:
        """`released`: it can be used again; with what the upstream says of that (Keep-Alive). `lost`: it is closed."""
        self._outbox = outbox
        self._loop = outbox.loop
        self._out = b""
        """What goes out at the end of this turn."""
        self._released = released
        self._lost = lost
        self._transport: asyncio.Transport
        self._limit_reading: Callable[..., object] | None = None
        """Of what TLS reads ahead."""
        self._parser: httptools.HttpResponseParser | None = None
        self._asker: Asker | None = None
        """Who waits for the head of an answer."""
        self._answer: Answer | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        """Of the head that is being read."""
        self._head_bytes = 0
        self._idle_bytes = 0
        """That have come since the last piece of a body: of a trailer, or of what stands beside a chunk's length."""
        self._interim = 0
        self._is_interim = False
        self._pieces: list[bytes] = []
        """Of the body, from the bytes that are being parsed: chunks that came together are passed on together."""
        self.on_body = self._pieces.append
        """llhttp's callback: a method of the list's own costs a chunk the least."""
        self._is_ended_by_close = False
        self._is_done = False
        self._is_written = True
        self._is_watched = True
        """The kernel gives the path up when nothing is acknowledged."""
        self._is_lost = False
        self._is_paused = False
        self._room: asyncio.Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = math.inf
        """When the head of the answer must be there. The timer may be early: an answer leaves it alone."""
        self._looks_at = math.inf
        self.idle_until = 0.0
        """Until when it is kept, on time.monotonic's clock."""

    @property
    def tls_version(self) -> str | None:
        """Such as TLSv1.3; None: there is no TLS."""
        session = self._transport.get_extra_info("ssl_object")
        return session.version() if session else None

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent."""
        is_gone = self._is_lost or self._is_done or self._transport.is_closing()
        return not is_gone and self._answer is None

    def send(self, head: bytes, body: Body, until: float, asker: Asker) -> None:
        """Send a request, and tell its asker what comes of it. The body is dropped once it is sent, or will not be.

        `until`: when the head of the answer must be there, on the loop's clock.
        """
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = self._idle_bytes = self._interim = 0
        self._is_ended_by_close = False
        self._asker = asker
        self._until = until
        if self._timer is None or until < self._looks_at:
            self._set_timer()
        size = len(body.data)
        if self._is_watched is not (size <= _WINDOW):
            self._watch_path(not self._is_watched)
        if size <= _WINDOW:
            self._out = head + body.data
            body.drop()
            self._outbox.add(self)
        else:
            self._is_written = False
            self._transport.write(head)
            self._writing = asyncio.create_task(self._write(body))

    def give_up(self) -> None:
        """The asker wants no answer any more."""
        self._asker = None
        self._stop_timer()
        self.abort()

    def flush(self) -> None:
        """Send the request, unless it was given up by now."""
        out, self._out = self._out, b""
        if not self._transport.is_closing():
            self._transport.write(out)

    def pause(self) -> None:
        if not self._is_paused and not self._is_lost:
            self._is_paused = True
            self._transport.pause_reading()
            # Over TLS that halts the decryption alone: the socket would be read on, to its end, and with that uvloop
            # forgets what is not decrypted yet.
            if self._limit_reading is not None and not self._transport.is_closing():
                self._limit_reading(1, 0)

    def resume(self) -> None:
        if self._is_paused and not self._is_lost:
            self._is_paused = False
            self._transport.resume_reading()
            # uvloop decrypts what waits in the loop's next turn. Read on before that, the end of the socket would come
            # first, and what waits be forgotten.
            if self._limit_reading is not None:
                self._loop.call_soon(self._read_ahead, self._limit_reading)

    def _read_ahead(self, limit_reading: Callable[..., object]) -> None:
        """Over TLS: read the socket on, else half a record would wait for its other half for ever."""
        if not (self._is_paused or self._is_lost or self._transport.is_closing()):
            limit_reading()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._limit_reading = getattr(transport, "set_read_buffer_limits", None)
        self._transport.set_write_buffer_limits(_PIECE)  # over TLS it would be 512 KiB, which nobody counts

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:  # nothing was asked for
            self.abort()
            return
        waits_for_head = self._asker is not None
        if waits_for_head:
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
            if self._answer is not None:
                if self._pieces:
                    self._idle_bytes = 0
                    take = self._answer.take  # CPython 3.11 looks for a method each time where this is called in one
                    take(self._parsed())
                elif not waits_for_head:
                    self._idle_bytes += len(data)
        except httptools.HttpParserUpgrade:
            self._fail()
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, InvalidAnswer):  # a fault of ours
                log("reading an answer failed", level=logging.ERROR, **exception_fields(error.__context__ or error))
            self._fail()
        except httptools.HttpParserError:
            self._fail()
        if self._idle_bytes > HEAD_BYTES or (self._asker is not None and self._head_bytes > HEAD_BYTES):
            self._fail()

    def eof_received(self) -> None:
        """The upstream has said that it is done; over TLS by its farewell, which nobody on the way can forge."""
        self._is_done = True

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self._stop_timer()
        self._lost(self)
        self.resume_writing()
        if self._answer is not None:
            is_whole = self._is_ended_by_close and self._is_done and error is None
            answer, self._answer = self._answer, None
            self._parser = None
            answer.on_end(b"", is_whole=is_whole)
        else:
            self._refuse(NoAnswer)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # llhttp's callbacks.

    def on_message_begin(self) -> None:
        if self._asker is None:
            raise InvalidAnswer

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes with the answer is a trailer, for which nobody waits.
        if self._answer is None and len(self._fields) <= _HEADERS:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        fields, self._fields = self._fields, []
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim:
            self._interim += 1
            if status == 101 or self._interim > _INTERIM:
                raise InvalidAnswer
            return
        asker = self._asker
        if asker is None or len(fields) > _HEADERS:
            raise InvalidAnswer
        if self._head_bytes > HEAD_BYTES and sum(len(name) + len(value) for name, value in fields) > HEAD_BYTES:
            raise InvalidAnswer
        answer = self._answer = Answer(self, status, AnswerHead(fields))
        self._is_ended_by_close = not answer.is_framed and status not in WITHOUT_BODY
        self._asker = None
        self._until = math.inf
        asker.came(answer)

    def on_message_complete(self) -> None:
        if self._is_interim or self._answer is None:
            return
        assert self._parser is not None
        last = self._parsed()
        keeps = self._parser.should_keep_alive() and self._is_taken() and not self._is_lost
        answer, self._answer = self._answer, None
        self._parser = None
        if keeps and not self._transport.is_closing():
            self.resume()
            self._released(self, answer.header("keep-alive"))
        else:
            self.abort()
        answer.on_end(last, is_whole=True)

    # The rest.

    def _is_taken(self) -> bool:
        """Whether the upstream has all of the request: behind a body that it did not want the next one would wait.

        A short one is in its kernel in any case.
        """
        return self._is_written and (self._is_watched or not waiting_on(self._transport))

    def _parsed(self) -> bytes:
        """What was parsed of the body."""
        pieces = self._pieces
        if len(pieces) == 1:
            return pieces.pop()
        piece = b"".join(pieces)
        pieces.clear()
        return piece

    async def _write(self, body: Body) -> None:
        """A long body, as fast as the upstream takes it; an upstream that has answered need not take the rest."""
        try:
            for at in range(0, len(body.data), _PIECE):
                await self._have_room()
                if self._transport.is_closing() or self._parser is None:
                    return
                self._transport.write(body.data[at : at + _PIECE])
            await self._have_room()
            self._is_written = True
        finally:
            body.drop()

    async def _have_room(self) -> None:
        """Until the upstream has taken most of what was written, or is gone."""
        while self._room is not None and not self._transport.is_closing():
            await self._room

    def _watch_path(self, is_watched: bool) -> None:
        self._is_watched = is_watched
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED if is_watched else 0)

    def _look(self) -> None:
        """Look at the clock."""
        self._timer = None
        if self._until == math.inf:
            return
        if self._loop.time() < self._until:
            self._set_timer()
        else:
            self._refuse(TimeoutError)

    def _set_timer(self) -> None:
        self._stop_timer()
        self._looks_at = self._until
        self._timer = self._loop.call_at(self._until, self._look)

    def _fail(self) -> None:
        """The bytes make no sense: what came before them counts, and the connection is no more to be used."""
        if self._answer is not None:
            if self._pieces:
                self._answer.take(self._parsed())
            answer, self._answer = self._answer, None
            self._parser = None
            answer.on_end(b"", is_whole=False)
        self._refuse(InvalidAnswer)
        self.abort()

    def _refuse(self, error: type[Exception]) -> None:
        self._stop_timer()
        asker, self._asker = self._asker, None
        if asker is not None:
            self.abort()
            asker.failed(error())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
