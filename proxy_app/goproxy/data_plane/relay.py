"""The path of the bytes of an answer: every piece goes to the client as it came, in the callback that brought it.

Nothing runs between two pieces, and no more is read while the client is slow. An end is only written where the
upstream wrote one. An answer that breaks off breaks off at the client too; one that stalls ends in the protocol's own
error event, if it is an event stream, and then breaks off as well. Beside the path stands a `Tap`, which sees every
piece before the client gets it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from goproxy.core.headers import Headers
from goproxy.core.outcome import Outcome
from goproxy.core.sse import EVENT_STREAM
from goproxy.core.wire import Fault, WireProtocol
from goproxy.data_plane.client import Client
from goproxy.data_plane.deadlines import Deadlines
from goproxy.data_plane.decoding import content_coding
from goproxy.data_plane.upstream_connection import Answer
from goproxy.observe import RequestRecord

RESTARTING = Fault.UNAVAILABLE, "The gateway is being restarted. Try again."
"""What clients are told when the process leaves."""

_TAIL = 256
"""Bytes of an event that comes in pieces, by which its end is told; names and ids are shorter."""

_BEGINNINGS = (b"event:", b"data:", b"id:", b":")
"""Of what is not the rest of a line of data."""

_LOOKS = 4
"""How often in `idle` it is looked at whether a client that is full took something."""


class Tap(Protocol):
    """What sees an answer on its way."""

    def take(self, piece: bytes) -> bytes:
        """A piece came; what of it goes to the client."""

    def end(self, last: bytes) -> bytes:
        """The answer is whole with this piece, which may be nothing; what still goes to the client."""


class Unmetered:
    """A tap that looks at nothing."""

    def take(self, piece: bytes) -> bytes:
        return piece

    def end(self, last: bytes) -> bytes:
        return last


async def relay(
    client: Client,
    answer: Answer,
    protocol: WireProtocol,
    deadlines: Deadlines,
    record: RequestRecord,
    own_headers: Headers,
    tap: Tap,
) -> None:
    """Pass `answer` on to the client; how that ended stands in the record afterwards."""
    is_event_stream = answer.content_type == EVENT_STREAM
    record.status = answer.status
    path: _Path | None = None
    ended = Outcome.INTERNAL_ERROR
    try:
        client.begin(answer.status, _headers(answer, own_headers, is_event_stream=is_event_stream))
        if answer.is_short and not client.is_full:
            _pass_at_once(answer.rest(), client, record, tap)
            ended = Outcome.OK
        else:
            path = _Path(client, answer, deadlines, record, tap)
            ended = await path.run()
    except asyncio.CancelledError:
        ended = Outcome.CLIENT_GONE if client.is_gone else Outcome.SHUTDOWN
        raise
    finally:
        if path is not None:
            path.stop()
        if ended is not Outcome.OK:
            record.outcome = ended
            if (
                path is not None
                and is_event_stream
                and (reason := _reason(ended, deadlines, has_begun=record.bytes_out > 0))
            ):
                path.last_words(protocol.error_event(*reason, record.request_id))
            client.break_off()


def _pass_at_once(body: bytes, client: Client, record: RequestRecord, tap: Tap) -> None:
    """Pass on a whole body that was here before anybody waited for it."""
    if rest := tap.end(body):
        record.first_byte_ms = record.age_ms()
        record.bytes_out += len(rest)
    client.write_last(rest)


_TOLD_BY_US = frozenset({"x-accel-buffering", "content-length"})
"""In a stream: nginx shall pass each event on at once, and there is no length, since a tap may withhold a chunk."""


def _headers(answer: Answer, own_headers: Headers, *, is_event_stream: bool) -> Headers:
    headers = answer.head.to_client
    if not is_event_stream:
        return headers + own_headers
    headers = [pair for pair in headers if pair[0].lower() not in _TOLD_BY_US]
    return [*headers, ("X-Accel-Buffering", "no"), *own_headers]


def _reason(ended: Outcome, deadlines: Deadlines, *, has_begun: bool) -> tuple[Fault, str] | None:
    """What a client whose stream is cut by us is told."""
    timeouts = deadlines.timeouts
    match ended:
        case Outcome.UPSTREAM_STALLED:
            silence = timeouts.idle if has_begun else max(timeouts.idle, timeouts.first_byte)
            return Fault.UPSTREAM_TIMEOUT, f"The upstream sent nothing for {silence:g} s."
        case Outcome.UPSTREAM_TIMEOUT | Outcome.CLIENT_STALLED if deadlines.is_over():
            return Fault.UPSTREAM_TIMEOUT, f"The answer took longer than {timeouts.total:g} s."
        case Outcome.SHUTDOWN:
            return RESTARTING
        case _:
            return None


def _parting(last: bytes) -> bytes:
    """What ends the line that was cut, and the event that was, if it has data: that of an error would be more of it.

    Without data it has at most a name, for which that of the error stands then; to clients that take an empty event for
    a broken one it is none. Nor is a line of data ended as an event that was cut itself: it would be a broken one.
    """
    text = last.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    _, is_after_blank, event = text.rpartition(b"\n\n")
    *lines, line = event.split(b"\n")
    has_beginning = is_after_blank or len(last) < _TAIL or event.startswith(_BEGINNINGS)
    has_data = len(lines) > 0 and (not has_beginning or any(each.startswith(b"data:") for each in lines))
    ends = (line != b"") + has_data
    is_after_cr = ends > 0 and last.endswith(b"\r")  # an LF belongs to it
    return b"\n" * (ends + is_after_cr)


class _Path:
    """From one upstream connection to one client connection."""

    def __init__(self, client: Client, answer: Answer, deadlines: Deadlines, record: RequestRecord, tap: Tap) -> None:
        self._client = client
        self._answer = answer
        self._deadlines = deadlines
        self._record = record
        self._tap = tap
        self._loop = client.loop
        self._over: asyncio.Future[Outcome] = self._loop.create_future()
        self._moved_at = self._loop.time()
        """When a piece came last, or the client took something of what was waiting for it."""
        self._waiting = 0
        """Bytes that the client had not taken when that was looked at last; it is looked at while it is full."""
        self._ended: Outcome | None = None
        """How the answer ended, whether the client has taken all of it or not."""
        self._timer: asyncio.TimerHandle | None = None
        self._last = b"\n\n"
        """What was written last: from the last blank line on, or the end of that. A stream begins like after one."""

    async def run(self) -> Outcome:
        """Pass on every piece of the answer, to its end or to where it stops."""
        self._client.watcher = self
        if self._client.is_full:  # of a long head
            self.client_is_full()
        self._answer.pass_to(self)
        if not self._over.done():
            self._watch()
        return await self._over

    def stop(self) -> None:
        """Pass on no more."""
        self._client.watcher = None
        if self._timer is not None:
            self._timer.cancel()
        self._answer.pass_to(None)

    def last_words(self, event: bytes) -> None:
        """Write an event into a stream that ends here, apart from the one that was cut; none after its own end, nor
        among what is packed."""
        is_coded = content_coding(self._answer.header("content-encoding")) is not None
        if self._ended is not Outcome.OK and not (is_coded or self._client.is_gone):
            self._client.write(_parting(self._last) + event)

    # From the upstream.

    def take(self, piece: bytes) -> None:
        self._moved_at = self._loop.time()
        piece = self._tap.take(piece)
        if piece and self._ended is None:  # to ask the future takes longer than all the rest
            self._note(piece)
            self._client.write(piece)

    def ended(self, last: bytes) -> None:
        rest = self._tap.end(last)
        if not self._over.done():
            if rest:
                self._note(rest)
            self._client.write_last(rest)
            self._end(Outcome.OK)

    def broke_off(self) -> None:
        self._end(Outcome.UPSTREAM_TRUNCATED)

    # From the client.

    def client_is_full(self) -> None:
        self._moved_at = self._loop.time()
        self._waiting = self._client.waiting
        self._answer.pause()
        self._watch()

    def client_takes_more(self) -> None:
        self._moved_at = self._loop.time()
        if self._ended is not None:
            self._finish(self._ended)
        else:
            self._answer.resume()

    def _note(self, piece: bytes) -> None:
        record = self._record
        if not record.bytes_out:
            record.first_byte_ms = record.age_ms()
        record.bytes_out += len(piece)
        last = self._last
        self._last = piece if last[-2:] == b"\n\n" else (last + piece)[-_TAIL:]

    def _end(self, outcome: Outcome) -> None:
        if self._client.is_full:
            self._ended = outcome
        else:
            self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        if self._over.done():
            return
        self._ended = self._ended or outcome
        self._over.set_result(outcome)

    def _watch(self) -> None:
        """Look at the clock when something must have moved by then. A piece moves the deadline, and not the timer: the
        first one also to an earlier time, so that the timer never runs for longer than `idle`.
        """
        if self._timer is not None:
            self._timer.cancel()
        idle = self._deadlines.timeouts.idle
        next_look = self._loop.time() + (idle / _LOOKS if self._client.is_full else idle)
        self._timer = self._loop.call_at(min(self._deadline(), next_look), self._look)

    def _look(self) -> None:
        if self._client.is_full and (waiting := self._client.waiting) < self._waiting:
            self._waiting, self._moved_at = waiting, self._loop.time()
        if self._loop.time() < self._deadline():
            self._watch()
        elif self._ended is not None and self._deadlines.is_over():
            self._client.keeps_alive = False  # it goes on taking it, and is given up as one that leaves is
            self._finish(self._ended)
        elif self._client.is_full:  # nobody knows what the upstream would have sent by now
            self._finish(Outcome.CLIENT_STALLED)
        else:
            self._finish(Outcome.UPSTREAM_TIMEOUT if self._deadlines.is_over() else Outcome.UPSTREAM_STALLED)

    def _deadline(self) -> float:
        if self._client.is_full:
            return self._deadlines.for_client(self._moved_at)
        return self._deadlines.for_piece(self._moved_at, first=self._record.bytes_out == 0)
