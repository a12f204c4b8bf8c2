"""A goproxy that runs in the test's own process, on a port of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from goproxy.config import parse_config
from goproxy.core.keys import digest, new_key
from goproxy.core.pricing import NANODOLLARS
from goproxy.data_plane.books import Books, books_for
from goproxy.data_plane.front import Front
from goproxy.data_plane.request import Gateway
from goproxy.data_plane.server import front_of, gateway_for, make_app
from goproxy.data_plane.upstream import reach
from goproxy.hosting import Stay, make_runner, serving
from tests.backend import Backend, proxy_token, running_backend
from tests.provider import Provider, Script, running_provider

UPSTREAM_SECRET = "sk-upstream-CANARY-0123456789"
_TRUST = ssl.create_default_context()
ALICE = new_key(bytes(range(32)))
BOB = new_key(bytes(range(1, 33)))

OPUS: dict[str, Any] = {
    "name": "Claude Opus 4.5",
    "id": "claude-opus-4-5-20251101",
    "id_aliases": ["claude-opus-4-5"],
    "upstream": "openhands",
    "upstream_model_id": "claude-opus-4-5-20251101",
    "billing_multiplier": 1.08,
    "prices": [
        {
            "effective_from": "2025-11-24",
            "tiers": [
                {
                    "up_to_prompt_tokens": None,
                    "input": 5,
                    "output": 25,
                    "cache_write_5m": 6.25,
                    "cache_write_1h": 10,
                    "cache_read": 0.5,
                }
            ],
        }
    ],
}


def config_document(**changes: Any) -> dict[str, Any]:
    """A config.json that is in order, with changes."""
    document: dict[str, Any] = {
        "upstream": "openhands",
        "domain": "chat.trollllm.xyz",
        "port": 8004,
        "endpoints": [
            {
                "name": "openhands-anthropic",
                "protocol": "anthropic",
                "base_url": "https://llm-proxy.app.all-hands.dev/v1/messages",
            },
            {
                "name": "openhands-openai",
                "protocol": "openai",
                "base_url": "https://llm-proxy.app.all-hands.dev/v1/chat/completions",
            },
        ],
        "multiplier_band": [1.06, 1.08],
        "models": [OPUS],
        "timeouts": {"connect": 10, "first_byte": 20, "idle": 20, "total": 60},
        "max_body_bytes": 1048576,
    }
    return document | changes


def endpoints_at(url: str, *protocols: str) -> list[dict[str, str]]:
    """Endpoints of a provider at `url`, of all protocols unless some are named."""
    paths = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions", "responses": "/v1/responses"}
    return [
        {"name": f"openhands-{name}", "protocol": name, "base_url": url + paths[name]} for name in protocols or paths
    ]


def write_keys(path: Path, **accounts: str) -> None:
    """Write keys.json as the role does: beside, then renamed."""
    entries = [{"account": account, "prefix": key[:11], "sha256": digest(key)} for account, key in accounts.items()]
    beside = path.with_suffix(".new")
    credit = dict.fromkeys(accounts, 1000 * NANODOLLARS)
    beside.write_text(json.dumps({"keys": entries, "opening_credits": credit}))
    beside.rename(path)


@dataclass
class Running:
    """What a test needs to know of a running goproxy."""

    port: int
    stay: Stay
    keys: Path
    front: Front
    books: Books
    backend: Backend
    gateway: Gateway

    async def rows(self) -> list[dict[str, Any]]:
        """What the ledger has of requests, once all that is settled has arrived there; the oldest first."""
        async with asyncio.timeout(30):
            await self.gateway.settler.settled()
            while self.books.standing.unposted_rows or self.books.standing.unsettled_rows:
                await asyncio.sleep(0.01)
        page = await self.backend.get("rows", kind="request")
        return list(reversed(page["rows"]))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def running_gateway(
    document: dict[str, Any], keys: Path, tls: ssl.SSLContext | None = None, grace: float = 5
) -> AsyncIterator[Running]:
    """Run a goproxy with this configuration, and a backend with the accounts of `keys`."""
    async with (
        running_backend(Path(mkdtemp(dir=keys.parent)), keys, document) as backend,
        running_proxy(document, backend, tls, grace) as running,
    ):
        yield running


@asynccontextmanager
async def running_proxy(
    document: dict[str, Any], backend: Backend, tls: ssl.SSLContext | None = None, grace: float = 5
) -> AsyncIterator[Running]:
    """Run a goproxy with this configuration, of which the backend knows."""
    config = parse_config(json.dumps(document).encode())
    stay, keys = Stay(), backend.keys
    journal = Path(mkdtemp(prefix="journal-", dir=backend.directory))
    async with (
        books_for(config, journal, backend.url, proxy_token(config.upstream)) as books,
        reach(config.upstream, UPSTREAM_SECRET, config.timeouts, tls or _TRUST) as upstream,
        gateway_for(config, books, upstream, stay, grace) as gateway,
    ):
        listener = socket.create_server(("127.0.0.1", 0))
        fronts: list[Front] = []

        def front(server: web.Server) -> Front:
            fronts.append(front_of(gateway)(server))
            return fronts[0]

        async with serving(make_runner(make_app(gateway)), [listener], front):
            async with asyncio.timeout(30):
                while keys.exists() and not len(books.keys):
                    await asyncio.sleep(0.005)
            yield Running(listener.getsockname()[1], stay, keys, fronts[0], books, backend, gateway)


@dataclass
class Chain:
    """A client, a goproxy and a provider in an event loop that runs when it is told to.

    For hypothesis, whose examples are plain functions: all of them share one chain.
    """

    runner: asyncio.Runner
    provider: Provider
    session: aiohttp.ClientSession

    def ask(self, body: bytes, script: Script) -> bytes:
        """Send a request to a provider with this script; the result is the answer's body."""
        self.provider.script = script
        return self.runner.run(self._ask(body))

    async def _ask(self, body: bytes) -> bytes:
        async with self.session.post("v1/messages", data=body) as answer:
            return await answer.read()


@contextmanager
def chain(keys: Path) -> Iterator[Chain]:
    """Set up a chain."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()

        async def set_up() -> Chain:
            provider = await stack.enter_async_context(running_provider())
            document = config_document(endpoints=endpoints_at(provider.url))
            gateway = await stack.enter_async_context(running_gateway(document, keys))
            session = aiohttp.ClientSession(base_url=gateway.url + "/", headers={"x-api-key": ALICE})
            return Chain(runner, provider, await stack.enter_async_context(session))

        try:
            yield runner.run(set_up())
        finally:
            runner.run(stack.aclose())
