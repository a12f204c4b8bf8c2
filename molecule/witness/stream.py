"""A stream that is kept open and watched, while something is done that must not disturb it.

The provider sends a few words, then keep-alives at the stream's gap until the stream is told to finish.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise

import httpx2

from .provider import Provider, sent_by
from .user import User, body, marker

WORDS = 10
_LONGEST_GAP = 20
"""Seconds between two events, in a stream of which nothing was held back."""


@dataclass(frozen=True)
class Event:
    """One server-sent event, and when its last byte was there, by a clock that nobody sets."""

    at: float
    data: bytes


class OpenStream:
    """A message that is being streamed through the gateway, read by a thread of its own."""

    def __init__(self, user: User, provider: Provider, domain: str, gap: float = 0.1) -> None:
        """Open the stream; it is paced by the provider, `gap` seconds from event to event."""
        self.marker = marker()
        self.events: list[Event] = []
        self.received = b""
        self.status: int | None = None
        self.problem: Exception | None = None
        self._user, self._provider, self._domain = user, provider, domain
        provider.behave_towards(self.marker, events=WORDS, gap_ms=gap * 1000, hold=True)
        self._reader = threading.Thread(target=self._read, name=f"stream through {domain}", daemon=True)
        self._reader.start()

    def wait_for_events(self, number: int, timeout: float = 60) -> None:
        """Wait until so many events have come in all."""
        deadline = time.monotonic() + timeout
        while len(self.events) < number and self._reader.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.events) >= number, f"{len(self.events)} of {number} events came: {self._state()}"

    def wait_for_more(self) -> None:
        """Wait until further events have come: it still flows."""
        self.wait_for_events(len(self.events) + 3)

    def finish(self, timeout: float = 30) -> None:
        """Let the provider end the stream, and wait for the end."""
        self._provider.release(self.marker)
        self._reader.join(timeout)

    def longest_gap(self) -> float:
        """Give the longest time between two events, in seconds."""
        return max((later.at - earlier.at for earlier, later in pairwise(self.events)), default=0.0)

    def assert_complete(self) -> None:
        """End the stream, and assert that nothing of it was lost, changed, or late."""
        if self._reader.is_alive():
            self.finish()
        assert not self._reader.is_alive(), f"the stream did not end: {self._state()}"
        assert self.problem is None, f"the stream broke: {self._state()}"
        assert self.status == 200, self._state()
        assert b"message_stop" in self.events[-1].data, self._state()
        received = self._provider.received(self.marker)
        assert received["complete"], "the provider could not send all of its answer"
        assert self.received == sent_by(received)
        assert self.longest_gap() < _LONGEST_GAP, f"{self.longest_gap():.1f} s passed between two events"

    def _read(self) -> None:
        asked = body(self.marker, stream=True)
        try:
            with self._user.stream(self._domain, asked) as response:
                self.status = response.status_code
                for piece in response.iter_raw():
                    self._take(piece)
        except httpx2.HTTPError as problem:
            self.problem = problem

    def _take(self, piece: bytes) -> None:
        seen = self.received.count(b"\n\n")
        self.received += piece
        complete = self.received.split(b"\n\n")[:-1]
        self.events += [Event(time.monotonic(), data) for data in complete[seen:]]

    def _state(self) -> str:
        last = self.events[-1].data if self.events else b"nothing"
        return f"status {self.status}, {len(self.events)} events, last {last!r}, problem {self.problem!r}"
