"""One application on one port: it listens, tells whether it is ready, and leaves in good order.

Leaving (SIGTERM): not ready; a new connection is refused, so that its client finds another instance, and one that came
before that is still served; then no new requests on the open ones. What is running may finish within the grace period;
what is not finished then is cancelled, and says so to its client (see data_plane/relay.py). Leaving to another one that
serves (SIGQUIT, as with nginx): the same, without a grace period. Each request ends by its own deadline; and where
SIGTERM follows, it is hurried, and the grace period begins.

Beginning anew (data_plane/recycling.py): it leaves at once, if nobody is served and nobody may be asking, and refuses
nobody: its listening sockets outlast it, and so does a signal. Else it stays.
"""

from __future__ import annotations

import asyncio
import secrets
import select
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from goproxy.listening import BACKLOG, address_of, refuse_new_connections
from goproxy.observe import log
from goproxy.unreadable import StrictRequestHandler, UnreadableRequests

IDLE = 75.0
"""Seconds that a connection may be idle, or take for the head of a request; the edge closes its own earlier."""

_LAST_WORDS = 2.0
"""Seconds for cancelled requests to tell their clients, and for sockets to close."""

_TAKEN_AT_LAST = 0.5
"""Seconds for clients to take what was written for them when the grace period is over."""

_QUEUED = 0.05
_QUEUED_LAST = 5.0
"""Seconds for the kernel to end the handshakes that it began before new ones were refused, and for all to be accepted:
the event loop accepts one in each of its turns."""

_ASKED_LATE = 0.25
_ASKED_LAST = 2.0
"""Seconds that an idle connection is left open after accepting has stopped, in case a request is on its way: a known
connection, then one that has had no request yet."""

_ACCEPTED = 0.05
"""Seconds until a connection that was accepted just as accepting stopped is visible."""

_HEARD_BY = 0.01
"""Seconds in which the event loop hears of a signal that has come."""

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""What a process leaves at."""

PRIVATE_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""What the edge does not pass on."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be served, and what an operator should know about it."""

    ready: bool
    detail: str


