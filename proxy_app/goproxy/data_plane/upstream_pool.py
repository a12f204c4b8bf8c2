"""The connections to one upstream: kept warm between requests, made when there is none.

A connection is kept for less time than providers' load balancers keep it, and one that the upstream closes leaves the
pool at that moment: a request seldom meets a connection that is just being closed. (A POST that meets one is not
repeated: the upstream may have run it.)
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from copy import copy

import aiohappyeyeballs
from yarl import URL

from goproxy.data_plane.outbox import Outbox
from goproxy.data_plane.upstream_connection import UpstreamConnection

_KEPT_ALIVE = 15.0
"""Seconds that an idle connection is kept."""

_NAMES_KEPT = 10.0
"""Seconds that a resolved name is believed."""

_NAMES_REMEMBERED = 600.0
"""Seconds that it is believed while the name servers are away: a provider's addresses outlive most such failures."""

_PATIENCE = 1.0
"""Seconds for a name server, where the addresses of before are known."""

_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
"""What a name server says; any other failure is that it says nothing."""

_HAPPY_EYEBALLS = 0.25
"""Seconds before the next address is tried beside the last one (RFC 8305, 5)."""

_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
"""A request into a path that is dead is given up after 30 s without an acknowledgement: the kernel would go on for a
quarter of an hour, and who waits, for all of `first_byte`. A minute's silence of the other end is asked after."""

_Addresses = Sequence[aiohappyeyeballs.AddrInfoType]


class UpstreamPool:
    """Connections to one origin."""

    def __init__(self, origin: URL, tls: ssl.SSLContext) -> None:
        self._outbox = Outbox()
        self.loop = self._outbox.loop
        self._host = origin.host or ""
        self._port = origin.port or 0
        self._tls = tls if origin.scheme == "https" else None
        self._addresses: _Addresses = ()
        self._resolved_at = float("-inf")
        self._lookup: asyncio.Task[Exception | None] | None = None
        self._asked_at = 0.0
        """When the lookup that runs began."""
        self._idle: deque[UpstreamConnection] = deque()
        self._all: set[UpstreamConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None

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

    async def _resolve(self) -> _Addresses:
        now = time.monotonic()
        age = now - self._resolved_at
        if age <= _NAMES_KEPT:
            return self._addresses
        if self._lookup is None:
            self._lookup, self._asked_at = self.loop.create_task(self._look_up()), now
        lookup, is_known = self._lookup, age <= _NAMES_REMEMBERED
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
        except Exception as error:
            return error
        finally:
            self._lookup = None
        return None

    def _released(self, connection: UpstreamConnection) -> None:
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self.loop.call_later(_KEPT_ALIVE, self._close_idle)

    def _lost(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)

    def _close_idle(self) -> None:
        """Close what was idle for long; look again when the next will have been."""
        now = time.monotonic()
        while self._idle and (self._idle[0].idle_since + _KEPT_ALIVE <= now or not self._idle[0].is_usable):
            self._idle.popleft().abort()
        self._sweep = None
        if self._idle:
            pause = max(0.1, self._idle[0].idle_since + _KEPT_ALIVE - now)
            self._sweep = self.loop.call_later(pause, self._close_idle)


def _is_temporary(failure: Exception) -> bool:
    return isinstance(failure, OSError) and failure.errno not in _NO_SUCH_NAME


async def resolve(host: str, port: int) -> _Addresses:
    """The addresses of a name, in the system's order."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
