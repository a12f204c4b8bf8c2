"""Accepts connections from a socket on which several processes listen, so that each has its share of them.

Whoever wakes first would take all that wait, and keep them for as long as they live. So a process that has more
connections than another one lets that one go first, for a moment only: is it busy or stuck, nobody waits for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from goproxy.data_plane.front import Front
from goproxy.data_plane.scoreboard import Place
from goproxy.listening import BACKLOG

_POLITE = 0.002
"""Seconds that a process with more connections leaves to the others."""

_REST = 0.1
"""Seconds until it is tried again to accept, after it failed: there may be no descriptor left."""

_PASSING = (BlockingIOError, InterruptedError, ConnectionAbortedError)


class Acceptor:
    """Accepts for one process; it has the `close` of a server."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        place: Place,
        open_connections: Callable[[], int],
    ) -> None:
        self._listener = listener
        self._make = make
        self._place = place
        self._open = open_connections
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._coming: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._look_out()

    def close(self) -> None:
        """Accept what waits already, and nothing more."""
        if self._listener.fileno() >= 0:
            while self._accept():
                pass
            self._loop.remove_reader(self._listener)
            self._listener.close()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_out(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._somebody_waits)

    def _somebody_waits(self) -> None:
        self._place.connections = self._open() + len(self._coming)
        if self._place.has_more_connections:
            self._loop.remove_reader(self._listener)
            self._timer = self._loop.call_later(_POLITE, self._be_polite_no_more)
        else:
            self._accept()

    def _be_polite_no_more(self) -> None:
        self._timer = None
        self._accept()
        if self._timer is None:  # else it failed, and rests
            self._look_out()

    def _accept(self) -> bool:
        try:
            connection, _ = self._listener.accept()
        except _PASSING:
            return False
        except OSError:
            self._loop.remove_reader(self._listener)
            self._stop_timer()
            self._timer = self._loop.call_later(_REST, self._look_out)
            return False
        connection.setblocking(False)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task: asyncio.Task[object] = self._loop.create_task(self._loop.connect_accepted_socket(self._make, connection))
        self._coming.add(task)
        self._place.connections = self._open() + len(self._coming)
        task.add_done_callback(self._come)
        return True

    def _come(self, task: asyncio.Task[object]) -> None:
        self._coming.discard(task)
        if not task.cancelled():
            task.exception()  # it has left again


def acceptor_of(place: Place) -> Callable[[socket.socket, Front], Acceptor]:
    """What accepts for the process of a place."""
    return lambda listener, front: Acceptor(listener, front, place, lambda: len(front.connections))