class Stay:
    """The time between the start of a process and its end."""

    def __init__(self) -> None:
        self.leaving = False
        self.is_told_to_leave = False
        """Whether it was asked to leave, and not to begin anew."""
        self.has_time = False
        """Whether there is no grace period: it leaves to another one."""
        self._hurried = asyncio.Event()
        self._left_at = 0.0
        self._running: set[asyncio.Task[Any]] = set()
        self._reasons: list[Callable[[], bool]] = []
        self._asked = asyncio.Event()

    def ask_to_leave(self) -> None:
        """Ask the process to leave; requests may still be begun until `leaving`."""
        self.is_told_to_leave = True
        self.has_time = False
        self._hurried.set()
        self._asked.set()

    def ask_to_leave_in_time(self) -> None:
        """The same, without a grace period, unless it is hurried already."""
        self.has_time = not self._hurried.is_set()
        self.is_told_to_leave = True
        self._asked.set()

    def hear(self, number: int) -> None:
        """Do what a signal of ENDING asks for."""
        if number == signal.SIGQUIT:
            self.ask_to_leave_in_time()
        else:
            self.ask_to_leave()

    def ask_to_begin_anew(self) -> None:
        """Ask the process to leave to the one that it becomes, if nobody is served."""
        self._asked.set()

    def stay_on(self) -> None:
        """It does not begin anew after all."""
        if not self.is_told_to_leave:
            self._asked.clear()

    def keep_while(self, reason: Callable[[], bool]) -> None:
        """From now on it does not begin anew while this is so."""
        self._reasons.append(reason)

    @property
    def may_begin_anew(self) -> bool:
        """Whether no request is running, and nothing else keeps it."""
        return not (self.is_told_to_leave or self._running or any(reason() for reason in self._reasons))

    def leave(self) -> None:
        """Begin no request any more."""
        self.leaving = True
        self._left_at = time.monotonic()
        self._asked.set()

    def left_of(self, grace: float, at_least: float = _LAST_WORDS) -> float:
        """Seconds that are left of the grace period, and at least a few for what must be written down."""
        gone = time.monotonic() - self._left_at if self.leaving else grace
        return max(at_least, grace - gone)

    async def until_asked_to_leave(self) -> None:
        await self._asked.wait()

    def began(self, task: asyncio.Task[Any]) -> None:
        """A task is serving a request."""
        self._running.add(task)

    def ended(self, task: asyncio.Task[Any]) -> None:
        """It is done with that."""
        self._running.discard(task)

    def tracking(self) -> Middleware:
        """The middleware that knows which requests are running."""

        @web.middleware
        async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
            task = asyncio.current_task()
            assert task is not None
            self.began(task)
            is_last = _is_last(request)
            try:
                response = await handler(request)
            except web.HTTPException as answer:
                if is_last:
                    answer.force_close()
                raise
            finally:
                self.ended(task)
            if self.leaving or is_last:
                response.force_close()
            return response

        return track

    async def finish(self, grace: float) -> None:
        """Wait for the running requests; cancel those that outlast the grace period."""
        if self._running and self.has_time:
            log("waiting for running requests, until they end", requests=len(self._running))
            await self._until_ended_or_hurried()
            self._left_at = time.monotonic()
        if self._running:
            log("waiting for running requests", requests=len(self._running), grace_seconds=grace)
            await asyncio.wait(self._running, timeout=grace)
        if late := set(self._running):
            log("cutting requests that outlasted the grace period", requests=len(late))
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=_LAST_WORDS)

    async def _until_ended_or_hurried(self) -> None:
        hurried = asyncio.create_task(self._hurried.wait())
        ended = asyncio.create_task(asyncio.wait(self._running))
        await asyncio.wait((hurried, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in (hurried, ended):
            task.cancel()


def _is_last(request: web.Request) -> bool:
    """Whether nothing is read after it: two readers need not agree where it ends.

    The body of a CONNECT is taken for what follows it, and what calls itself HTTP/2 is none.
    """
    return request.method == hdrs.METH_CONNECT or request.version.major > 1


def new_application(stay: Stay, *middlewares: Middleware) -> web.Application:
    """An application whose requests are tracked, and whose every answer has an id and names no software version."""

    async def sign(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.setdefault("X-Request-Id", new_request_id())
        response.headers["Server"] = "goproxy"

    app = web.Application(middlewares=[stay.tracking(), *middlewares])
    app.on_response_prepare.append(sign)
    return app


def new_request_id() -> str:
    """An id for a request, in the form that both providers give theirs."""
    return next(_request_ids)


def _new_request_ids() -> Iterator[str]:
    """Many for one call of the system, which would let another thread run each time."""
    while True:
        digits = secrets.token_hex(_ID_BYTES * 256)
        for at in range(0, len(digits), 2 * _ID_BYTES):
            yield f"req_{digits[at : at + 2 * _ID_BYTES]}"


_ID_BYTES = 12
_request_ids = _new_request_ids()


def add_private_routes(
    app: web.Application,
    stay: Stay,
    readiness: Callable[[], Readiness],
    metrics: Callable[[], str],
    illness: Callable[[], str | None] = lambda: None,
) -> None:
    """/healthz (the process answers), /readyz (it can serve) and /metrics: for the private network only.

    `illness`: what is wrong with a process that does not answer itself.
    """

    async def healthz(_: web.Request) -> web.Response:
        if (problem := illness()) is not None:
            return web.json_response({"status": "ill", "detail": problem}, status=503)
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        is_leaving = stay.leaving or stay.is_told_to_leave
        state = Readiness(False, "leaving: no new requests") if is_leaving else readiness()
        return web.json_response({"ready": state.ready, "detail": state.detail}, status=200 if state.ready else 503)

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(text=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)


class _Server(web.Server):
    unreadable: UnreadableRequests

    def __call__(self) -> web.RequestHandler:
        return StrictRequestHandler(self, self.unreadable, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._unreadable = UnreadableRequests()

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server  # aiohttp knows no other way to say whose its connections are
        assert isinstance(server, _Server)
        server.unreadable = self._unreadable
        return server

    async def cleanup(self) -> None:
        await super().cleanup()
        self._unreadable.close()


def make_runner(app: web.Application) -> web.AppRunner:
    """aiohttp's server, with the settings that this project depends on."""
    return _Runner(
        app,
        handler_cancellation=True,  # a client that leaves ends its request at once, not at the next write
        keepalive_timeout=IDLE,  # for the first head of a connection, too; what runs is not looked at
        auto_decompress=False,  # a body is relayed as it came; and no bomb is unpacked here
        access_log=None,  # observe.py writes the line of a request
        shutdown_timeout=_LAST_WORDS,
    )


class ConnectionMaker(Protocol):
    """What stands before aiohttp's server, and makes the protocol of each connection."""

    def __call__(self) -> asyncio.BaseProtocol: ...

    async def until_taken(self, seconds: float) -> None:
        """Wait, but not longer than this, until the clients have taken their answers."""

    def close_idle(self) -> None:
        """Close the connections on which nothing is asked."""

    @property
    def expects_first_requests(self) -> bool:
        """Whether a connection was made on which nothing was ever asked."""

    @property
    def is_in_use(self) -> bool:
        """Whether a client may be asking just now, or has an answer to take."""


class Accepting(Protocol):
    """Accepts connections until it is closed."""

    def close(self) -> None: ...


F = TypeVar("F", bound=ConnectionMaker)


@asynccontextmanager
async def serving(
    runner: web.AppRunner,
    sockets: Sequence[socket.socket],
    front: Callable[[web.Server], F] | None = None,
    accepting: Callable[[socket.socket, F], Accepting] | None = None,
) -> AsyncIterator[tuple[list[Accepting], F | None]]:
    """Accept connections on these sockets, for the length of the block or until the servers are closed."""
    await runner.setup()
    assert runner.server is not None
    before = None if front is None else front(runner.server)
    servers = await _accept(sockets, before or runner.server, before, accepting)
    try:
        yield servers, before
    finally:
        for server in servers:
            server.close()
        if before is not None:
            before.close_idle()
        await runner.cleanup()


async def _accept(
    sockets: Sequence[socket.socket],
    make: Callable[[], asyncio.BaseProtocol],
    front: F | None,
    accepting: Callable[[socket.socket, F], Accepting] | None,
) -> list[Accepting]:
    if accepting is not None and front is not None:
        return [accepting(each, front) for each in sockets]
    loop = asyncio.get_running_loop()
    return [await loop.create_server(make, sock=each, backlog=BACKLOG) for each in sockets]


async def host(
    app: web.Application,
    stay: Stay,
    sockets: Sequence[socket.socket],
    grace: float,
    front: Callable[[web.Server], F] | None = None,
    accepting: Callable[[socket.socket, F], Accepting] | None = None,
) -> Sequence[socket.socket]:
    """Serve `app` until SIGTERM, SIGINT or SIGQUIT, then leave. The result: where who begins anew goes on to listen.

    `accepting`: the sockets are other processes', too: who accepts from them for this one. Whoever opened them has new
    connections refused, or keeps them.
    """
    kept: list[socket.socket] = []
    leave_when_told(stay)
    async with serving(make_runner(app), sockets, front, accepting) as (servers, before):
        if before is not None:
            stay.keep_while(lambda: before.is_in_use)
        log("listening", addresses=[address_of(each) for each in sockets])
        await stay.until_asked_to_leave()
        while before is not None and not stay.is_told_to_leave:
            kept = [each.dup() for each in sockets]
            for server in servers:
                server.close()
            await asyncio.sleep(_ACCEPTED)
            await asyncio.sleep(0)  # a process that stood still meanwhile makes what it has accepted a connection now
            if stay.may_begin_anew:
                break
            log("not beginning anew: somebody has come, or it is told to leave")
            sockets, kept = kept, []
            servers[:] = await _accept(sockets, before, before, accepting)
            stay.stay_on()
            await stay.until_asked_to_leave()
        log("leaving")
        if kept:
            stay.leave()
        else:
            for each in sockets if accepting is None else ():
                refuse_new_connections(each)
            await _until_all_are_accepted(sockets)
            for server in servers:
                server.close()
            await for_late_requests(before)
            stay.leave()
            await stay.finish(grace)
            if before is not None:
                await before.until_taken(stay.left_of(grace, at_least=_TAKEN_AT_LAST))
    log("left")
    return kept


def leave_when_told(stay: Stay) -> None:
    """Have the signals ask this process to leave, be they of before it began anew."""
    loop = asyncio.get_running_loop()
    for number in ENDING:
        loop.add_signal_handler(number, stay.hear, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


async def remember_when_told(stay: Stay) -> None:
    """Have them remembered in `stay`, when the event loop is there no more, too."""
    loop = asyncio.get_running_loop()

    def remember() -> None:
        for number in ENDING:
            signal.signal(number, lambda told, _: stay.hear(told))

    remember()
    await asyncio.sleep(_HEARD_BY)
    for number in ENDING:
        loop.remove_signal_handler(number)  # else the loop's end would have them end the process
    remember()


def pass_on_signals(stay: Stay) -> None:
    """Have the program that this one becomes hear what it was told: a blocked signal waits, and outlasts that.

    One that comes from here on to another thread ends the process, as it would at its start.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    if stay.is_told_to_leave:
        signal.pthread_kill(threading.get_ident(), signal.SIGQUIT if stay.has_time else signal.SIGTERM)


async def _until_all_are_accepted(listeners: Sequence[socket.socket]) -> None:
    await asyncio.sleep(_QUEUED)
    waiting = select.poll()
    for each in listeners:
        waiting.register(each, select.POLLIN)
    with suppress(TimeoutError):  # without a filter in the kernel there may always be one more
        async with asyncio.timeout(_QUEUED_LAST):
            while waiting.poll(0):  # noqa: ASYNC110 - each turn of the loop accepts one
                await asyncio.sleep(0)


async def for_late_requests(front: ConnectionMaker | None = None) -> None:
    """Who has connected asks at once; on a loaded machine that may take a moment, and closing would reset it."""
    await asyncio.sleep(_ASKED_LATE)
    with suppress(TimeoutError):
        async with asyncio.timeout(_ASKED_LAST):
            while front is not None and front.expects_first_requests:  # noqa: ASYNC110 - for a moment, at the end
                await asyncio.sleep(_ASKED_LATE / 10)
