"""GET /v1/key: what a client sees of its key, and of what is left of its credit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from goproxy.core.pricing import NANODOLLARS
from goproxy.data_plane import statements
from goproxy.data_plane.control_client import ControlPlaneAway, ControlPlaneRefuses, Statement
from goproxy.data_plane.statements import AT_ONCE, Statements
from tests.gateway import ALICE, OPUS, Running, config_document, endpoints_at, running_gateway
from tests.provider import Provider

BODY = {"model": OPUS["id"], "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told is not told again, so that no test waits until it is forgotten."""
    monkeypatch.setattr(statements, "KEPT_SECONDS", 0)


async def look(client: aiohttp.ClientSession, key: str | None = None) -> dict[str, Any]:
    async with client.get("v1/key", headers={"x-api-key": key} if key else {}) as answer:
        shown: dict[str, Any] = await answer.json()
        assert (answer.status, answer.headers["X-Request-Id"][:4]) == (200, "req_"), shown
        return shown


async def new_key(gateway: Running, **limits: Any) -> tuple[str, str]:
    """A key of alice's, and its id."""
    made = await gateway.backend.post("accounts/alice/keys", limits)
    while gateway.books.keys.find(made["key"]) is None:
        await asyncio.sleep(0.01)
    return made["key"], made["id"]


async def test_what_is_left_of_an_accounts_credit(
    gateway: Running, client: aiohttp.ClientSession, provider: Provider
) -> None:
    shown = await look(client)
    assert {name: shown[name] for name in ("object", "account", "upstream", "wallet", "models")} == {
        "object": "key",
        "account": "alice",
        "upstream": "openhands",
        "wallet": "alice",
        "models": [OPUS["id"]],
    }
    assert (shown["expires_at"], shown["requests_per_minute"], shown["tokens_per_minute"]) == (None, None, None)
    credit = 1000 * NANODOLLARS
    told = [shown[f"{name}_nanodollars"] for name in ("credits", "spent", "remaining")]
    assert told == [credit, 0, credit]
    async with client.post("v1/messages", json=BODY) as answer:
        assert answer.status == 200
    (row,) = await gateway.rows()
    asked = provider.connections
    shown = await look(client)
    told = [shown[f"{name}_nanodollars"] for name in ("credits", "spent", "remaining")]
    assert told == [credit, row["cost_nanodollars"], credit - row["cost_nanodollars"]]
    assert provider.connections == asked, "the upstream is not asked"


async def test_a_key_with_a_limit_sees_that_alone(gateway: Running, client: aiohttp.ClientSession) -> None:
    key, id_ = await new_key(
        gateway,
        limit_nanodollars=NANODOLLARS,
        requests_per_minute=7,
        expires_at="2099-01-01T00:00:00Z",
        models=["claude-opus-4-5"],
    )
    async with client.get("v1/key", headers={"x-api-key": key}) as answer:
        text, shown = await answer.text(), await answer.json()
    assert (shown["id"], shown["wallet"], shown["models"]) == (id_, f"key:{id_}", [OPUS["id"]])
    assert (shown["credits_nanodollars"], shown["remaining_nanodollars"]) == (NANODOLLARS, NANODOLLARS)
    assert (shown["requests_per_minute"], shown["expires_at"][:10]) == (7, "2099-01-01")
    assert key not in text
    assert (await look(client))["wallet"] == "alice"


async def test_when_credit_renews(gateway: Running, client: aiohttp.ClientSession) -> None:
    shown = await look(client)
    assert [shown[name] for name in ("renews", "renews_to_nanodollars", "renews_at")] == [None, None, None]
    renewal = {"wallet": "alice", "period": "month", "amount_nanodollars": 2000 * NANODOLLARS}
    wallet = await gateway.backend.post("renewals", renewal)
    shown = await look(client)
    assert (shown["renews"], shown["renews_to_nanodollars"]) == ("month", 2000 * NANODOLLARS)
    assert (shown["renews_at"], shown["remaining_nanodollars"]) == (wallet["renews_at"], 2000 * NANODOLLARS)
    key, _ = await new_key(gateway, limit_nanodollars=NANODOLLARS)
    async with client.get("v1/key", headers={"x-api-key": key}) as answer:
        assert (await answer.json())["renews"] is None, "what its account has is nobody's business"


async def test_it_is_shown_to_those_who_have_a_key(client: aiohttp.ClientSession) -> None:
    async with client.get("v1/key", headers={"x-api-key": "wrong"}) as answer:
        assert answer.status == 401


