"""How much longer one exchange with the upstream may take. All points in time are on the event loop's clock."""

from __future__ import annotations

from collections.abc import Callable

from goproxy.config import Timeouts

_CLIENTS_PATIENCE = 3
"""Times `idle`. nginx takes 272 KiB of an answer (`proxy_buffer_size`) and then nothing more until its client has all
of them, which takes one that reads 1 KiB a second longer than `idle`. Who takes nothing at all is given up by nginx."""


def patience_with_client(timeouts: Timeouts) -> float:
    """Seconds in which a client may take nothing of what waits for it."""
    return _CLIENTS_PATIENCE * timeouts.idle


class Deadlines:
    """The limits of one exchange."""

    def __init__(self, timeouts: Timeouts, clock: Callable[[], float]) -> None:
        self.timeouts = timeouts
        self._now = clock
        now = clock()
        self._first_byte = now + timeouts.first_byte
        self._total = now + timeouts.total

    def for_connection(self) -> float:
        """Until when there must be a connection."""
        return min(self._now() + self.timeouts.connect, self._total)

    def for_answer(self) -> float:
        """The request is being sent: until when its answer must have begun."""
        self._first_byte = self._now() + self.timeouts.first_byte
        return min(self._first_byte, self._total)

    def for_piece(self, since: float, *, first: bool) -> float:
        """Until when the next piece of the answer must be there, when the last one came at `since`."""
        idle = since + self.timeouts.idle
        return min(max(idle, self._first_byte) if first else idle, self._total)

    def for_client(self, since: float) -> float:
        """Until when the client must have taken what waits for it since then."""
        return min(since + patience_with_client(self.timeouts), self._total)

    def is_over(self) -> bool:
        """Whether the exchange has had all the time that there is."""
        return self._now() >= self._total
