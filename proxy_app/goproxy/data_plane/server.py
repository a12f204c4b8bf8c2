"""Routes and start-up of the data plane."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from goproxy.config import Config
from goproxy.core.ledger import Row
from goproxy.data_plane.acceptor import acceptor_of
from goproxy.data_plane.bodies import Bodies, room_for_bodies
from goproxy.data_plane.books import Books, books_for
from goproxy.data_plane.deadlines import patience_with_client
from goproxy.data_plane.drain import Drains
from goproxy.data_plane.envelope import Envelope
from goproxy.data_plane.front import Front
from goproxy.data_plane.journal import JournalInUse
from goproxy.data_plane.observer import Observer
from goproxy.data_plane.rate_limits import RateLimits
from goproxy.data_plane.reachability import try_endpoints
from goproxy.data_plane.recycling import Recycling
from goproxy.data_plane.request import ROUTES, Gateway
from goproxy.data_plane.scoreboard import BEAT_EVERY, Place, Scoreboard, State
from goproxy.data_plane.settler import Settler
from goproxy.data_plane.sibling_journals import OwnDirectory, adopt, directories, free_directory, has_company, name_of
from goproxy.data_plane.upstream import Upstream, reach
from goproxy.data_plane.workers import Work, Workers
from goproxy.hosting import Readiness, Stay, add_private_routes, host, new_application, remember_when_told
from goproxy.limits import memory_limit
from goproxy.listening import listen
from goproxy.observe import RequestRecord, log

_FOR_KEYS = 5.0
"""Seconds to wait for the backend before listening."""

_DIRECTORIES_TRIED = 20
_DIRECTORY_AGAIN = 0.05
"""How often one is tried for a journal that others took meanwhile, or only looked at, and the seconds in between."""

_COLLECT_EVERY = 50_000
"""Objects more than before, after which the garbage collector looks for cycles. No request leaves one, however it ends
(tests/test_leftovers.py), and to look through all that belongs to 2,000 streams halts each of them."""

_LOOK_AGAIN = 1.0
"""Seconds until an instance that starts beside another one looks again whether it could serve."""


def make_app(gateway: Gateway, place: Place | None = None) -> web.Application:
    """Everything that clients and the private network can ask of one goproxy.

    `place`: of this process, where there are several; whichever is asked answers for all.
    """
    config, stay, observer = gateway.config, gateway.stay, gateway.observer
    app = new_application(stay, gateway.envelope.middleware(but={route.name for route in ROUTES}))
    for route in ROUTES:
        app.router.add_post(route.path, gateway.handler(route), name=route.name)
    app.router.add_get("/v1/key", gateway.key, name="key")
    app.router.add_get("/v1/models", gateway.models, name="models")
    app.router.add_get("/v1/models/{id:.+}", gateway.model, name="model")

    def ready() -> Readiness:
        own = readiness(config, gateway.books)
        return own if place is None else place.readiness(own)

    add_private_routes(app, stay, ready, observer.metrics, (lambda: None) if place is None else place.illness)
    return app


def front_of(gateway: Gateway) -> Callable[[web.Server], Front]:
    """What stands before aiohttp's server."""
    return lambda server: Front(server, gateway.plain(), gateway.stay, patience_with_client(gateway.config.timeouts))


def readiness(config: Config, books: Books) -> Readiness:
    """Ready is who can check a key and write down a hold."""
    standing = books.standing
    if standing.journal_problem is not None:
        return Readiness(False, f"the journal cannot be written: {standing.journal_problem}")
    if standing.keys_age > config.staleness_seconds:
        return Readiness(False, f"no API keys: {standing.control_problem or 'the backend has not told them yet'}")
    away = f"; the backend is away: {standing.control_problem}" if standing.control_problem else ""
    return Readiness(True, f"serving {config.upstream} at {config.domain}{away}")


@asynccontextmanager
async def gateway_for(
    config: Config,
    books: Books,
    upstream: Upstream,
    stay: Stay,
    grace: float,
    place: Place | None = None,
) -> AsyncIterator[Gateway]:
    """What serves requests; at the end it waits for what goes on after them."""
    limits = RateLimits(None if place is None else place.rates)
    bodies = Bodies(room_for_bodies(config, memory_limit()))
    observer = Observer(config.upstream, books, bodies, place)
    stay.keep_while(lambda: observer.in_flight > 0)  # an answer is drained and settled when its client has gone
    if place is not None:
        stay.keep_while(lambda: any(other.state is not State.SERVING for other in place.others))

    def settled(record: RequestRecord, row: Row) -> None:
        limits.used(row.key_id, row.usage.prompt + row.usage.output)
        observer.end(record, row)

    policy = config.disconnect
    concurrent = policy.concurrent if policy.policy == "drain" else 0
    drains = Drains(seconds=policy.seconds, bytes=policy.bytes, concurrent=concurrent, place=place)
    settler = Settler(books, drains, settled)
    try:
        envelope = Envelope(config, observer, stay)
        yield Gateway(config, books, limits, bodies, upstream, settler, observer, stay, envelope)
    finally:
        await settler.finish(policy.seconds if stay.has_time else stay.left_of(grace))


