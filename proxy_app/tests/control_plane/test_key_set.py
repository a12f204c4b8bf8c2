"""Changing what a living key may do: told at once, and nothing that was lent, is running or was paid for is lost."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from goproxy.control_plane.store import keys
from goproxy.core.usage import Usage
from tests.control_plane.backend import DOLLAR, Backend, row
from tests.control_plane.conftest import on_sqlite
from tests.control_plane.test_key_feed import told, version, waiting
from tests.gateway import OPUS

LIMITS: dict[str, Any] = {
    "expires_at": "2099-01-01T00:00:00.000Z",
    "upstreams": ["openhands"],
    "models": ["claude-opus-4-5"],
    "requests_per_minute": 7,
    "tokens_per_minute": 9000,
    "limit_nanodollars": 5 * DOLLAR,
}


async def set_key(backend: Backend, key: Any, **changes: Any) -> Any:
    return await backend.admin("POST", f"/keys/{key['id']}/set", changes)


async def refused(backend: Backend, key: Any, status: int, **changes: Any) -> str:
    answer = await backend.ask("POST", f"/admin/v1/keys/{key['id']}/set", json=changes)
    assert answer.status == status, answer.text
    return answer.error


async def test_what_is_named_changes_and_is_told_at_once(backend: Backend) -> None:
    await backend.account()
    key = await backend.key(**LIMITS)
    before = await version(backend)
    poll = await waiting(backend, after=before)
    changes = {"expires_at": "2098-01-01T00:00:00.000Z", "models": ["claude-opus-4-5-20251101"], "tokens_per_minute": 5}
    changed = await set_key(backend, key, **changes)
    assert changed == {name: value for name, value in key.items() if name != "key"} | changes
    news = (await told(poll)).json
    (entry,) = news["keys"]
    assert news["version"] > before
    assert {name: entry[name] for name in changes} == changes
    assert (entry["requests_per_minute"], entry["wallets_limit"]) == (7, True)


async def test_null_takes_each_limit_away(backend: Backend) -> None:
    await backend.account()
    key = await backend.key(**LIMITS)
    changed = await set_key(backend, key, **dict.fromkeys(LIMITS))
    assert {changed[name] for name in LIMITS} == {None}
    (entry,) = (await backend.poll(upstream="ohmygpt")).json["keys"]
    assert (entry["wallets_limit"], entry["upstreams"], entry["expires_at"]) == (False, None, None)


async def test_a_limit_below_what_is_held_loses_nothing(backend: Backend) -> None:
    """Running requests are settled with what was lent for them; what is free is asked back, and no more is lent."""
    await backend.account(dollars=10)
    key = await backend.key(limit_nanodollars=5 * DOLLAR)
    limit = f"key:{key['id']}"
    lent = await backend.lend("i1", 1, ("alice", 0, 3 * DOLLAR), (limit, 0, 3 * DOLLAR))
    held = lent[limit]["granted_total"]
    known = await version(backend)
    await set_key(backend, key, limit_nanodollars=DOLLAR)
    wallet = await backend.wallet(limit)
    assert (wallet["credits_nanodollars"], wallet["held_nanodollars"]) == (DOLLAR, held)
    assert wallet["balance_nanodollars"] == DOLLAR - held < 0
    assert (await backend.poll("i1", known)).json["recall"] == [limit]

    assert (await backend.lend("i2", 1, (limit, 0, 1)))[limit]["granted_total"] == 0
    running = row(1, cost=2 * DOLLAR, key_id=key["id"], wallets=("alice", limit))
    assert (await backend.post("i1", running))["accepted"] == [running.id]
    await backend.lend("i1", 2, (limit, 2 * DOLLAR, 0))
    wallet = await backend.wallet(limit)
    assert (wallet["spent_nanodollars"], wallet["held_nanodollars"]) == (2 * DOLLAR, 0)
    assert wallet["balance_nanodollars"] == -DOLLAR
    assert (await backend.wallet("alice"))["spent_nanodollars"] == 2 * DOLLAR

    await set_key(backend, key, limit_nanodollars=4 * DOLLAR)
    assert (await backend.wallet(limit))["balance_nanodollars"] == 2 * DOLLAR
    assert (await backend.lend("i2", 2, (limit, 0, DOLLAR)))[limit]["granted_total"] >= DOLLAR


async def test_a_limit_is_what_may_be_spent_in_all(backend: Backend) -> None:
    """Whatever was granted to its wallet; and a price that was put right since is spent, and no credit."""
    await backend.account(dollars=20)
    key = await backend.key(limit_nanodollars=10 * DOLLAR)
    limit = f"key:{key['id']}"
    dear = row(1, cost=54 * DOLLAR // 10, usage=Usage(input=1_000_000), key_id=key["id"], wallets=("alice", limit))
    await backend.post("i1", dear)
    await backend.admin("POST", "/rerate", {"multiplier": "1", "apply": True})  # it costs 5 dollars
    await backend.grant(limit, 7)
    await set_key(backend, key, limit_nanodollars=10 * DOLLAR)
    assert (await backend.wallet(limit))["balance_nanodollars"] == 5 * DOLLAR
    entries = (await backend.admin("GET", "/rows?kind=limit"))["rows"]
    assert [each["amount_nanodollars"] for each in entries] == [-7 * DOLLAR, 10 * DOLLAR]
    await set_key(backend, key, limit_nanodollars=10 * DOLLAR)
    assert (await backend.admin("GET", "/rows?kind=limit"))["rows"] == entries


async def test_requests_that_run_while_a_limit_comes_or_goes_are_kept(backend: Backend) -> None:
    await backend.account(dollars=10)
    key = await backend.key()
    limit = f"key:{key['id']}"
    await set_key(backend, key, limit_nanodollars=5 * DOLLAR)
    assert (await backend.wallet(limit))["balance_nanodollars"] == 5 * DOLLAR
    without, under = row(1, key_id=key["id"]), row(2, cost=DOLLAR, key_id=key["id"], wallets=("alice", limit))
    await set_key(backend, key, limit_nanodollars=None)
    assert (await backend.post("i1", without, under))["accepted"] == [without.id, under.id]
    await set_key(backend, key, limit_nanodollars=3 * DOLLAR)
    assert (await backend.wallet(limit))["balance_nanodollars"] == 2 * DOLLAR  # what it spent under a limit counts


async def test_upstreams_come_and_go_and_what_was_served_is_taken_later(backend: Backend) -> None:
    """A request that was served where the key may not be used any more would else be in no ledger."""

    async def may_use(upstream: str) -> bool:
        return [each["id"] for each in (await backend.poll(upstream=upstream)).json["keys"]] == [key["id"]]

    await backend.account()
    key = await backend.key(upstreams=["openhands"], limit_nanodollars=5 * DOLLAR)
    wallets = ("alice", f"key:{key['id']}")
    await backend.lend("i1", 1, ("alice", 0, DOLLAR), (wallets[1], 0, DOLLAR))
    await set_key(backend, key, upstreams=["ohmygpt"])
    assert (await may_use("openhands"), await may_use("ohmygpt")) == (False, True)
    late, never = (
        row(1, key_id=key["id"], wallets=wallets),
        row(2, key_id=key["id"], upstream="second", wallets=wallets),
    )
    assert (await backend.post("i1", late))["accepted"] == [late.id]
    await backend.lend("i1", 2, (wallets[1], late.cost_nanodollars, 0))  # it gives back what it was lent
    assert (await backend.wallet(wallets[1]))["held_nanodollars"] == 0
    (rejected,) = (await backend.post("i2", never, upstream="second"))["rejected"]
    assert "nor ever might" in rejected["reason"]

    await set_key(backend, key, upstreams=None)
    assert await may_use("second")
    await set_key(backend, key, upstreams=["ohmygpt"])
    later = row(3, key_id=key["id"], upstream="second", wallets=("alice/team", wallets[1]))
    assert (await backend.post("i2", later, upstream="second"))["accepted"] == [later.id]
    assert (await backend.admin("GET", f"/keys/{key['id']}"))["upstreams"] == ["ohmygpt"]


@on_sqlite
async def test_what_cannot_be_changed_so_is_refused(backend: Backend) -> None:
    await backend.account()
    key = await backend.key(upstreams=["openhands"])
    assert "nothing would change: expected one of expires_at, upstreams, " in await refused(backend, key, 400)
    assert "is past" in await refused(backend, key, 400, expires_at="2020-01-01T00:00:00Z")
    await refused(backend, key, 400, limit_nanodollars=0)
    await refused(backend, key, 400, account="bob")
    assert "no upstream 'opnhands'" in await refused(backend, key, 404, upstreams=["openhands", "opnhands"])
    assert "no model 'claude-opus'" in await refused(backend, key, 404, models=["claude-opus"])
    await refused(backend, {"id": "key_0000000000000000"}, 404, requests_per_minute=1)
    assert (await backend.admin("GET", f"/keys/{key['id']}")) | {"key": key["key"]} == key
    await backend.admin("POST", f"/keys/{key['id']}/revoke")
    assert "is revoked; add a key instead" in await refused(backend, key, 409, requests_per_minute=1)
    over = await backend.key()
    await backend.admin("POST", f"/keys/{over['id']}/rotate", {"old_expires_at": "2020-01-01T00:00:00Z"})
    assert "has expired" in await refused(backend, over, 409, expires_at="2099-01-01T00:00:00Z")


@on_sqlite
async def test_what_the_key_has_already_stays_usable(backend: Backend) -> None:
    """Whatever upstreams and models there are by now."""
    await backend.account()
    key = await backend.key(upstreams=["openhands"], models=["claude-opus-4-5"])
    for upstream in ("openhands", "ohmygpt", "second"):
        backend.configure(upstream, OPUS | {"id": "another", "id_aliases": [], "upstream": upstream})
    changed = await set_key(backend, key, models=["claude-opus-4-5", "another"])
    assert changed["models"] == ["claude-opus-4-5", "another"]

    def of_before(store: Connection) -> Any:
        return keys.create(store, "alice", "f" * 64, "tg-before", keys.Limits(upstreams=["gone", "openhands"]))

    old = await backend.plane.database.run("of a time before", of_before)
    backend.configure("second", OPUS | {"id": "opus-of-second", "id_aliases": [], "upstream": "second"})
    told_why = await refused(backend, key, 404, upstreams=["second"])
    assert told_why == "none of second has a model that the key may use (claude-opus-4-5, another)"
    more = ["gone", "openhands", "ohmygpt"]
    assert (await set_key(backend, old, upstreams=more))["upstreams"] == more
