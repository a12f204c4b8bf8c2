"""A backend that runs in the test's own process, with an operator and three proxies that know their tokens."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from goproxy.control_plane.admin_api import AdminApi
from goproxy.control_plane.catalogue import Catalogue
from goproxy.control_plane.credentials import ProxyTokens, TokenFile
from goproxy.control_plane.declared import DeclaredFile
from goproxy.control_plane.metrics import Metrics
from goproxy.control_plane.openapi import describe
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.server import make_app
from goproxy.control_plane.store.database import Database
from goproxy.core.ledger import Row, Settlement
from goproxy.core.pricing import cost_as_written
from goproxy.core.usage import Usage
from goproxy.hosting import Stay, make_runner
from tests.gateway import OPUS, config_document

OPERATOR = "operator-CANARY-token"
WALLETS = {"openhands": None, "ohmygpt": None, "second": "team"}
"""The upstreams, and the wallet that each has of its own."""

PROXY = {upstream: f"proxy-CANARY-{upstream}" for upstream in WALLETS}
DOLLAR = 10**9

AS_LISTED = 267_570
"""What a `row` costs by the prices of the model."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"].startswith("application/json"), self.text
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The message of an error, whose shape is always the same."""
        error = self.json["error"]
        assert set(error) == {"type", "message"}
        return str(error["message"])


@dataclass
class Backend:
    """What a test needs to know of a running backend."""

    url: str
    directory: Path
    plane: ControlPlane
    app: web.Application
    stay: Stay
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, token: str | None = OPERATOR, **more: Any) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.request(method, self.url + path, headers=headers, **more) as answer:
            self._check_described(method, path, answer.status)
            return Answer(answer.status, dict(answer.headers), await answer.text("utf-8", "replace"))

    def _check_described(self, method: str, path: str, status: int) -> None:
        """Every answer of the admin API must be one that its description knows."""
        for pattern, answers in _described(self.plane):
            if re.fullmatch(pattern, f"{method} {path.partition('?')[0]}"):
                assert str(status) in answers or status == 500, f"{method} {path} answers {status}"

    async def admin(self, method: str, path: str, document: Any = None, **more: Any) -> Any:
        """Ask the admin API for what it will do; the answer's document."""
        answer = await self.ask(method, f"/admin/v1{path}", json=document, **more)
        assert answer.status < 300, answer.text
        return answer.json

    async def account(self, name: str = "alice", dollars: int = 10) -> None:
        """Make an account with credit."""
        await self.admin("POST", "/accounts", {"name": name})
        if dollars:
            await self.grant(name, dollars)

    async def grant(self, wallet: str, dollars: int, credit_id: str | None = None) -> Any:
        new = {"wallet": wallet, "kind": "grant", "amount_nanodollars": dollars * DOLLAR}
        return await self.admin("POST", "/credits", new | {"id": credit_id or f"grant-{wallet.replace('/', '-')}"})

    async def key(self, account: str = "alice", **limits: Any) -> Any:
        return await self.admin("POST", f"/accounts/{account}/keys", limits)

    async def wallet(self, wallet: str) -> Any:
        (found,) = [each for each in (await self.admin("GET", "/wallets"))["wallets"] if each["id"] == wallet]
        whole = found["balance_nanodollars"] + found["held_nanodollars"] + found["spent_nanodollars"]
        assert found["credits_nanodollars"] == whole
        return found

    async def proxy(self, path: str, document: Any, upstream: str = "openhands") -> Answer:
        body = io.BytesIO(json.dumps(document).encode())
        return await self.ask("POST", f"/proxy/v1{path}", PROXY[upstream], data=body)

    async def lend(self, instance: str, sequence: int, *asks: tuple[str, int, int], upstream: str = "openhands") -> Any:
        """A call for leases that is answered: by wallet, what it was told. Accounts get a key, if they have none."""
        for account in {wallet.partition("/")[0] for wallet, _, _ in asks}:
            await self._admit(account)
        wanted = [{"wallet": wallet, "known_total": known, "want": want} for wallet, known, want in asks]
        call = {"instance": instance, "upstream": upstream, "sequence": sequence, "leases": wanted}
        answer = await self.proxy("/leases", call, upstream)
        assert answer.status == 200, answer.text
        return {each["wallet"]: each for each in answer.json["leases"]}

    async def _admit(self, account: str) -> None:
        found = await self.ask("GET", f"/admin/v1/keys?account={account}")
        if found.status == 200 and not found.json["keys"]:
            await self.key(account)

    async def lend_answer(self, number: int) -> Answer:
        """Whatever is answered to a call for leases."""
        return await self.proxy(
            "/leases", {"instance": f"i{number}", "upstream": "openhands", "sequence": 1, "leases": []}
        )

    async def post(self, instance: str, *rows: Row, upstream: str = "openhands") -> Any:
        """A post of rows that is answered."""
        document = {"instance": instance, "upstream": upstream, "rows": [row.to_json() for row in rows]}
        answer = await self.proxy("/rows", document, upstream)
        assert answer.status == 200, answer.text
        return answer.json

    async def poll(self, instance: str = "i", after: int = 0, wait: int = 0, upstream: str = "openhands") -> Answer:
        query = f"instance={instance}&after={after}&wait={wait}"
        return await self.ask("GET", f"/proxy/v1/keys?{query}", PROXY[upstream])

    def offer(self, **prices: Any) -> None:
        """Change the prices of the only model, as a new configuration does."""
        self.configure("openhands", OPUS | {"prices": [OPUS["prices"][0] | prices]})

    def configure(self, upstream: str, *models: Any) -> None:
        """Give an upstream these models."""
        document = config_document(upstream=upstream, models=list(models))
        (self.directory / f"config-{upstream}-prod.json").write_text(json.dumps(document))
        self.plane.catalogue.look()

    def declare(self, **document: Any) -> None:
        """Write keys.json as the role does: beside, then renamed."""
        beside = self.directory / "keys.json.new"
        beside.write_text(json.dumps(document))
        beside.rename(self.directory / "keys.json")