async def serve(
    config: Config,
    secret: str,
    tls: ssl.SSLContext,
    grace: float,
    journal: Path,
    backend_url: str,
    proxy_token: str,
    recycling: Recycling,
    stay: Stay,
    place: Place | None = None,
    sockets: Sequence[socket.socket] = (),
) -> Sequence[socket.socket]:
    """Serve the upstream of `config` until SIGTERM, or until it is to begin anew: then the result is where it listens.

    Beside another instance (a rollout) it listens only when it could serve: until then the other one does.
    `stay`: of this process; it remembers if it was told to leave as it began anew.
    `place`: of this process, if it is one of several. `sockets`: what all of them listen on, or this one did before it
    began anew.

    Raises:
        CannotListen: its port cannot be had.
        JournalInUse, JournalUnwritable: its journal cannot be had.
    """
    begins_anew = place is None and bool(sockets)
    sockets = sockets or listen(config.port)

    def books_of(directory: Path) -> AbstractAsyncContextManager[Books]:
        return books_for(config, directory, backend_url, proxy_token, directories(journal))

    async with (
        _own_books(journal, books_of, place) as (own, books),
        reach(config.upstream, secret, config.timeouts, tls) as upstream,
        gateway_for(config, books, upstream, stay, grace, place) as gateway,
    ):
        await _first_keys(books)
        gc.collect()
        gc.freeze()  # what is there stays; to look through it again would halt every stream for 10 ms
        gc.set_threshold(_COLLECT_EVERY)
        if not begins_anew and (own.is_beside if place is None else place.is_beside):
            await _until_ready(config, books, tls)
        beside = [
            asyncio.create_task(adopt(journal, own.path, books_of, gateway.observer)),
            asyncio.create_task(recycling.watch(stay, books, gateway.observer)),
        ]
        if place is not None:
            await place.until_it_may_listen()
            beside.append(asyncio.create_task(_beat(place, config, gateway)))
        try:
            accepting = None if place is None else acceptor_of(place)
            kept = await host(make_app(gateway, place), stay, sockets, grace, front_of(gateway), accepting)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
    if not kept or place is not None:  # in its place the workers' parent puts another one
        return ()
    await remember_when_told(stay)
    return kept


def serve_together(port: int, processes: int, journal: Path, work: Work) -> int:
    """Serve with several processes until SIGTERM; the result is the exit code.

    Raises:
        CannotListen: the port cannot be had.
        WorkersFailed: nobody can serve.
    """
    scoreboard = Scoreboard(processes, is_beside=has_company(journal))
    return Workers(scoreboard, listen(port), work).run()


@asynccontextmanager
async def _own_books(
    journal: Path, books_of: Callable[[Path], AbstractAsyncContextManager[Books]], place: Place | None
) -> AsyncIterator[tuple[OwnDirectory, Books]]:
    """A directory, and the books of the journal in it. Others may look at it, or take it, between those two."""
    async with AsyncExitStack() as stack:
        for left in reversed(range(_DIRECTORIES_TRIED)):
            try:
                own = free_directory(journal, None if place is None else place.directory)
                books = await stack.enter_async_context(books_of(own.path))
                break
            except JournalInUse:
                if not left:
                    raise
                await asyncio.sleep(_DIRECTORY_AGAIN)
        if place is not None:
            place.directory = name_of(own.path, journal)
        yield own, books


async def _beat(place: Place, config: Config, gateway: Gateway) -> None:
    """Let the other processes know, again and again, that this one lives and how it stands."""
    while True:
        place.beat(readiness(config, gateway.books), gateway.observer.gauges())
        await asyncio.sleep(BEAT_EVERY)


async def _first_keys(books: Books) -> None:
    """Give the backend a moment to tell the keys, so that the first requests are not refused. It may be away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FOR_KEYS):
            while math.isinf(books.keys_age):  # noqa: ASYNC110 - a few looks, once, at the start
                await asyncio.sleep(_FOR_KEYS / 100)


async def _until_ready(config: Config, books: Books, tls: ssl.SSLContext) -> None:
    """Wait until this instance could serve as well as the one beside it: journal, keys, and the way to the upstream."""
    said = None
    while problem := await _problem(config, books, tls):
        if problem != said:
            log("not ready, so not listening beside the other instance", level=logging.WARNING, problem=problem)
            said = problem
        await asyncio.sleep(_LOOK_AGAIN)
    log("ready to serve beside the other instance")


async def _problem(config: Config, books: Books, tls: ssl.SSLContext) -> str | None:
    state = readiness(config, books)
    if not state.ready:
        return state.detail
    tried = await try_endpoints(config, tls)
    return "; ".join(f"{each.endpoint} at {each.host}: {each.detail}" for each in tried if not each.reachable) or None
