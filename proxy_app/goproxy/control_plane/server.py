"""Routes and start-up of the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from socket import socket

from aiohttp import web
from aiohttp.typedefs import Handler

from goproxy.control_plane.admin_api import AdminApi
from goproxy.control_plane.answers import NotServed, errors_as_json
from goproxy.control_plane.catalogue import Catalogue
from goproxy.control_plane.metrics import Metrics
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.proxy_api import ProxyApi
from goproxy.control_plane.store.database import Database
from goproxy.control_plane.store.migrating import GivenUp
from goproxy.hosting import (
    PRIVATE_PATHS,
    Readiness,
    Stay,
    add_private_routes,
    for_late_requests,
    host,
    leave_when_told,
    make_runner,
    new_application,
    serving,
)
from goproxy.listening import listen
from goproxy.observe import log

_AT_ONCE = 2.0
"""Seconds in which most stores are opened: until they are over, connections are refused as before the start."""

_STOP_EVERY = 0.1
_WAIT = "5"  # seconds after which a store that is migrated is worth another look
_MIGRATING = "the store is being migrated to this version; the proxies go on with what they have"


def make_app(catalogue: Catalogue, stay: Stay, plane: ControlPlane) -> web.Application:
    """Everything that can be asked of the backend."""

    def readiness() -> Readiness:
        broken = "; ".join(catalogue.problems.values())
        problems = [f"serving the last good configuration, because {broken}"] if broken else []
        problems += plane.problems
        return Readiness(True, "; ".join(problems) or "all configurations are as their files say")

    app = new_application(stay, errors_as_json)
    AdminApi(plane).serve(app)
    ProxyApi(plane).serve(app)
    app.cleanup_ctx.append(plane.keep_up(stay))
    add_private_routes(app, stay, readiness, lambda: _metrics_text(catalogue, plane.metrics))
    return app


def make_waiting_app(catalogue: Catalogue, stay: Stay, metrics: Metrics) -> web.Application:
    """What can be asked while the store is migrated: whether the process lives, and whether it is ready."""

    @web.middleware
    async def one_request_each(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.force_close()  # the next one is the other application's
        return response

    @web.middleware
    async def nothing_else(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in PRIVATE_PATHS:
            raise NotServed(503, _MIGRATING, {"Retry-After": _WAIT})
        return await handler(request)

    app = new_application(stay, one_request_each, errors_as_json, nothing_else)
    add_private_routes(app, stay, lambda: Readiness(False, _MIGRATING), lambda: _metrics_text(catalogue, metrics))
    return app


def _metrics_text(catalogue: Catalogue, metrics: Metrics) -> str:
    for config in catalogue.configs:
        metrics.begin(config.upstream)
    metrics.configured(catalogue.mounted, len(catalogue.problems))
    return metrics.text()


async def serve(
    catalogue: Catalogue,
    metrics: Metrics,
    database: Database,
    open_plane: Callable[[], ControlPlane],
    port: int,
    grace: float,
) -> None:
    """Serve until SIGTERM.

    Args:
        open_plane: brings the database to today's tables first, for as long as that takes; in a thread.

    Raises:
        CannotListen: the port cannot be had.
        Whatever `open_plane` raises.
    """
    stay = Stay()
    with ExitStack() as stack:
        sockets = [stack.enter_context(each) for each in listen(port)]
        leave_when_told(stay)
        plane = await _opened(open_plane, database, stay, sockets, make_waiting_app(catalogue, stay, metrics))
        if plane is not None:
            await host(make_app(catalogue, stay, plane), stay, sockets, grace)


async def _opened(
    open_plane: Callable[[], ControlPlane],
    database: Database,
    stay: Stay,
    sockets: Sequence[socket],
    meanwhile: web.Application,
) -> ControlPlane | None:
    """The control plane; None: the process was told to leave before there was one, and the store is as it was."""
    opening = asyncio.create_task(asyncio.to_thread(open_plane))
    leaving = asyncio.create_task(stay.until_asked_to_leave())
    try:
        await asyncio.wait((opening, leaving), timeout=_AT_ONCE, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done() and not leaving.done():
            # On copies of the sockets: closing them leaves the sockets open, and whoever connects in between waits.
            async with serving(make_runner(meanwhile), [each.dup() for each in sockets]) as (servers, _):
                log("answering while the store is migrated", port=sockets[0].getsockname()[1])
                await asyncio.wait((opening, leaving), return_when=asyncio.FIRST_COMPLETED)
                for server in servers:
                    server.close()
                await for_late_requests()
        while not opening.done():
            await asyncio.to_thread(database.give_up)
            await asyncio.wait((opening,), timeout=_STOP_EVERY)
    finally:
        leaving.cancel()
    try:
        return await opening
    except GivenUp:
        log("left before the store was migrated")
        return None
