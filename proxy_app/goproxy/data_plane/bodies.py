"""The bodies of requests in memory: each until it is sent, and no more of them at once than there is room for.

A body is counted while it arrives, while it waits for its hold and for a connection, and while it is sent. Once the
connection to the upstream has all of it, nobody else has any of it: a stream may last for an hour. Nothing is sent a
second time (upstream_pool.py), so that nothing has to be kept for that.
"""

from __future__ import annotations

from goproxy.config import Config
from goproxy.core.wire import Fault, Refusal

_PART_OF_MEMORY = 4
"""Bodies may take one part in so many of the memory. To read one takes several times its size for a moment, and there
is everything else."""

_SMALL = 256 * 1024
"""Bytes of a body for which a quarter of the room is kept: a few large ones shall keep nobody else out."""

_RETRY_SECONDS = 2


def room_for_bodies(config: Config, memory: int) -> int:
    """Bytes for the bodies of one process, where all of them have `memory`. Two of the largest fit at least."""
    return max(memory // _PART_OF_MEMORY // config.processes, -(-2 * config.max_body_bytes * 4 // 3))


class Bodies:
    """All bodies of one process."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.bytes = 0
        """What they have together."""

    def check(self, more: int, size: int) -> None:
        """See that there is room for `more` bytes of a body that has `size` with them.

        Raises:
            Refusal: there is none now.
        """
        if self.bytes + more > (self.room if size <= _SMALL else self.room - self.room // 4):
            raise Refusal(
                Fault.UNAVAILABLE,
                f"The gateway has no room for this request's body now. Try again in {_RETRY_SECONDS} s.",
                headers={"retry-after": str(_RETRY_SECONDS)},
            )


class Body:
    """One body. However its request ends, it is counted no longer than anybody has it."""

    __slots__ = ("_bodies", "_counted", "data")

    def __init__(self, bodies: Bodies, data: bytes = b"") -> None:
        """`data`: what has come of it."""
        self.data = data
        self._bodies = bodies
        self._counted = 0
        self.grow(len(data))

    def grow(self, size: int) -> None:
        """So many bytes have come of it.

        Raises:
            Refusal: there is no room for them.
        """
        bodies, more = self._bodies, size - self._counted
        bodies.check(more, size)
        bodies.bytes += more
        self._counted = size

    def drop(self) -> None:
        """It is sent."""
        self.data = b""
        self._bodies.bytes -= self._counted
        self._counted = 0

    def __del__(self) -> None:
        self._bodies.bytes -= self._counted
