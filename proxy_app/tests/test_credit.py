"""Who may spend how much: wallets, keys with limits, and many requests at once over more than one proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from goproxy.config import parse_config
from goproxy.core.input_estimate import IMAGE_TOKENS, LARGEST_IMAGE_TOKENS
from goproxy.core.key_snapshot import KeySnapshot
from goproxy.core.ledger import Hold
from goproxy.core.protocols import PROTOCOLS
from goproxy.core.wire import Fault, Refusal
from goproxy.data_plane.admission import Admitted, admit, check_permission, hold_for, refusal_of
from goproxy.data_plane.bodies import Bodies, Body
from goproxy.data_plane.books import InsufficientFunds
from tests.backend import Backend, running_backend
from tests.conftest import Lines
from tests.control import key_entry
from tests.gateway import OPUS, Running, config_document, running_proxy
from tests.provider import Provider, Received, Wire
from tests.streams import anthropic_message

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
BODY = json.dumps({"model": OPUS["id"], "max_tokens": 100, "messages": [{"role": "user", "content": "Hello" * 100}]})
HOLD = len(BODY) * 10800 + 100 * 27000
"""The worst case of BODY: a byte is at most a token, and the dearest input is what a cache keeps for an hour."""

USED = {"input_tokens": 9, "output_tokens": 7}
COST = 9 * 5400 + 7 * 27000
ALL_OF_IT = {
    "input_tokens": 0,
    "output_tokens": 100,
    "cache_creation_input_tokens": len(BODY),
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": len(BODY)},
}
"""The worst case comes true."""


async def new_account(backend: Backend, credit: int, **limits: Any) -> str:
    """Carol's account with so many nano-dollars, and a key of it."""
    await backend.post("accounts", {"name": "carol"})
    await grant(backend, credit)
    return await new_key(backend, "carol", **limits)


async def grant(backend: Backend, amount: int) -> None:
    credit = {"id": f"credit:{amount}", "wallet": "carol", "kind": "grant", "amount_nanodollars": amount}
    await backend.post("credits", credit)


async def new_key(backend: Backend, account: str, **limits: Any) -> str:
    key: str = (await backend.post(f"accounts/{account}/keys", limits))["key"]
    return key


async def with_a_neighbour(backend: Backend) -> Backend:
    """With another upstream in its catalogue, and another model there."""
    await backend.stop()
    other = OPUS | {"id": "other", "id_aliases": [], "upstream": "ohmygpt"}
    backend.documents["ohmygpt"] = config_document(upstream="ohmygpt", models=[other])
    await backend.start()
    return backend


async def wallet_of(backend: Backend, account: str) -> dict[str, int]:
    wallet, *_ = (await backend.get("wallets", account=account))["wallets"]
    return {name.removesuffix("_nanodollars"): value for name, value in wallet.items() if isinstance(value, int)}


class Client:
    """A client that shows a key, once the proxies know it."""

    def __init__(self, key: str, *gateways: Running) -> None:
        self.key = key
        self._gateways = gateways

    @asynccontextmanager
    async def ask(
        self, path: str = PATHS["anthropic"], gateway: Running | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with (
            aiohttp.ClientSession(headers={"x-api-key": self.key}) as session,
            session.post((gateway or self._gateways[0]).url + path, data=BODY) as answer,
        ):
            yield answer

    async def status(self, path: str = PATHS["anthropic"], gateway: Running | None = None) -> int:
        async with self.ask(path, gateway) as answer:
            await answer.read()
            return answer.status

    async def is_known(self) -> None:
        async with asyncio.timeout(30):
            while not all(gateway.books.keys.find(self.key) for gateway in self._gateways):
                await asyncio.sleep(0.005)


async def known(key: str, *gateways: Running) -> Client:
    client = Client(key, *gateways)
    await client.is_known()
    return client


(MODEL,) = parse_config(json.dumps(config_document()).encode()).models


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({"max_tokens": 10**9}, MODEL.max_output_tokens),
        ({}, MODEL.max_output_tokens),
        ({"max_tokens": 100, "n": 3}, 300),
    ],
)
def test_what_is_held_is_for_as_long_an_answer_as_is_asked_for_and_the_model_gives(
    asked: dict[str, int], tokens: int
) -> None:
    """At 25 dollars a million; a prompt could be written into the cache for an hour, at 10."""
    hold = held(asked)
    assert hold.amount == (25_000 * tokens + 10_000 * hold.estimated_input_tokens) * MODEL.billing_multiplier