async def test_without_the_backend_it_cannot_be_seen(gateway: Running, client: aiohttp.ClientSession) -> None:
    await gateway.backend.stop()
    async with client.get("v1/key") as answer:
        assert (answer.status, (await answer.json())["error"]["message"]) == (
            503,
            "The gateway cannot see your credit at the moment.",
        )
    async with client.get("v1/models") as answer:
        assert answer.status == 200, "the rest goes on"


async def test_an_older_backend_does_not_tell(gateway: Running, client: aiohttp.ClientSession) -> None:
    async def ask(_: str) -> Statement:
        raise ControlPlaneRefuses(404, "there is no such path")

    gateway.books.statements = Statements(ask)
    async with client.get("v1/key") as answer:
        assert answer.status == 503


async def test_an_upstream_with_a_wallet_of_its_own_shows_that(provider: Provider, keys: Path) -> None:
    document = config_document(endpoints=endpoints_at(provider.url), wallet="research")
    async with (
        running_gateway(document, keys) as gateway,
        aiohttp.ClientSession(base_url=gateway.url + "/", headers={"x-api-key": ALICE}) as client,
    ):
        shown = await look(client)
        assert (shown["wallet"], shown["credits_nanodollars"]) == ("alice/research", 0)
        credit = {"id": "c", "wallet": "alice/research", "kind": "grant", "amount_nanodollars": 5}
        await gateway.backend.post("credits", credit)
        assert (await look(client))["remaining_nanodollars"] == 5


class Backend:
    """Counts who asks, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = asyncio.Event()
        self.away = False

    async def ask(self, wallet: str) -> Statement:
        self.asked.append(wallet)
        await self.answers.wait()
        if self.away:
            raise ControlPlaneAway("it is")
        return Statement(10, 3)


async def test_the_backend_is_asked_once_for_all_who_ask_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "KEPT_SECONDS", 60)
    backend = Backend()
    looking = Statements(backend.ask)
    all_of_them = [asyncio.create_task(looking.of("alice")) for _ in range(50)]
    await asyncio.sleep(0)
    all_of_them[0].cancel()  # who leaves takes nothing away from the others
    backend.answers.set()
    told = await asyncio.gather(*all_of_them[1:])
    assert (told, await looking.of("alice"), backend.asked) == ([Statement(10, 3)] * 49, Statement(10, 3), ["alice"])
    monkeypatch.setattr(statements, "KEPT_SECONDS", 0)
    await looking.of("alice")
    assert backend.asked == ["alice", "alice"], "and again when it may be another"


async def test_a_few_wallets_are_asked_for_at_once() -> None:
    backend = Backend()
    looking = Statements(backend.ask)
    all_of_them = [asyncio.create_task(looking.of(f"account-{number}")) for number in range(3 * AT_ONCE)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(backend.asked) == AT_ONCE
    backend.answers.set()
    await asyncio.gather(*all_of_them)
    assert len(backend.asked) == 3 * AT_ONCE


async def test_nobody_waits_for_long_behind_a_backend_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_TURN_PATIENCE", 0.05)
    backend = Backend()
    looking = Statements(backend.ask)
    all_of_them = [asyncio.create_task(looking.of(f"account-{number}")) for number in range(3 * AT_ONCE)]
    told = await asyncio.gather(*all_of_them[AT_ONCE:], return_exceptions=True)
    assert [type(each) for each in told] == [ControlPlaneAway] * 2 * AT_ONCE
    looking.close()  # and who still waits ends with the proxy
    told = await asyncio.gather(*all_of_them[:AT_ONCE], return_exceptions=True)
    assert [type(each) for each in told] == [asyncio.CancelledError] * AT_ONCE


async def test_who_asked_is_forgotten_when_there_were_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_MOST_KEPT", 10)
    backend = Backend()
    backend.answers.set()
    looking = Statements(backend.ask)
    for number in range(100):
        await looking.of(f"account-{number}")
    assert len(looking._asked) <= 10


async def test_a_failure_is_told_to_all_who_wait_and_kept_no_longer_than_an_answer() -> None:
    backend = Backend()
    backend.away = True
    backend.answers.set()
    looking = Statements(backend.ask)
    told = await asyncio.gather(*(looking.of("alice") for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [ControlPlaneAway] * 3
    backend.away = False
    assert await looking.of("alice") == Statement(10, 3)
