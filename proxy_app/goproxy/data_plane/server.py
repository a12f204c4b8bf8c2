"""Routes and start-up of the data plane."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from goproxy.config import Config
from goproxy.core.ledger import Row
from goproxy.data_plane.aftermath import Aftermath
from goproxy.data_plane.books import Books, books_for
from goproxy.data_plane.drain import Drains
from goproxy.data_plane.envelope import Envelope
from goproxy.data_plane.front import Front
from goproxy.data_plane.observer import Observer
from goproxy.data_plane.rate_limits import RateLimits
from goproxy.data_plane.reachability import try_endpoints
from goproxy.data_plane.request import ROUTES, Gateway
from goproxy.data_plane.seat import adopt, take_seat
from goproxy.data_plane.upstream import Upstream, reach
from goproxy.hosting import Readiness, Stay, add_private_routes, host, listen, new_application
from goproxy.observe import RequestRecord, log

_FOR_KEYS = 5.0
"""Seconds to wait for the backend before listening."""

_LOOK_AGAIN = 1.0
"""Seconds until an instance that starts beside another one looks again whether it could serve."""


def make_app(gateway: Gateway) -> web.Application:
    """Everything that clients and the private network can ask of one goproxy."""
    config, stay, observer = gateway.config, gateway.stay, gateway.observer
    app = new_application(stay, gateway.envelope.middleware(but={route.name for route in ROUTES}))
    for route in ROUTES:
        app.router.add_post(route.path, gateway.handler(route), name=route.name)
    app.router.add_get("/v1/models", gateway.models, name="models")
    app.router.add_get("/v1/models/{id:.+}", gateway.model, name="model")

    add_private_routes(app, stay, lambda: readiness(config, gateway.books), observer.metrics)
    return app


def front_of(gateway: Gateway) -> Callable[[web.Server], Front]:
    """What stands before aiohttp's server."""
    return lambda server: Front(server, gateway.plain(), gateway.stay)


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
    config: Config, books: Books, upstream: Upstream, observer: Observer, stay: Stay, grace: float
) -> AsyncIterator[Gateway]:
    """What serves requests; at the end it waits for what goes on after them."""
    limits = RateLimits()

    def settled(record: RequestRecord, row: Row) -> None:
        limits.used(row.key_id, row.usage.prompt + row.usage.output)
        observer.end(record, row)

    policy = config.disconnect
    concurrent = policy.concurrent if policy.policy == "drain" else 0
    drains = Drains(seconds=policy.seconds, bytes=policy.bytes, concurrent=concurrent)
    aftermath = Aftermath(books, drains, settled)
    try:
        envelope = Envelope(config, observer, stay)
        yield Gateway(config, books, limits, upstream, aftermath, observer, stay, envelope)
    finally:
        await aftermath.finish(stay.left_of(grace))


async def serve(
    config: Config,
    secret: str,
    tls: ssl.SSLContext,
    grace: float,
    journal: Path,
    backend_url: str,
    proxy_token: str,
) -> None:
    """Serve the upstream of `config` until SIGTERM.

    Beside another instance (a rollout) it listens only when it could serve: until then the other one does.

    Raises:
        CannotListen: its port cannot be had.
        JournalInUse, JournalUnwritable: its journal cannot be had.
    """
    sockets = listen(config.port)
    stay = Stay()
    seat = take_seat(journal)

    def books_of(directory: Path) -> AbstractAsyncContextManager[Books]:
        return books_for(config, directory, backend_url, proxy_token)

    async with (
        books_of(seat.path) as books,
        reach(config.upstream, secret, config.timeouts, tls) as upstream,
    ):
        observer = Observer(config.upstream, books)
        async with gateway_for(config, books, upstream, observer, stay, grace) as gateway:
            await _first_keys(books)
            if seat.is_beside:
                await _until_ready(config, books, tls)
            adopting = asyncio.create_task(adopt(journal, seat.path, books_of))
            try:
                await host(make_app(gateway), stay, sockets, grace, front_of(gateway))
            finally:
                adopting.cancel()
                await asyncio.gather(adopting, return_exceptions=True)


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
