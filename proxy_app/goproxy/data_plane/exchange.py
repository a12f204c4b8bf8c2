"""One paid exchange with the upstream: what was held for it, what was seen of the answer, and the row that follows.

It outlives the handler of its request: a client may leave, and the answer is still drained and always settled
(settler.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

from goproxy import timestamps
from goproxy.config import Model
from goproxy.core.ledger import Hold, Row, settle
from goproxy.core.meter import Meter
from goproxy.core.sse import EVENT_STREAM
from goproxy.core.terms import charged_terms
from goproxy.core.usage import Usage
from goproxy.core.usage_chunk import UsageChunkFilter
from goproxy.core.wire import WireProtocol
from goproxy.data_plane.decoding import Decoded, content_coding
from goproxy.data_plane.upstream_connection import Answer
from goproxy.observe import RequestRecord

_NOTE_EVERY = 1.0
"""Seconds between two notes in the journal of what a running answer has used. After a crash the last one is charged."""


class Notes(Protocol):
    """Where the usage so far of a running answer is noted."""

    def progress(self, id: str, usage: Usage, terms: str) -> None:  # noqa: A002 - the request's id, as in a row
        """Note it; nothing waits for that."""


class Exchange:
    """One request to the upstream, and what comes of it."""

    def __init__(
        self,
        hold: Hold,
        model: Model,
        protocol: WireProtocol,
        record: RequestRecord,
        notes: Notes,
        saw_gaps: Callable[[Sequence[float]], object],
        *,
        withhold_usage: bool,
    ) -> None:
        self.hold = hold
        self.record = record
        self.drained = False
        """The rest of the answer was read after the client had left."""
        self.is_whole = False
        """The answer has come to its end, as HTTP says."""
        self._model = model
        self._protocol = protocol
        self._notes = notes
        self._saw_gaps = saw_gaps
        self._withholds_usage = withhold_usage
        self._filter: UsageChunkFilter | None = None
        self._meter: Meter | None = None
        self._decoded: Decoded | None = None
        """Of an answer in a Content-Encoding."""
        self._noted: tuple[Usage, str] | None = None
        self._feed: Callable[[bytes], object]
        """Takes the pieces; there are none before the answer has begun."""
        self._note_at = 0.0
        self._moments: list[float] = []
        """When pieces came, from the last one on whose gap has been told."""

    def begin(self, answer: Answer) -> None:
        """The head of the answer is there."""
        is_stream = answer.content_type == EVENT_STREAM
        meter = self._meter = self._protocol.meter(stream=is_stream)
        coding = content_coding(answer.header("content-encoding"))
        if coding is not None:
            self._decoded = Decoded(meter, coding)
        self._feed = meter.feed if self._decoded is None else self._decoded.feed
        if is_stream and self._withholds_usage and coding is None:
            self._filter = UsageChunkFilter()

    def take(self, piece: bytes) -> bytes:
        """A piece of the answer's body; what of it goes to the client."""
        now = time.monotonic()
        self._moments.append(now)
        self._feed(piece)
        if now >= self._note_at and not self.is_whole:
            self._note_at = now + _NOTE_EVERY
            asyncio.get_running_loop().call_soon(self._note)  # an answer that comes at once is whole by then
        return piece if self._filter is None else self._filter.feed(piece)

    def end(self, last: bytes) -> bytes:
        """The answer is whole with this piece, which may be nothing; what of it and before it goes to the client."""
        self.is_whole = True
        rest = self.take(last) if last else b""
        return rest if self._filter is None else rest + self._filter.end()

    def row(self) -> Row:
        """The settlement, from what was seen by now. To be asked for once."""
        self._tell_gaps()
        meter = self._meter or self._protocol.meter(stream=False)
        if self.is_whole:
            meter.end()
        answered_bytes = (self._decoded or meter).bytes
        return settle(
            self.hold,
            reading=meter.reading(counts_exact=False),
            drained=self.drained,
            status=self.record.upstream_status,
            outcome=self.record.outcome,
            settled_at=timestamps.now(),
            received_bytes=self.record.bytes_out if answered_bytes else 0,
            answered_bytes=answered_bytes,
            versions=self._model.prices,
            multiplier=self._model.billing_multiplier,
            upstream_request_id=self.record.upstream_request_id,
        )

    def _note(self) -> None:
        self._tell_gaps()
        if self._meter is None or self.is_whole or (usage := self._meter.usage()) is None:
            return
        noted = usage, charged_terms(self.hold.terms, self._meter.terms())
        if noted != self._noted:
            self._noted = noted
            self._notes.progress(self.hold.id, *noted)

    def _tell_gaps(self) -> None:
        if len(self._moments) > 1:
            self._saw_gaps([later - former for former, later in pairwise(self._moments)])
            del self._moments[:-1]