def test_more_is_held_for_an_image_than_is_estimated_of_it() -> None:
    """OpenAI takes it as it is, and few are as large as they may be."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    hold = held({"max_tokens": 0, "messages": [{"role": "user", "content": [image]}]}, text="")
    large = LARGEST_IMAGE_TOKENS - IMAGE_TOKENS
    output = 25_000 * MODEL.max_output_tokens
    assert hold.amount == (output + 10_000 * (hold.estimated_input_tokens + large)) * MODEL.billing_multiplier


def test_no_more_is_held_for_a_prompt_than_the_model_reads() -> None:
    long, longer = (held({"max_tokens": 1}, text="a" * length * MODEL.context_tokens) for length in (8, 16))
    assert long.estimated_input_tokens == MODEL.context_tokens
    assert long.amount == longer.amount


@pytest.mark.parametrize(
    ("wallet", "limits", "wallets"),
    [
        (None, False, ("alice",)),
        (None, True, ("alice", "key:key_1")),
        ("team", True, ("alice/team", "key:key_1")),
    ],
)
def test_it_is_held_in_the_wallet_of_the_account_or_the_upstream_and_of_a_key_with_a_limit(
    wallet: str | None, limits: bool, wallets: tuple[str, ...]
) -> None:
    assert held({}, wallet=wallet, limits=limits).wallets == wallets


@pytest.mark.parametrize(
    ("limit", "by_max_tokens", "by_the_other"),
    [(None, 1, 1), ("either", 1, 1), ("max_tokens", 1, 64_000), ("max_completion_tokens", 64_000, 1)],
)
def test_a_field_that_the_provider_passes_over_bounds_no_chat(
    limit: str | None, by_max_tokens: int, by_the_other: int
) -> None:
    config = {"chat_limit": limit} if limit else {}

    def answer(**fields: int) -> int:
        asked = admitted({"n": 1, **fields}, "openai", **config)
        return min(asked.asked.max_output_tokens or asked.model.max_output_tokens, asked.model.max_output_tokens)

    assert (answer(max_tokens=1), answer(max_completion_tokens=1)) == (by_max_tokens, by_the_other)
    assert answer(max_tokens=1, max_completion_tokens=1) == 1
    assert answer(max_tokens=1, max_completion_tokens=9) == 9
    message = admitted({"max_tokens": 1}, "anthropic", **config)
    assert message.asked.max_output_tokens == 1


def admitted(asked: dict[str, Any], protocol: str, **config: Any) -> Admitted:
    """A request with these fields."""
    read = parse_config(json.dumps(config_document(**config)).encode())
    body = Body(Bodies(10**9))
    body.data = json.dumps({"model": OPUS["id"], "messages": [], **asked}).encode()
    return admit(body, read, PROTOCOLS[protocol])


def held(asked: dict[str, Any], *, text: str = "Hello", wallet: str | None = None, limits: bool = False) -> Hold:
    """What is held for a request by a key of Alice's."""
    config = parse_config(json.dumps(config_document(**({"wallet": wallet} if wallet else {}))).encode())
    key = KeySnapshot.from_json({"version": 1, "keys": [key_entry("key", wallets_limit=limits)]}).find("key")
    assert key is not None
    body = Body(Bodies(10**9))
    document = {"model": OPUS["id"], "messages": [{"role": "user", "content": text}], **asked}
    body.data = json.dumps(document).encode()
    endpoint = config.endpoints["openai"]
    return hold_for(admit(body, config, endpoint.protocol), config, key, endpoint, "req_1")


def test_a_key_for_another_upstream_that_an_older_control_plane_tells_may_not_be_used_here() -> None:
    config = parse_config(json.dumps(config_document()).encode())
    told = KeySnapshot.from_json({"version": 1, "keys": [key_entry("key", upstreams=["ohmygpt"])]})
    key = told.find("key")
    assert key is not None
    with pytest.raises(Refusal, match="may not use the upstream openhands") as refusal:
        check_permission(key, config.upstream, config.models[0])
    assert refusal.value.fault is Fault.PERMISSION


