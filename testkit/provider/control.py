"""The plain-HTTP side of a simulated provider: what it received, and how it is to behave.

    GET    /_requests     all that was received, oldest first (see record.py)
    DELETE /_requests     forget it
    GET    /_behaviour    the standing behaviour and its exceptions (see behaviour.py)
    PUT    /_behaviour    {"events": 40, "gap_ms": 50, "fault": "stall", "after": 5, ...}; what is left out is default
    POST   /_behaviour    the same with "match" and "times": for the next requests whose body holds `match`
    DELETE /_behaviour    back to the default; answers that are held or stalled, or would be, go on
    POST   /_release      {"match": "..."}: the same for those whose request holds `match`

A setting that does not exist is answered with 400 and {"error": what is wrong}.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from .server import Provider


def control(provider: Provider) -> web.Application:
    """Make the application of the control port."""
    app = web.Application(middlewares=[_explain])
    routes = Routes(provider)
    app.router.add_get("/_requests", routes.requests)
    app.router.add_delete("/_requests", routes.forget)
    app.router.add_get("/_behaviour", routes.show)
    app.router.add_put("/_behaviour", routes.set)
    app.router.add_post("/_behaviour", routes.add)
    app.router.add_delete("/_behaviour", routes.reset)
    app.router.add_post("/_release", routes.release)
    return app


class Routes:
    """The handlers, for one provider."""

    def __init__(self, provider: Provider) -> None:
        """Bind them to a provider."""
        self._provider = provider

    async def requests(self, _request: web.Request) -> web.Response:
        """GET /_requests."""
        return web.json_response(self._provider.records.as_json())

    async def forget(self, _request: web.Request) -> web.Response:
        """DELETE /_requests."""
        self._provider.records.clear()
        return web.json_response([])

    async def show(self, _request: web.Request) -> web.Response:
        """GET /_behaviour."""
        return web.json_response(self._provider.behaviours.as_json())

    async def set(self, request: web.Request) -> web.Response:
        """PUT /_behaviour."""
        self._provider.behaviours.set(await _settings(request))
        await self._provider.open_or_close()
        return await self.show(request)

    async def add(self, request: web.Request) -> web.Response:
        """POST /_behaviour."""
        self._provider.behaviours.add_exception(await _settings(request))
        return await self.show(request)

    async def reset(self, request: web.Request) -> web.Response:
        """DELETE /_behaviour."""
        self._provider.behaviours.reset()
        self._provider.release()
        await self._provider.open_or_close()
        return await self.show(request)

    async def release(self, request: web.Request) -> web.Response:
        """POST /_release."""
        match = (await _settings(request)).get("match", "")
        return web.json_response({"released": self._provider.release(str(match))})


async def _settings(request: web.Request) -> dict[str, Any]:
    settings = json.loads(await request.text() or "{}")
    if not isinstance(settings, dict):
        raise ValueError("the body must be a JSON object")
    return settings


@web.middleware
async def _explain(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer a wrong setting with what is wrong."""
    try:
        return await handler(request)  # type: ignore[no-any-return]
    except (ValueError, TypeError) as problem:
        return web.json_response({"error": str(problem)}, status=400)
