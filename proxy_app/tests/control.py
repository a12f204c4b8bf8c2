"""A control plane in memory: it keeps the rules of the proxy API, and can be away, slow, or lose its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from goproxy.core.keys import digest
from goproxy.core.lease import Wallet
from goproxy.core.ledger import InvalidRow, Row

TOKEN = "proxy-token"
CHUNK = 500
"""Nano-dollars that are lent on top."""


def key_entry(key: str, **changes: Any) -> dict[str, Any]:
    """A key as the control plane tells it."""
    entry = {
        "id": "key_1",
        "account": "alice",
        "sha256": digest(key),
        "wallets_limit": False,
        "expires_at": None,
        "upstreams": None,
        "models": None,
        "requests_per_minute": None,
        "tokens_per_minute": None,
    }
    return entry | changes


@dataclass
class Control:
    """Wallets, rows, keys, and who said what."""

    wallets: dict[str, Wallet] = field(default_factory=dict)
    rows: dict[str, tuple[str, Row]] = field(default_factory=dict)
    """By id: the instance that posted it first."""
    sequences: dict[str, int] = field(default_factory=dict)
    keys: list[dict[str, Any]] = field(default_factory=list)
    version: int = 1
    recalls: dict[str, set[str]] = field(default_factory=dict)
    """By instance."""
    rejects: dict[str, str] = field(default_factory=dict)
    """Rows by id, with the reason."""
    refuses_batches_with: set[str] = field(default_factory=set)
    away: bool = False
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, or every call hangs."""
    loses_answers: int = 0
    """So many answers never arrive, though the calls have their effect."""
    loses_all_of: set[str] = field(default_factory=set)
    """Verbs; the same of all their answers."""
    disowns: set[str] = field(default_factory=set)
    """Instances that are another upstream's: 409 to whatever they say."""
    lends_nothing_to: set[str] = field(default_factory=set)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    takes: float = 0.0
    """Seconds that it needs for rows."""
    on_call: Callable[[str], None] = lambda _: None
    url: str = ""

    def calls_to(self, verb: str) -> list[dict[str, Any]]:
        return [document for name, document in self.calls if name == verb]

    async def tell(self, *keys: dict[str, Any]) -> None:
        """Publish other keys."""
        async with self.changed:
            self.keys, self.version = list(keys), self.version + 1
            self.changed.notify_all()

    def total_is_right(self) -> bool:
        """credits = balance + held + spent, in each wallet; and none was overdrawn."""
        return all(
            wallet.credits == wallet.balance + wallet.held + wallet.spent and wallet.balance >= 0
            for wallet in self.wallets.values()
        )

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        await self.answers.wait()
        if self.away:
            assert request.transport is not None
            request.transport.close()
            raise web.HTTPServiceUnavailable
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _refusal(401, "authentication_error", "who are you?")
        response: web.StreamResponse = await handler(request)
        is_lost = request.path.rpartition("/")[2] in self.loses_all_of
        if self.loses_answers and request.method == "POST":
            self.loses_answers -= 1
            is_lost = True
        if is_lost:
            assert request.transport is not None
            request.transport.abort()
        return response

    async def take_rows(self, request: web.Request) -> web.Response:
        document = await request.json()
        self.calls.append(("rows", document))
        self.on_call("rows")
        await asyncio.sleep(self.takes)
        assert len(document["rows"]) <= 500
        if document["instance"] in self.disowns:
            return _refusal(409, "conflict_error", "an instance of another upstream")
        if self.refuses_batches_with & {row["id"] for row in document["rows"]}:
            return _refusal(422, "invalid_request_error", "something in it is wrong")
        accepted, rejected = [], []
        for item in document["rows"]:
            if item["id"] in self.rejects:
                rejected.append({"id": item["id"], "reason": self.rejects[item["id"]]})
                continue
            try:
                row = Row.from_json(item)
            except InvalidRow as error:
                rejected.append({"id": item["id"], "reason": str(error)})
                continue
            accepted.append(row.id)
            if row.id not in self.rows:
                self.rows[row.id] = document["instance"], row
                for wallet in row.wallets:
                    self.wallets.setdefault(wallet, Wallet()).spend(document["instance"], row.cost_nanodollars)
        return web.json_response({"accepted": accepted, "rejected": rejected})

    async def lend(self, request: web.Request) -> web.Response:
        document = await request.json()
        self.calls.append(("leases", document))
        self.on_call("leases")
        instance = document["instance"]
        if instance in self.disowns or document["sequence"] <= self.sequences.get(instance, -1):
            return _refusal(409, "conflict_error", "that was before")
        for asked in document["leases"]:
            if self.wallets.get(asked["wallet"], Wallet()).is_exceeded(instance, asked["known_total"]):
                return _refusal(409, "conflict_error", "more than it was lent")
        self.sequences[instance] = document["sequence"]
        answers = []
        for asked in document["leases"]:
            wallet = self.wallets.setdefault(asked["wallet"], Wallet())
            want = 0 if instance in self.lends_nothing_to else asked["want"]
            before = wallet.lend(instance, asked["known_total"], 0, 0)
            total = wallet.lend(instance, before, want, CHUNK)
            if total - before < asked["want"]:
                await self._recall(instance, asked["wallet"])
            spent = wallet.loans[instance].spent_total
            answer = {"wallet": asked["wallet"], "granted_total": total, "spent_total": spent}
            answers.append({**answer, "balance": wallet.balance})
        return web.json_response({"leases": answers})

    async def tell_keys(self, request: web.Request) -> web.Response:
        query = request.query
        self.calls.append(("keys", dict(query)))
        recalls = self.recalls.setdefault(query["instance"], set())
        after, wait = int(query["after"]), int(query["wait"])
        try:
            async with asyncio.timeout(wait), self.changed:
                await self.changed.wait_for(lambda: self.version > after or recalls or self.away)
        except TimeoutError:
            return web.Response(status=204)
        answer = {"version": self.version, "keys": self.keys, "recall": sorted(recalls)}
        recalls.clear()
        return web.json_response(answer)

    async def _recall(self, by: str, wallet: str) -> None:
        async with self.changed:
            for instance, loan in self.wallets[wallet].loans.items():
                if instance != by and loan.held > 0:
                    self.recalls.setdefault(instance, set()).add(wallet)
            self.changed.notify_all()

    async def leave(self) -> None:
        """Be away from now on."""
        async with self.changed:
            self.away = True
            self.changed.notify_all()


def _refusal(status: int, type_: str, message: str) -> web.Response:
    return web.Response(
        status=status,
        text=json.dumps({"error": {"type": type_, "message": message}}),
        content_type="application/json",
    )


@asynccontextmanager
async def running_control() -> AsyncIterator[Control]:
    """Run one, on a port of its own."""
    control = Control()
    control.answers.set()
    app = web.Application(middlewares=[control.guard])
    app.router.add_post("/proxy/v1/rows", control.take_rows)
    app.router.add_post("/proxy/v1/leases", control.lend)
    app.router.add_get("/proxy/v1/keys", control.tell_keys)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    control.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield control
    finally:
        await runner.cleanup()