@pytest.mark.parametrize(
    ("protocol", "kind"),
    [
        ("anthropic", {"type": "billing_error"}),
        ("openai", {"type": "insufficient_quota", "code": "insufficient_quota", "param": None}),
    ],
)
async def test_too_little_credit_is_402_with_the_amounts(
    gateway: Running, provider: Provider, lines: Lines, protocol: str, kind: dict[str, Any]
) -> None:
    client = await known(await new_account(gateway.backend, 1_000_000), gateway)
    async with client.ask(PATHS[protocol]) as answer:
        assert (answer.status, answer.headers["x-should-retry"]) == (402, "false")
        body = await answer.json()
    held = f"$0.{HOLD:09}".rstrip("0")
    assert body["error"] == kind | {
        "message": f"This request could cost up to {held}, and your account has $0.001 free. "
        "Ask for fewer tokens (max_tokens), or for more credit."
    }
    assert provider.received == []
    assert await gateway.rows() == []
    assert (await lines.request())["outcome"] == "refused"
    assert await wallet_of(gateway.backend, "carol") == {
        "credits": 1_000_000,
        "balance": 1_000_000,
        "held": 0,
        "spent": 0,
    }


@pytest.mark.parametrize(
    ("wallet", "whose"),
    [
        ("carol", "your account"),
        ("carol/research", "your wallet carol/research"),
        ("key:1", "your key's spending limit"),
    ],
)
def test_what_is_empty_is_named(wallet: str, whose: str) -> None:
    assert f"and {whose} has $0.00 free" in refusal_of(InsufficientFunds(wallet, 5, 0)).message


async def test_more_credit_helps_at_once(gateway: Running) -> None:
    client = await known(await new_account(gateway.backend, HOLD - 1), gateway)
    assert await client.status() == 402
    await grant(gateway.backend, 1)
    assert await client.status() == 200


async def test_who_asks_again_at_once_has_what_was_not_used(gateway: Running, provider: Provider) -> None:
    """There is enough for one request at a time, and the one before is settled after its client has the answer."""

    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(anthropic_message(USED))

    provider.script = script
    client = await known(await new_account(gateway.backend, HOLD + 9 * COST), gateway)
    async with aiohttp.ClientSession(headers={"x-api-key": client.key}) as session:
        for _ in range(10):
            async with session.post(gateway.url + PATHS["anthropic"], data=BODY) as answer:
                await answer.read()
                assert answer.status == 200


@pytest.fixture
async def pair(document: dict[str, Any], keys: Path, tmp_path: Path) -> AsyncIterator[tuple[Running, Running]]:
    """The proxies of two upstreams, with one backend."""
    other = document | {"upstream": "ohmygpt", "models": [OPUS | {"upstream": "ohmygpt"}]}
    async with (
        running_backend(tmp_path / "backend", keys, document, other) as backend,
        running_proxy(document, backend) as first,
        running_proxy(other, backend) as second,
    ):
        yield first, second


@pytest.mark.parametrize("usage", [ALL_OF_IT, USED], ids=["the worst case", "little"])
async def test_requests_at_once_over_two_proxies_spend_no_more_than_there_is(
    pair: tuple[Running, Running], provider: Provider, usage: dict[str, Any]
) -> None:
    running = most = 0

    async def script(_: Received, wire: Wire) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.3)
        await wire.whole(anthropic_message(usage))
        running -= 1

    provider.script = script
    backend = pair[0].backend
    client = await known(await new_account(backend, 10 * HOLD), *pair)
    answers = await asyncio.gather(*(client.status(gateway=pair[number % 2]) for number in range(50)))
    passed = answers.count(200)
    assert answers.count(402) == 50 - passed
    assert most <= 10
    if usage is ALL_OF_IT:
        assert passed == 10, "as many as there is money for, and no more"
    rows = [*await pair[0].rows(), *await pair[1].rows()]
    spent = sum({row["id"]: row["cost_nanodollars"] for row in rows}.values())
    wallet = await wallet_of(backend, "carol")
    assert len(provider.received) == passed == len({row["id"] for row in rows})
    assert wallet["spent"] == spent <= wallet["credits"] == 10 * HOLD
    assert wallet["balance"] >= 0
    assert wallet["held"] >= 0
    assert wallet["credits"] == wallet["balance"] + wallet["held"] + wallet["spent"]


