"""The connections of clients. A plain request takes the fast lane; every other one is aiohttp's.

The fast lane is a look at the bytes (known_heads.py, plain_request.py) and a task. Nothing of a request has been acted
upon before it is known to be plain and whole, so that up to there the connection can still be given to aiohttp with
every byte that came, for good. In both lanes the same code serves the request and writes the answer (request.py,
client.py); a differential test holds them together.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, cast

from aiohttp import web

from goproxy.data_plane.client import Client
from goproxy.data_plane.known_heads import KnownHeads
from goproxy.data_plane.outbox import Outbox, waiting_on
from goproxy.data_plane.request_head import RequestHead
from goproxy.hosting import IDLE, Stay

_SLOW = 1.0
"""Seconds for a request to arrive whole; a slower one is aiohttp's."""

_HEARD = 3.0
"""Seconds from the last bytes of one that is aiohttp's, in which more of a request may follow."""

_PIPELINED = 64 * 1024
"""Bytes that may come before the answer to what came before them is written."""

_SEEN_OFF_EVERY = 0.05
"""Seconds between two looks whether a client has taken what is left for it."""

Serve = Callable[[RequestHead, bytes, Client], Coroutine[Any, Any, None]]
"""Serves a request with this head and this body."""


class Front:
    """Makes the protocol of each connection: what asyncio's `create_server` wants."""

    def __init__(self, aiohttp_server: web.Server, routes: Mapping[str, Serve], stay: Stay, idle: float) -> None:
        """`routes`: who serves plain requests, by path. `idle`: seconds in which a client may take nothing."""
        self.aiohttp_server = aiohttp_server
        self.routes = routes
        self.heads = KnownHeads(routes)
        self.outbox = Outbox()
        self.stay = stay
        self.idle = idle
        self.connections: set[Connection] = set()

    def __call__(self) -> Connection:
        return Connection(self)

    @property
    def expects_first_requests(self) -> bool:
        """Whether a connection was made on which nothing was ever asked."""
        return any(connection.is_new for connection in self.connections)

    @property
    def is_in_use(self) -> bool:
        """Whether a client may be asking just now, or has an answer to take."""
        return any(connection.is_in_use for connection in self.connections)

    async def until_taken(self, seconds: float) -> None:
        """Wait until all clients have taken what was written for them: with the process its container may end, and
        what the kernel has of it then. A client that takes nothing for `idle` seconds is not waited for, nor one whose
        answer was broken off.
        """
        for connection in self.connections:
            connection.look_anew()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any([connection.takes() for connection in self.connections]):  # noqa: C419, ASYNC110
                    await asyncio.sleep(_SEEN_OFF_EVERY)

    def close_idle(self) -> None:
        """The process leaves: nothing more will be asked."""
        for connection in list(self.connections):
            connection.close_if_idle()


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._aiohttp: web.RequestHandler | None = None
        self._heard_at = 0.0
        """When it was given its last bytes."""
        self._task: asyncio.Task[None] | None = None
        self._came = b""
        """What has come and is not served yet."""
        self._needs = 1
        """With fewer bytes than this a look is in vain."""
        self._is_reading = True
        self._is_full = False
        """More waits for the client than it should."""
        self._is_leaving = False
        """Nothing more is read of this client."""
        self._left = 0
        self._taken_at = 0.0
        """Bytes that were left for the client when that was looked at last, and when it had last taken some."""
        self.is_new = True
        """Nothing was asked yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._until = math.inf
        """When the wait is over. The timer may be early: a request moves this, and leaves the timer alone."""
        self.client: Client | None = None
        """Who is being answered."""

    @property
    def is_in_use(self) -> bool:
        """Whether the client may be asking just now, or has an answer to take.

        One that is kept may ask at any time, and is closed when it is idle. aiohttp's counts for a moment after its
        last bytes: who reads metrics may keep one for ever.
        """
        is_heard = self._aiohttp is None or self._loop.time() < self._heard_at + _HEARD
        return is_heard or self._transport.get_write_buffer_size() > 0

    def client_for(self, *, is_http_1_0: bool, keeps_alive: bool) -> Client:
        """Whom to answer next."""
        self.client = Client(
            self._transport,
            self._front.outbox,
            is_http_1_0=is_http_1_0,
            keeps_alive=keeps_alive and not self._front.stay.leaving,
        )
        return self.client

    async def until_writable(self) -> None:
        """Wait until the client takes more: who asks on and reads nothing shall not fill the memory.

        Raises:
            CancelledError: it took nothing for too long, and is given up.
        """
        self.look_anew()
        while self._is_full and self.takes():  # noqa: ASYNC110 - as it does in `until_taken`
            await asyncio.sleep(_SEEN_OFF_EVERY)
        if self._is_full:
            self._transport.abort()
            raise asyncio.CancelledError

    async def until_taken(self) -> None:
        """Wait until the client has taken what is left for it. When it takes nothing of that, it is given up."""
        self._write_eof()
        self.look_anew()
        while self.takes():  # noqa: ASYNC110 - the kernel does not tell
            await asyncio.sleep(_SEEN_OFF_EVERY)
        if self._left:
            self._transport.abort()

    def look_anew(self) -> None:
        """From now on it counts whether the client takes something."""
        self._left = 0

    def takes(self) -> bool:
        """Look whether there is something left for the client, and it takes of it."""
        now, left = self._loop.time(), self._what_is_left()
        if left < self._left or not self._left:
            self._taken_at = now
        self._left = left
        return left > 0 and now - self._taken_at < self._front.idle

    def close_if_idle(self) -> None:
        if self._aiohttp is None and self._task is None:
            self._transport.close()

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._front.connections.add(self)
        self._wait(IDLE)

    def data_received(self, data: bytes) -> None:
        if self._aiohttp is not None:
            self._heard_at = self._loop.time()
            self._aiohttp.data_received(data)
            return
        if self._is_leaving:
            return
        self._came = self._came + data if self._came else data
        if self._task is None and not self._is_full:
            self._look()
        elif len(self._came) > _PIPELINED:
            self._is_reading = False
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """A client that has closed its side has left."""
        if self._aiohttp is not None:
            self._aiohttp.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._front.connections.discard(self)
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        if self._aiohttp is not None:
            self._aiohttp.connection_lost(error)

    def pause_writing(self) -> None:
        self._is_full = True
        if self._aiohttp is not None:
            self._aiohttp.pause_writing()
        if self.client is not None:
            self.client.pause_writing()

    def resume_writing(self) -> None:
        self._is_full = False
        if self._aiohttp is not None:
            self._aiohttp.resume_writing()
        if self.client is not None:
            self.client.resume_writing()
        elif self._aiohttp is None and not self._is_leaving:
            self._go_on()

    # The fast lane.

    def _look(self) -> None:
        """Serve the request that has come, if it has."""
        if len(self._came) < self._needs:
            return
        found = self._front.heads.read(self._came)
        if found is None:
            self._give_to_aiohttp()
        elif isinstance(found, int):
            if self._needs == 1:
                self._wait(_SLOW)
            self._needs = found
        else:
            (path, head, keeps_alive), body, length = found
            self._came, self._needs = self._came[length:], 1
            self._until, self.is_new = math.inf, False
            client = self.client_for(is_http_1_0=False, keeps_alive=keeps_alive)
            # By itself a task makes a name of a number, which nobody reads.
            task = asyncio.Task(self._front.routes[path](head, body, client), loop=self._loop, name=path)
            self._task = task
            self._front.stay.began(task)
            task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._front.stay.ended(task)
        client, self.client = self.client, None
        if not task.cancelled():
            task.exception()  # it has been logged
        if client is None or not client.keeps_alive or self._front.stay.leaving or self._transport.is_closing():
            if client is not None:
                client.flush()
            self._leave()
            return
        self._wait(IDLE)
        if self._came:
            client.flush()  # what is written for the next request comes after it
        if not self._is_full:
            self._go_on()

    def _go_on(self) -> None:
        """Take the next request of a client that is answered, and has room for another answer."""
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()
        if self._came:
            self._look()

    def _leave(self) -> None:
        """Close when the client has taken what is left for it. When it takes nothing of that, it is given up."""
        if not self._is_leaving:
            self._is_leaving = True
            self._stop_timer()
            self._write_eof()
            self.look_anew()
            self._see_off()

    def _write_eof(self) -> None:
        """Let the client know at once that nothing more comes, and that nothing more is heard."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _see_off(self) -> None:
        if self.takes():
            self._timer = self._loop.call_later(_SEEN_OFF_EVERY, self._see_off)
        elif self._left:
            self._transport.abort()
        else:
            self._transport.close()

    def _what_is_left(self) -> int:
        """Bytes that would be lost if this process ended now. While it stays, the kernel takes care of what it has; on
        a connection that is closed already nothing else can be asked for.
        """
        if self._front.stay.leaving and not self._transport.is_closing():
            return waiting_on(self._transport)
        return self._transport.get_write_buffer_size()

    def _give_to_aiohttp(self) -> None:
        self._stop_timer()
        self.is_new = False
        self._aiohttp = handler = self._front.aiohttp_server()
        handler.connection_made(self._transport)
        came, self._came = self._came, b""
        if came:
            self.data_received(came)

    def _wait(self, seconds: float) -> None:
        until = self._until
        self._until = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._waited)
        elif self._until < until and until != math.inf:
            self._stop_timer()
            self._timer = self._loop.call_at(self._until, self._waited)

    def _waited(self) -> None:
        self._timer = None
        if self._loop.time() < self._until:
            if self._until != math.inf:
                self._timer = self._loop.call_at(self._until, self._waited)
        elif self._came and not self._is_full:
            self._give_to_aiohttp()
        else:
            self._leave()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
