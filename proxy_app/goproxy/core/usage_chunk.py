"""Withholds from an OpenAI client the chunk that it did not ask for.

The proxy asks for `include_usage` when the client did not; the upstream then sends one chunk more, with usage and
`choices: []`, and there are clients that take `choices[0]` of every chunk. That chunk is left out of the bytes; every
other byte passes as it came. (`usage: null`, which the other chunks have from then on, is harmless and stays.)

Only an event that may still become that chunk is held back, and it is short: one with a choice in it, or of more than
MAX_HELD bytes, passes at once, and so does a comment.
"""

from __future__ import annotations

import json
import re

from goproxy.core.sse import EventReader

MAX_HELD = 64 * 1024
"""Bytes of an event; a usage chunk has a few hundred."""

_HAS_CHOICE = re.compile(rb'"choices"\s*+:\s*+\[\s*+[^\]]')
_REACH = 64
"""Bytes before a new piece in which a choice may have begun. Should it have begun earlier: it is seen at the end."""


class UsageChunkFilter:
    """The bytes of one OpenAI stream, without its usage chunk."""

    def __init__(self) -> None:
        self._held = bytearray()
        """The event that has begun, as it came."""
        self._looked_at = 0
        """Bytes of it in which no choice was found."""
        self._is_passing = False
        """What comes passes, up to the end of the event that has begun."""
        self._is_comment = False
        """A comment has begun where an event could; it passes, and begins no event."""
        self._is_in_line = False
        self._is_after_cr = False
        """The last byte was a CR; an LF right after it belongs to it."""
        self._was_dropped = False
        """And with that CR a usage chunk ended."""

    def feed(self, data: bytes) -> bytes:
        """What goes to the client now, of this piece and of what was held back."""
        if not data:
            return b""
        out = bytearray()
        if self._is_after_cr and data[:1] == b"\n":
            if not self._was_dropped:
                (self._held or out).extend(b"\n")
            data = data[1:]
        self._is_after_cr = data[-1:] == b"\r"
        for line in data.splitlines(keepends=True):  # of bytes: at LF, CR and CR LF
            self._take(line, out)
        if self._held and self._is_other():
            self._release(out)
            self._is_passing = True
        return bytes(out)

    def end(self) -> bytes:
        """What was held back and is no usage chunk."""
        held = bytes(self._held)
        self._held.clear()
        return b"" if _is_usage_chunk(held) else held

    def _take(self, line: bytes, out: bytearray) -> None:
        """Take a line, or what has come of it."""
        ends = line.endswith((b"\n", b"\r"))
        is_blank = not self._is_in_line and line in (b"\n", b"\r", b"\r\n")
        if line.startswith(b":") and not (self._is_in_line or self._held or self._is_passing):
            self._is_comment = True
        self._is_in_line = not ends
        self._was_dropped = False
        if self._is_passing or self._is_comment:
            out += line
            self._is_passing = self._is_passing and not is_blank
            self._is_comment = self._is_comment and not ends
        elif not is_blank:
            self._held += line
        elif self._is_other() or not _is_usage_chunk(bytes(self._held)):
            self._release(out)
            out += line
        else:
            self._held.clear()
            self._looked_at = 0
            self._was_dropped = True

    def _is_other(self) -> bool:
        """Whether what is held cannot become a usage chunk any more."""
        before = max(self._looked_at - _REACH, 0)
        self._looked_at = len(self._held)
        return len(self._held) > MAX_HELD or _HAS_CHOICE.search(self._held, before) is not None

    def _release(self, out: bytearray) -> None:
        out += self._held
        self._held.clear()
        self._looked_at = 0


def _is_usage_chunk(event: bytes) -> bool:
    if b'"usage"' not in event or _HAS_CHOICE.search(event):
        return False
    reader = EventReader()
    events = [*reader.feed(event), *reader.end()]
    try:
        chunk = json.loads(events[0].data) if len(events) == 1 else None
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(chunk, dict)
        and chunk.get("choices") == []
        and isinstance(chunk.get("usage"), dict)
        and not chunk.get("error")
    )