async def test_a_key_with_a_spending_limit_spends_it_and_its_accounts_credit(
    gateway: Running, provider: Provider
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(anthropic_message(USED))

    provider.script = script
    key = await new_account(gateway.backend, 100 * HOLD, limit_nanodollars=HOLD + COST)
    client = await known(key, gateway)
    assert [await client.status() for _ in range(2)] == [200, 200]
    async with client.ask() as answer:
        assert answer.status == 402
        assert "your key's spending limit has " in (await answer.json())["error"]["message"]
    rows = await gateway.rows()
    (made,) = (await gateway.backend.get("keys", account="carol"))["keys"]
    assert [row["wallets"] for row in rows] == [["carol", f"key:{made['id']}"]] * 2
    wallets = (await gateway.backend.get("wallets", account="carol"))["wallets"]
    assert [wallet["spent_nanodollars"] for wallet in wallets] == [2 * COST, 2 * COST]
    unlimited = await known(await new_key(gateway.backend, "carol"), gateway)
    assert await unlimited.status() == 200


async def test_a_key_that_has_expired_is_refused(gateway: Running) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=3)
    client = await known(await new_account(gateway.backend, HOLD, expires_at=ends.isoformat()), gateway)
    assert await client.status() == 200
    await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 0.01)
    assert await client.status() == 401


async def test_a_key_for_another_upstream_is_unknown_here(gateway: Running, provider: Provider) -> None:
    elsewhere = await new_account(await with_a_neighbour(gateway.backend), HOLD, upstreams=["ohmygpt"])
    client = await known((await gateway.backend.post("accounts/carol/keys", {}))["key"], gateway)
    assert await client.status() == 200
    client.key = elsewhere
    assert await client.status() == 401
    assert len(provider.received) == 1


@pytest.mark.parametrize(
    ("protocol", "kind"),
    [
        ("anthropic", {"type": "permission_error"}),
        ("openai", {"type": "invalid_request_error", "code": "permission_denied", "param": None}),
    ],
)
async def test_a_key_for_another_model_is_403(
    gateway: Running, provider: Provider, protocol: str, kind: dict[str, Any]
) -> None:
    backend = await with_a_neighbour(gateway.backend)
    client = await known(await new_account(backend, HOLD, models=["other"]), gateway)
    async with client.ask(PATHS[protocol]) as answer:
        assert answer.status == 403
        assert (await answer.json())["error"] == kind | {"message": f"This key may not use the model {OPUS['id']}."}
    assert provider.received == []


@pytest.mark.parametrize(("models", "shown", "status"), [(["other"], [], 403), (OPUS["id_aliases"], [OPUS["id"]], 200)])
async def test_a_key_is_shown_the_models_that_it_may_use(
    gateway: Running, models: list[str], shown: list[str], status: int
) -> None:
    client = await known(await new_account(await with_a_neighbour(gateway.backend), HOLD, models=models), gateway)
    async with aiohttp.ClientSession(gateway.url, headers={"x-api-key": client.key}) as session:
        async with session.get("/v1/models") as answer:
            assert [model["id"] for model in (await answer.json())["data"]] == shown
        async with session.get(f"/v1/models/{OPUS['id']}") as answer:
            assert answer.status == status


async def test_a_key_may_be_for_a_model_by_its_alias(gateway: Running) -> None:
    limits = {"upstreams": ["openhands", "ohmygpt"], "models": OPUS["id_aliases"]}
    client = await known(await new_account(await with_a_neighbour(gateway.backend), HOLD, **limits), gateway)
    assert await client.status() == 200


@pytest.mark.parametrize(
    ("limits", "let_in", "sentence", "wait"),
    [
        ({"requests_per_minute": 3}, 3, "This key may use 3 requests per minute here", 20),
        ({"tokens_per_minute": 20}, 2, "This key may use 20 tokens per minute here", 39),
    ],
)
@pytest.mark.parametrize("protocol", PATHS)
async def test_more_than_a_key_may_use_in_a_minute_is_429(
    gateway: Running,
    provider: Provider,
    limits: dict[str, int],
    let_in: int,
    sentence: str,
    wait: int,
    protocol: str,
    eventually: Callable[..., Any],
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(anthropic_message(USED))  # 16 tokens

    provider.script = script
    client = await known(await new_account(gateway.backend, 100 * HOLD, **limits), gateway)
    for number in range(1, let_in + 1):
        assert await client.status() == 200
        await eventually(lambda: gateway.books.standing.open_requests == 0)
        await gateway.gateway.settler.settled()
        assert len(provider.received) == number
    async with client.ask(PATHS[protocol]) as answer:
        assert answer.status == 429
        assert wait - 5 <= int(answer.headers["retry-after"]) <= wait + 1
        error = (await answer.json())["error"]
        assert error["type"] == "rate_limit_error"
        assert error["message"].startswith(sentence)
    assert len(provider.received) == let_in
    other = await known(await new_key(gateway.backend, "carol"), gateway)
    assert await other.status() == 200
