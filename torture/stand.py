"""Where things are tortured: goproxies of several upstreams and their one backend, all processes, over loopback.

A request's number is its `max_tokens`. A token costs 1,000 nano-dollars, so that the amount that a row held tells the
number of its request, whatever became of the request.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relayed.gateway_files import backend_environment, proxy_environment
from relayed.process import free_port

from goproxy.core.keys import new_key
from goproxy.core.usage import Usage
from tests.backend import OPERATOR_TOKEN, Backend, proxy_token
from tests.gateway import OPUS, UPSTREAM_SECRET, config_document, endpoints_at, write_keys
from torture.daemon import Daemon

PROMPT = "prompt-CANARY-0123456789"
"""In every request; it may be in no log."""

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions", "responses": "/v1/responses"}
NANODOLLARS = 1000
"""A token, of whatever kind."""

MOST_TOKENS = 10_000_000
_BODY = 512
_TIER = {"up_to_prompt_tokens": None, "input": 1, "output": 1}
_MODEL = OPUS | {
    "billing_multiplier": 1,
    "prices": [{"effective_from": "2025-01-01", "tiers": [_TIER]}],
    "context_tokens": 2 * MOST_TOKENS,
    "max_output_tokens": MOST_TOKENS,
}

Row = dict[str, Any]


def request_body(number: int, protocol: str = "anthropic", *, is_stream: bool = True) -> bytes:
    """A request, always of the same length."""
    content = [{"type": "text", "text": PROMPT}]
    asked: dict[str, Any] = {"model": OPUS["id"], "max_tokens": number, "stream": is_stream}
    asked["messages"] = [{"role": "user", "content": content}]
    if protocol == "openai" and is_stream:
        asked["stream_options"] = {"include_usage": True}
    return json.dumps(asked).encode().ljust(_BODY)


def number_of(row: Row) -> int:
    """Which request a row is of."""
    return int(row["hold_nanodollars"]) // NANODOLLARS - _BODY


def usage_of(number: int) -> Usage:
    """What the provider bills for a request."""
    return Usage(input=100 + number % 97, output=7 + number % 89)


def cost(usage: Usage) -> int:
    """In nano-dollars."""
    return NANODOLLARS * (usage.input + usage.output)


@dataclass
class Proxy:
    """A goproxy, and where its things are."""

    upstream: str
    directory: Path
    daemon: Daemon

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    @property
    def port(self) -> int:
        return self.daemon.port


@dataclass
class Stand:
    """All of them."""

    directory: Path
    backend: Daemon
    admin: Backend
    """The backend's admin API."""
    keys: dict[str, str]
    """By account."""
    proxies: dict[str, Proxy] = field(default_factory=dict)
    """By upstream."""

    async def is_settled(self, *upstreams: str, seconds: float = 60) -> bool:
        """Wait until these proxies serve nothing, hold nothing and have posted every row; False: they do not."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            standing = [await self.proxies[upstream].daemon.metrics() for upstream in upstreams]
            if not any(_unsettled(metrics) for metrics in standing):
                return True
            await asyncio.sleep(0.1)
        return False

    async def rows(self, account: str) -> list[Row]:
        """The ledger's rows of requests of an account."""
        query = {"account": account, "kind": "request", "limit": "1000"}
        rows: list[Row] = []
        while True:
            page = await self.admin.get("rows", **query)
            rows += page["rows"]
            if page["next"] is None:
                return rows
            query["before"] = page["next"]

    async def wallet(self, account: str) -> dict[str, int]:
        """Where the credits of an account are, in nano-dollars."""
        (wallet,) = (await self.admin.get("wallets", account=account))["wallets"]
        return {name.removesuffix("_nanodollars"): value for name, value in wallet.items() if isinstance(value, int)}

    def secrets(self) -> dict[str, bytes]:
        """What may be in no log and in no answer, by name."""
        named = {"the upstream's key": UPSTREAM_SECRET, "the operator's token": OPERATOR_TOKEN, "a prompt": PROMPT}
        named |= {f"the key of {account}": key for account, key in self.keys.items()}
        named |= {f"the token of {upstream}": proxy_token(upstream) for upstream in self.proxies}
        return {name: text.encode() for name, text in named.items()}


def _unsettled(metrics: Mapping[str, float]) -> bool:
    names = ("requests_in_flight", "holds", "journal_unposted_rows", "journal_unsettled_rows")
    return any(metrics[f"goproxy_{name}"] for name in names)


@asynccontextmanager
async def a_stand(directory: Path, accounts: list[str], **documents: Mapping[str, Any]) -> AsyncIterator[Stand]:
    """A backend, and a goproxy for each upstream; `documents`: what is special in the configuration of each.

    All are running at the start but those with `"is_idle": True`.
    """
    keys = {account: new_key() for account in accounts}
    write_keys(directory / "keys.json", **keys)
    backend_port = free_port()
    idle = {upstream for upstream, changes in documents.items() if changes.get("is_idle")}
    configs = {
        upstream: _config(upstream, {name: value for name, value in changes.items() if name != "is_idle"})
        for upstream, changes in documents.items()
    }
    backend = _backend(directory / "backend", backend_port, configs, directory / "keys.json")
    admin = Backend(directory / "backend", {}, directory / "keys.json", backend_port)
    stand = Stand(directory, backend, admin, keys)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(backend.kill)
        await backend.start()
        for upstream, config in configs.items():
            proxy = _proxy(directory / upstream, upstream, config, backend_port)
            stand.proxies[upstream] = proxy
            stack.push_async_callback(proxy.daemon.kill)
        running = [proxy for upstream, proxy in stand.proxies.items() if upstream not in idle]
        await asyncio.gather(*(proxy.daemon.start() for proxy in running))
        yield stand
        with suppress(AssertionError):
            await asyncio.gather(*(proxy.daemon.stop() for proxy in stand.proxies.values() if proxy.daemon.is_alive))


def endpoint(base_url: str) -> list[dict[str, str]]:
    """The endpoints of an upstream that is at this address."""
    return endpoints_at(base_url)


def _config(upstream: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    document = config_document(
        upstream=upstream,
        port=free_port(),
        multiplier_band=[1, 2],
        models=[_MODEL | {"upstream": upstream}],
        timeouts={"connect": 10, "first_byte": 60, "idle": 60, "total": 600},
        disconnect={"policy": "drain", "concurrent": 10_000},
    )
    return document | dict(changes)


def _written(path: Path, config: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def _backend(directory: Path, port: int, configs: Mapping[str, Mapping[str, Any]], keys: Path) -> Daemon:
    files = {upstream: _written(directory / f"config-{upstream}.json", config) for upstream, config in configs.items()}
    tokens = {upstream: proxy_token(upstream) for upstream in configs}
    environment = backend_environment(directory, port, files, OPERATOR_TOKEN, tokens, keys)
    return Daemon("backend", "backend", port, environment, directory / "log")


def _proxy(directory: Path, upstream: str, config: Mapping[str, Any], backend_port: int) -> Proxy:
    file = _written(directory / "config.json", config)
    environment = proxy_environment(directory, file, UPSTREAM_SECRET, proxy_token(upstream), backend_port)
    return Proxy(upstream, directory, Daemon(upstream, "serve", config["port"], environment, directory / "log"))
