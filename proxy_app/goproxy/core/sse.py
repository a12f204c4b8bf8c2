"""Server-sent events out of bytes in any slicing.

The rules are those of the WHATWG (html.spec.whatwg.org, "Parsing an event stream"): lines end with LF, CR LF or CR,
one byte order mark may come first, a line with a colon in front is a comment, `data` lines are joined by LF, an empty
line ends the event. Bytes stay bytes: what they mean is the reader's matter, so that broken UTF-8 breaks nothing here.

Memory is bounded by MAX_EVENT whatever comes: a line or an event that is longer is skipped to its end, and the event
is given out as one that is not whole, with the end of its line.
"""

from __future__ import annotations

import re
from typing import NamedTuple

EVENT_STREAM = "text/event-stream"
"""Their media type."""

MAX_EVENT = 1024 * 1024
"""Bytes of a line, and of the joined data lines of an event."""

TAIL = 64 * 1024
"""Bytes of the end of what is longer than may be kept: the providers tell usage there."""

_OF_READERS = (b"id", b"retry")

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_PLAIN = re.compile(rb"(?:event: ([^\n]*+)\n)?data: ([^\n]*+)\n\n")
_ALL_PLAIN = re.compile(rb"(?:(?:event: [^\n]*+\n)?data: [^\n]*+\n\n)*")


class Event(NamedTuple):
    """One event; `id` and `retry` say nothing to us."""

    name: bytes
    """The `event` field, empty if there was none."""

    data: bytes
    is_whole: bool = True
    """False: it was too long to be kept, and `data` is the end of the last line that was; nothing, if none was."""


def plain_events(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """Names and data of events that are written as nearly all are: one line of data, perhaps a name before it, and LF.

    None: there is something else in `data`, which only an `EventReader` can read.
    """
    return _PLAIN.findall(data) if _ALL_PLAIN.fullmatch(data) else None


class EventReader:
    """Reads one stream of events."""

    def __init__(self) -> None:
        self._mark: bytes | None = b""
        """What has come of a byte order mark; None when that is decided."""
        self._is_after_cr = False
        self._line = bytearray()
        """The line whose end has not come yet."""
        self._is_skipping = False
        """That line is too long, and what comes of it is dropped."""
        self._name = b""
        self._data: bytes | bytearray | None = None
        self._is_too_long = False
        self._tail = b""
        """The end of a line that was too long."""
        self.stray = bytearray()
        """Lines that are no part of an event and no comment, up to the one that makes more than TAIL bytes."""

    @property
    def is_between_events(self) -> bool:
        """Nothing of the next event has come."""
        return not (self._mark or self._is_after_cr or self._line or self._is_skipping) and (
            self._data is None and not self._name and not self._is_too_long
        )

    def begin(self, data: bytes) -> bool:
        """Whether the stream has begun, or begins with `data` and without a byte order mark."""
        if self._mark == b"" and data[:1] != BYTE_ORDER_MARK[:1]:
            self._mark = None
        return self._mark is None

    def feed(self, data: bytes) -> list[Event]:
        """The events that end in this piece."""
        if self._mark is not None:
            data = self._without_mark(data)
        if not data:
            return []
        if self._is_after_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        lines = data.split(b"\n")
        tail = lines.pop()
        events: list[Event] = []
        if lines:
            if self._line or self._is_skipping:
                self._keep(lines[0])
                lines[0] = self._kept()
            for line in lines:
                if not line:
                    self._dispatch(events)
                elif line.startswith(b"data: ") and self._data is None and len(line) <= MAX_EVENT:
                    self._data = line[6:]  # nearly every line is this one, or the name of an event
                elif line.startswith(b"event: ") and len(line) <= MAX_EVENT:
                    self._name = line[7:]
                else:
                    self._read(line)
        if tail:
            self._keep(tail)
        return events

    def end(self) -> list[Event]:
        """The event that the end of the body ends. A strict reader drops it; here what it says counts."""
        events: list[Event] = []
        if self._line or self._is_skipping:
            self._read(self._kept())
        self._dispatch(events)
        return events

    def _without_mark(self, data: bytes) -> bytes:
        assert self._mark is not None
        data = self._mark + data
        if len(data) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(data):
            self._mark = data
            return b""
        self._mark = None
        return data.removeprefix(BYTE_ORDER_MARK)

    def _with_line_feeds(self, data: bytes) -> bytes:
        """The piece with LF for every end of a line; the LF of a CR LF may have been left to this piece."""
        if self._is_after_cr and data[:1] == b"\n":
            data = data[1:]
        self._is_after_cr = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, part: bytes) -> None:
        """Add to the line that has not ended, unless it is too long already."""
        if self._is_skipping:
            if self._tail:
                self._tail = (self._tail + part)[-TAIL:]
            return
        self._line += part
        if len(self._line) > MAX_EVENT:
            self._is_skipping = True
            if not self._line.startswith(b":"):
                self._is_too_long, self._tail = True, bytes(self._line[-TAIL:])
            self._line.clear()

    def _kept(self) -> bytes:
        """The line that has ended now; one that was too long is as good as a comment."""
        line = b":" if self._is_skipping else bytes(self._line)
        self._is_skipping = False
        self._line.clear()
        return line

    def _read(self, line: bytes) -> None:
        """Take what a line says."""
        if line.startswith(b":"):
            return
        if len(line) > MAX_EVENT:
            self._is_too_long, self._tail = True, line[-TAIL:]
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._add(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        elif field not in _OF_READERS and len(self.stray) <= TAIL:
            self.stray += line[: TAIL + 1] + b"\n"

    def _add(self, value: bytes) -> None:
        if self._data is None:
            self._data = value
            return
        if len(self._data) + len(value) >= MAX_EVENT:
            self._is_too_long = True
        if self._is_too_long:
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data)
        self._data += b"\n" + value

    def _dispatch(self, events: list[Event]) -> None:
        if self._is_too_long:
            events.append(Event(self._name, self._tail, is_whole=False))
        elif self._data is not None:
            events.append(Event(self._name, bytes(self._data)))
        self._name, self._data, self._is_too_long, self._tail = b"", None, False, b""