_DESCRIBED: list[tuple[str, frozenset[str]]] = []


def _described(plane: ControlPlane) -> list[tuple[str, frozenset[str]]]:
    """A pattern of each operation's method and path, and the statuses of its answers."""
    if not _DESCRIBED:
        for path, operations in describe(AdminApi(plane).operations())["paths"].items():
            for method, operation in operations.items():
                pattern = re.sub(r"\{\w+\}", "[^/]+", path)
                _DESCRIBED.append((f"{method.upper()} {pattern}", frozenset(operation["responses"])))
    return _DESCRIBED


@asynccontextmanager
async def running_backend(url: str, directory: Path) -> AsyncIterator[Backend]:
    """Run a backend on a migrated store; its files are in `directory`."""
    tokens = directory / "proxy_tokens"
    tokens.mkdir(exist_ok=True)
    for upstream, token in PROXY.items():
        (tokens / upstream).write_text(hashlib.sha256(token.encode()).hexdigest())
    (directory / "operator_token").write_text(hashlib.sha256(OPERATOR.encode()).hexdigest() + "\n")
    paths = {}
    for upstream, wallet in WALLETS.items():
        path = paths[f"GOPROXY_{upstream.upper()}_CONFIG_PATH"] = directory / f"config-{upstream}-prod.json"
        if not path.exists():
            path.write_text(json.dumps(config_of(upstream, wallet)))
    catalogue = Catalogue(paths)
    catalogue.look()
    metrics, stay = Metrics(), Stay()
    plane = ControlPlane(
        catalogue,
        Database(url, metrics.worked),
        operator=TokenFile(directory / "operator_token"),
        proxies=ProxyTokens(tokens),
        declared=DeclaredFile(directory / "keys.json"),
        metrics=metrics,
    )
    async with AsyncExitStack() as stack:
        app = make_app(catalogue, stay, plane)
        runner = make_runner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Backend(f"http://127.0.0.1:{runner.addresses[0][1]}", directory, plane, app, stay, session)


def config_of(upstream: str, wallet: str | None = None) -> dict[str, Any]:
    """The configuration of an upstream with the one model."""
    own = {} if wallet is None else {"wallet": wallet}
    return config_document(upstream=upstream, models=[OPUS | {"upstream": upstream}], **own)


def prices_for(cost: int, usage: Usage, multiplier: str) -> dict[str, str]:
    """Prices by which a usage costs so much: those of the model, if they come to that."""
    price = {"input": "5", "cache_write_5m": "6.25", "cache_write_1h": "10", "cache_read": "0.5"}
    prices = price | {"output": "25", "reasoning": "25"}
    counts = usage.to_json() | {"output": usage.output - usage.reasoning}
    if not cost or cost_as_written(usage, prices, multiplier) == cost:
        return prices if cost else dict.fromkeys(prices, "0")
    kind = max(counts, key=lambda kind: counts[kind])
    with localcontext(prec=60):
        a_token = Decimal(cost) / (counts[kind] * 1000 * Decimal(multiplier))
        return dict.fromkeys(prices, "0") | {kind: f"{a_token:.40f}"}


def row(number: int, cost: int = 1_000_000, **changes: Any) -> Row:
    """A row as a proxy posts it: its cost follows from its prices, unless those are given."""
    values: dict[str, Any] = {
        "id": f"req_{number:024x}",
        "opened_at": "2026-11-23T10:00:00.000Z",
        "settled_at": "2026-11-23T10:00:05.000Z",
        "account": "alice",
        "key_id": "key_0123456789abcdef",
        "wallets": ("alice",),
        "upstream": "openhands",
        "endpoint": "openhands-anthropic",
        "protocol": "anthropic",
        "model": "claude-opus-4-5-20251101",
        "stream": True,
        "estimated_input_tokens": 100,
        "hold_nanodollars": max(cost, 5_000_000),
        "settlement": Settlement.EXACT,
        "status": 200,
        "outcome": "ok",
        "usage": Usage(input=9, cache_write_5m=1, cache_write_1h=2, cache_read=3, output=7, reasoning=4),
        "raw_usage": {"input_tokens": 9, "output_tokens": 7, "service_tier": "standard", "odd": [1.5, None, "ü"]},
        "flags": ("total_mismatch",),
        "price_version": "2025-11-24",
        "tier_up_to": None,
        "multiplier": "1.08",
        "cost_nanodollars": cost,
        "received_bytes": 1000,
        "answered_bytes": 1200,
        "upstream_request_id": f"up_{number}",
        "upstream_model": "claude-opus-4-5-20251101",
    }
    values |= changes
    is_bounded = "capped_at_hold" in values["flags"]
    values.setdefault("prices", prices_for(2 * cost if is_bounded else cost, values["usage"], values["multiplier"]))
    return Row(**values)
