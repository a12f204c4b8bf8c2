"""A goproxy that runs in the test's own process, on a port of its own."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from goproxy.config import parse_config
from goproxy.core.keys import digest, new_key
from goproxy.data_plane.keyring import Keyring
from goproxy.data_plane.request import Gateway
from goproxy.data_plane.server import make_app
from goproxy.data_plane.upstream import reach
from goproxy.hosting import Stay, make_runner
from tests.provider import Provider, Script, running_provider

UPSTREAM_SECRET = "sk-upstream-CANARY-0123456789"
_TRUST = ssl.create_default_context()
ALICE = new_key(bytes(range(32)))
BOB = new_key(bytes(range(1, 33)))

OPUS = {
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
        "timeouts": {"connect": 2, "first_byte": 5, "idle": 5, "total": 20},
        "max_body_bytes": 1048576,
    }
    return document | changes


def endpoints_at(url: str, *protocols: str) -> list[dict[str, str]]:
    """Endpoints of a provider at `url`, of both protocols unless some are named."""
    paths = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
    return [
        {"name": f"openhands-{name}", "protocol": name, "base_url": url + paths[name]} for name in protocols or paths
    ]


def write_keys(path: Path, **accounts: str) -> None:
    """Write keys.json as the role does: beside, then renamed."""
    entries = [{"account": account, "prefix": key[:11], "sha256": digest(key)} for account, key in accounts.items()]
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"keys": entries}))
    beside.rename(path)


@dataclass
class Running:
    """What a test needs to know of a running goproxy."""

    port: int
    stay: Stay
    keys: Path
    runner: web.AppRunner

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def running_gateway(
    document: dict[str, Any], keys: Path, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Running]:
    """Run a goproxy with this configuration."""
    config = parse_config(json.dumps(document).encode())
    keyring, stay = Keyring(keys), Stay()
    keyring.look()
    async with reach(config.upstream, UPSTREAM_SECRET, config.timeouts, tls or _TRUST) as upstream:
        runner = make_runner(make_app(Gateway(config, keyring, upstream), stay))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield Running(runner.addresses[0][1], stay, keys, runner)
        finally:
            await runner.cleanup()


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
    with asyncio.Runner() as runner:
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
