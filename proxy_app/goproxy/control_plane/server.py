"""Routes and start-up of the control plane."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from goproxy.control_plane.catalogue import Catalogue
from goproxy.hosting import Readiness, Stay, add_private_routes, host, listen, new_application, repeat


def make_app(catalogue: Catalogue, stay: Stay) -> web.Application:
    """Everything that can be asked of the backend."""

    async def show_catalogue(_: web.Request) -> web.Response:
        return web.json_response(catalogue.document())

    def readiness() -> Readiness:
        problems = "; ".join(catalogue.problems.values())
        stale = f"serving the last good configuration, because {problems}" if problems else ""
        return Readiness(True, stale or "all configurations are as their files say")

    app = new_application(stay, _errors_as_json)
    app.router.add_get("/admin/v1/catalogue", show_catalogue)
    add_private_routes(app, stay, readiness, catalogue.metrics)
    app.cleanup_ctx.append(repeat(catalogue.look))
    return app


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        message = f"{request.method} {request.path[:100]}: {error.reason}"
        return web.json_response({"error": {"message": message}}, status=error.status)


async def serve(catalogue: Catalogue, port: int, grace: float) -> None:
    """Serve the catalogue until SIGTERM.

    Raises:
        CannotListen: the port cannot be had.
    """
    stay = Stay()
    await host(make_app(catalogue, stay), stay, listen(port), grace)
