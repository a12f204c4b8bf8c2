"""Routes and start-up of the data plane."""

from __future__ import annotations

import ssl

from aiohttp import web

from goproxy.config import Config
from goproxy.core.protocols import ANTHROPIC, OPENAI
from goproxy.data_plane.envelope import envelope
from goproxy.data_plane.keyring import Keyring
from goproxy.data_plane.request import Gateway
from goproxy.data_plane.upstream import reach
from goproxy.hosting import Readiness, Stay, add_private_routes, host, listen, new_application, repeat
from goproxy.observe import Observer


def make_app(gateway: Gateway, stay: Stay) -> web.Application:
    """Everything that clients and the private network can ask of one goproxy."""
    config, keyring = gateway.config, gateway.keyring
    observer = Observer(config.upstream)
    app = new_application(stay, envelope(config, observer, stay))

    messages = gateway.forwarding(ANTHROPIC)
    count_tokens = gateway.forwarding(ANTHROPIC, "/count_tokens")
    chat_completions = gateway.forwarding(OPENAI)
    app.router.add_post("/v1/messages", messages, name="messages")
    app.router.add_post("/v1/messages/count_tokens", count_tokens, name="count_tokens")
    app.router.add_post("/v1/chat/completions", chat_completions, name="chat_completions")
    app.router.add_get("/v1/models", gateway.models, name="models")
    app.router.add_get("/v1/models/{id:.+}", gateway.model, name="model")

    def readiness() -> Readiness:
        if not keyring.loaded:
            return Readiness(False, f"no API keys: keys.json {keyring.problem}")
        stale = f"; keys.json {keyring.problem}, its last good set stays" if keyring.problem else ""
        return Readiness(True, f"serving {config.upstream} at {config.domain}{stale}")

    add_private_routes(app, stay, readiness, observer.metrics)
    app.cleanup_ctx.append(repeat(keyring.look))
    return app


async def serve(config: Config, keyring: Keyring, secret: str, tls: ssl.SSLContext, grace: float) -> None:
    """Serve the upstream of `config` until SIGTERM.

    Raises:
        CannotListen: its port cannot be had.
    """
    stay = Stay()
    keyring.look()
    async with reach(config.upstream, secret, config.timeouts, tls) as upstream:
        app = make_app(Gateway(config, keyring, upstream), stay)
        await host(app, stay, listen(config.port), grace)
