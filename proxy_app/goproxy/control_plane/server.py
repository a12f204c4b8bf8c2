"""Routes and start-up of the control plane."""

from __future__ import annotations

from aiohttp import web

from goproxy.control_plane.admin_api import AdminApi
from goproxy.control_plane.answers import errors_as_json
from goproxy.control_plane.catalogue import Catalogue
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.proxy_api import ProxyApi
from goproxy.hosting import Readiness, Stay, add_private_routes, host, listen, new_application, repeat


def make_app(catalogue: Catalogue, stay: Stay, plane: ControlPlane) -> web.Application:
    """Everything that can be asked of the backend."""

    def readiness() -> Readiness:
        broken = "; ".join(catalogue.problems.values())
        problems = [f"serving the last good configuration, because {broken}"] if broken else []
        problems += plane.problems
        return Readiness(True, "; ".join(problems) or "all configurations are as their files say")

    def metrics() -> str:
        for config in catalogue.configs:
            plane.metrics.begin(config.upstream)
        return catalogue.metrics() + plane.metrics.text()

    app = new_application(stay, errors_as_json)
    AdminApi(plane).serve(app)
    ProxyApi(plane).serve(app)
    app.cleanup_ctx.append(plane.keep_up(stay))
    add_private_routes(app, stay, readiness, metrics)
    app.cleanup_ctx.append(repeat(catalogue.look))
    return app


async def serve(catalogue: Catalogue, plane: ControlPlane, port: int, grace: float) -> None:
    """Serve until SIGTERM.

    Raises:
        CannotListen: the port cannot be had.
    """
    stay = Stay()
    await host(make_app(catalogue, stay, plane), stay, listen(port), grace)
