"""The connections to one upstream: kept warm between requests, made when there is none.

A connection is kept for less time than the upstream keeps it, and one that the upstream closes leaves the pool at that
moment: a request seldom meets a connection that is just being closed. (A POST that meets one is not repeated: the
upstream may have run it.)
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections import deque
from copy import copy
from functools import lru_cache

import aiohappyeyeballs
from yarl import URL

from goproxy.data_plane.name_lookup import Addresses, resolve
from goproxy.data_plane.outbox import Outbox
from goproxy.data_plane.upstream_connection import UNACKNOWLEDGED, UpstreamConnection

_KEPT_ALIVE = 15.0
"""Seconds that an idle connection is kept at most."""

_TOLD_BY_NONE = 5.0
"""Seconds after which an upstream closes it that does not tell: uvicorn (LiteLLM, vLLM) and Node are the quickest. To
take a slower one for such costs a handshake after a pause; the other way round it costs an answer."""

_ON_THE_WAY = 1.0
"""Seconds before that from which on nothing is sent: a request must arrive before the upstream closes."""

_NAMES_KEPT = 10.0
"""Seconds that a resolved name is believed."""

_NAMES_REMEMBERED = 600.0
"""Seconds that it is believed while the name servers are away: a provider's addresses outlive most such failures."""

_ASKED_AGAIN = 2.0
"""Seconds from a lookup that failed to the next one."""

_PATIENCE = 1.0
"""Seconds for a name server, where the addresses of before are known."""

_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
"""What a name server says; any other failure is that it says nothing."""

_HAPPY_EYEBALLS = 0.25
"""Seconds before the next address is tried beside the last one (RFC 8305, 5)."""

_TIMEOUT = re.compile(r"(?:^|[,; ])timeout *= *\"?(\d{1,9})", re.IGNORECASE | re.ASCII)

_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 12),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED),
)
"""The other end's silence is asked after, five times until the path is given up: Linux looks at the time alone then
(tcp(7), TCP_USER_TIMEOUT), so that with fewer questions one lost packet would cut a provider that thinks."""


class UpstreamPool:
    """Connections to one origin."""

    def __init__(self, origin: URL, tls: ssl.SSLContext) -> None:
        self._outbox = Outbox()
        self.loop = self._outbox.loop
        self._host = origin.host or ""
        self._port = origin.port or 0
        self._tls = tls if origin.scheme == "https" else None
        self._addresses: Addresses = ()
        self._resolved_at = float("-inf")
        self._lookup: asyncio.Task[Exception | None] | None = None
        self._asked_at = 0.0
        """When the lookup that runs began."""
        self._failure: Exception | None = None
        """What the last one failed with."""
        self._asks_at = float("-inf")
        """When there may be another one."""
        self._idle: deque[UpstreamConnection] = deque()
        self._all: set[UpstreamConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweeps_at = float("inf")

    def idle(self) -> UpstreamConnection | None:
        """A connection that can be used at once: the one that was used last."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            self._all.discard(connection)
        return None

    async def connect(self) -> UpstreamConnection:
        """A new one.

        Raises:
            OSError, ssl.SSLError: there is none to be had.
        """
        connected = await aiohappyeyeballs.start_connection(
            await self._resolve(), happy_eyeballs_delay=_HAPPY_EYEBALLS, interleave=1
        )
        try:
            for option in _SOCKET_OPTIONS:
                connected.setsockopt(*option)
            host = self._host.rstrip(".") if self._tls else None
            _, connection = await self.loop.create_connection(
                lambda: UpstreamConnection(self._outbox, self._released, self._lost),
                sock=connected,
                ssl=self._tls,
                server_hostname=host,
            )
        except BaseException:
            connected.close()
            raise
        self._all.add(connection)
        return connection

    def close(self) -> None:
        """Close all of them."""
        if self._sweep is not None:
            self._sweep.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
        for connection in self._all:
            connection.abort()

    async def _resolve(self) -> Addresses:
        now = time.monotonic()
        age = now - self._resolved_at
        if age <= _NAMES_KEPT:
            return self._addresses
        if self._lookup is None and now >= self._asks_at:
            self._lookup, self._asked_at = self.loop.create_task(self._look_up()), now
        lookup, is_known = self._lookup, age <= _NAMES_REMEMBERED
        if lookup is None:
            failure = self._failure
        else:
            # This ends no lookup: it is everybody's, and who waits for it may leave.
            await asyncio.wait([lookup], timeout=max(0, self._asked_at + _PATIENCE - now) if is_known else None)
            failure = lookup.result() if lookup.done() else None
        if failure is not None and not (is_known and _is_temporary(failure)):
            raise copy(failure) from None  # who raises an exception is remembered by it
        return self._addresses

    async def _look_up(self) -> Exception | None:
        """Ask for the addresses; what that failed with."""
        try:
            self._addresses = await resolve(self._host, self._port)
            self._resolved_at = time.monotonic()
            self._failure = None
        except Exception as error:
            self._failure = error.with_traceback(None)  # whose frames would keep this pool
            self._asks_at = time.monotonic() + _ASKED_AGAIN
        finally:
            self._lookup = None
        return self._failure

    def _released(self, connection: UpstreamConnection, keep_alive: str | None) -> None:
        seconds = _seconds_kept(keep_alive)
        if seconds <= 0:
            connection.abort()
            return
        connection.idle_until = until = time.monotonic() + seconds
        self._idle.append(connection)
        if until < self._sweeps_at:
            self._sweep_at(until)

    def _lost(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)

    def _close_idle(self) -> None:
        """Close what was idle for long; look again when the next will have been."""
        self._sweeps_at = float("inf")
        now = time.monotonic()
        idle, self._idle = self._idle, deque()
        for connection in idle:
            if connection.is_usable and connection.idle_until > now:
                self._idle.append(connection)
            else:
                connection.abort()
        if self._idle:
            self._sweep_at(max(now + 0.1, min(connection.idle_until for connection in self._idle)))

    def _sweep_at(self, moment: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweeps_at = moment
        self._sweep = self.loop.call_later(moment - time.monotonic(), self._close_idle)


@lru_cache(maxsize=16)  # an upstream says the same each time
def _seconds_kept(keep_alive: str | None) -> float:
    """For how long a connection may be used again; `keep_alive`: the header of the answer."""
    told = _TIMEOUT.search(keep_alive or "")
    return min(_KEPT_ALIVE, (float(told[1]) if told else _TOLD_BY_NONE) - _ON_THE_WAY)


def _is_temporary(failure: Exception) -> bool:
    return isinstance(failure, OSError) and failure.errno not in _NO_SUCH_NAME
