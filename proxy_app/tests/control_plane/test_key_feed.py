"""What the proxies are told of the keys: at once when it changes, to them alone; and what they should give back."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any
from unittest.mock import Mock

import pytest

from goproxy.control_plane import key_feed
from goproxy.control_plane.credentials import ProxyTokens, owner
from goproxy.core.compact_json import compact
from goproxy.core.key_snapshot import KeySnapshot
from tests.control_plane.backend import DOLLAR, OPERATOR, PROXY, Answer, Backend
from tests.control_plane.conftest import on_sqlite


async def waiting(backend: Backend, instance: str = "i1", after: int = 0, upstream: str = "openhands") -> Any:
    """A poll that has reached the backend and hangs there."""
    poll = asyncio.create_task(backend.poll(instance, after, wait=45, upstream=upstream))
    while not backend.plane.feed._waiting.get(instance):
        await asyncio.sleep(0.005)
        assert not poll.done(), await poll
    return poll


async def told(poll: Any) -> Answer:
    """The answer to a poll, which must come when there is news, and not when the poll has waited as long as it may."""
    answer: Answer = await asyncio.wait_for(poll, 30)
    return answer


async def version(backend: Backend) -> int:
    answer = await backend.poll()
    return int(answer.json["version"]) if answer.status == 200 else 0


async def test_a_revoked_key_wakes_every_poll_at_once(backend: Backend) -> None:
    await backend.account()
    first, second = await backend.key(), await backend.key()
    polls = [await waiting(backend, f"i{n}", await version(backend), n) for n in PROXY]
    await backend.admin("POST", f"/keys/{first['id']}/revoke")
    for poll in polls:
        news = (await told(poll)).json
        assert [each["id"] for each in news["keys"]] == [second["id"]]
        assert news["version"] == await version(backend)
        assert news["recall"] == []


@on_sqlite
async def test_the_proxys_own_class_reads_what_is_told(backend: Backend) -> None:
    await backend.account()
    key = await backend.key(limit_nanodollars=DOLLAR, requests_per_minute=5, models=["claude-opus-4-5"])
    await backend.key()
    snapshot = KeySnapshot.from_json((await backend.poll()).json)
    assert snapshot.version == await version(backend)
    found = snapshot.find(key["key"])
    assert found is not None
    assert (found.id, found.account, found.wallets_limit) == (key["id"], "alice", True)


@pytest.mark.parametrize("change", ["create", "rotate", "disable", "enable"])
async def test_every_change_of_the_keys_has_a_version_above(backend: Backend, change: str) -> None:
    await backend.account()
    key = await backend.key()
    if change == "enable":
        await backend.admin("POST", "/accounts/alice/disable")
    before = await version(backend)
    poll = await waiting(backend, after=before)
    await backend.admin(
        "POST",
        {
            "create": "/accounts/alice/keys",
            "rotate": f"/keys/{key['id']}/rotate",
            "disable": "/accounts/alice/disable",
            "enable": "/accounts/alice/enable",
        }[change],
        {},
    )
    assert (await told(poll)).json["version"] > before


@on_sqlite
async def test_nothing_new_is_204_after_the_wait(backend: Backend) -> None:
    await backend.account()
    await backend.key()
    began = time.monotonic()
    answer = await backend.poll(after=await version(backend), wait=1)
    assert (answer.status, answer.text) == (204, "")
    assert time.monotonic() - began >= 1


async def test_who_leaves_tells_the_keys_to_who_knows_none(backend: Backend) -> None:
    """204 would say that there are none, and a proxy that asks from the beginning would let nobody in."""
    await backend.account()
    await backend.key()
    backend.plane.feed.close()
    assert (await backend.poll(after=0)).json["version"] == await version(backend)
    assert (await backend.poll(after=await version(backend), wait=20)).status == 204


async def test_a_version_of_a_time_before_a_restored_backup_is_answered_at_once(backend: Backend) -> None:
    await backend.account()
    await backend.key()
    known = await version(backend)
    assert (await backend.poll(after=known + 10**6, wait=20)).json["version"] == known


async def test_idle_money_is_recalled_when_another_instance_wants_it(backend: Backend) -> None:
    await backend.account(dollars=4)
    held = (await backend.lend("i1", 1, ("alice", 0, 3 * DOLLAR)))["alice"]["granted_total"]
    now = await version(backend)
    poll = await waiting(backend, "i1", now)
    other = await waiting(backend, "i2", now, "ohmygpt")
    assert (await backend.lend("i2", 1, ("alice", 0, 2 * DOLLAR), upstream="ohmygpt"))["alice"]["granted_total"] == 0
    assert (await told(poll)).json["recall"] == ["alice"]
    assert not other.done()
    assert (await backend.poll("i1", now)).status == 204  # it is told once
    await backend.lend("i1", 2, ("alice", held - 2 * DOLLAR, 0))
    await backend.lend("i2", 2, ("alice", 0, 2 * DOLLAR), upstream="ohmygpt")
    other.cancel()


@on_sqlite
async def test_the_keys_are_written_once_for_all_who_ask_at_an_upstream(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written for each, many keys held the event loop for seconds."""
    await backend.account()
    first = await backend.key(name="ü", upstreams=["openhands"])
    polls = [await waiting(backend, f"i{n}", await version(backend), n) for n in ("openhands", "second")]
    polls += [await waiting(backend, f"more{n}", await version(backend)) for n in range(5)]
    writing = Mock(side_effect=compact)
    monkeypatch.setattr(key_feed, "compact", writing)
    second = await backend.key()
    told_to = {
        upstream: (await told(poll)).json for upstream, poll in zip(("openhands", "second"), polls, strict=False)
    }
    assert [len(each["keys"]) for each in told_to.values()] == [2, 1]
    assert {each["id"] for each in told_to["openhands"]["keys"]} == {first["id"], second["id"]}
    assert all([(await told(poll)).json == told_to["openhands"] for poll in polls[2:]])
    assert writing.call_count == 2
    backend.plane.feed.recall("i", ["alice", "bob"])
    assert (await backend.poll()).json == told_to["openhands"] | {"recall": ["alice", "bob"]}
    assert (await backend.poll()).json == told_to["openhands"]


async def test_a_recall_waits_for_the_next_poll(backend: Backend) -> None:
    await backend.account(dollars=1)
    await backend.lend("i1", 1, ("alice", 0, DOLLAR))
    await backend.lend("i2", 1, ("alice", 0, 1), upstream="ohmygpt")
    assert (await backend.poll("i1", await version(backend))).json["recall"] == ["alice"]


async def test_an_instance_that_has_nothing_left_is_not_asked(backend: Backend) -> None:
    await backend.account(dollars=1)
    await backend.lend("i1", 1, ("alice", 0, DOLLAR))
    await backend.admin("POST", "/leases/i1/retire?force=true")
    await backend.lend("i2", 1, ("alice", 0, 2 * DOLLAR), upstream="ohmygpt")
    assert (await backend.poll("i1", await version(backend))).status == 204


@on_sqlite
async def test_a_leaving_backend_keeps_no_poll_waiting(backend: Backend) -> None:
    await backend.account()
    await backend.key()
    poll = await waiting(backend, after=await version(backend))
    backend.stay.leave()
    assert (await told(poll)).status == 204


@on_sqlite
@pytest.mark.parametrize("token", [None, "x", OPERATOR])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/keys?instance=i"), ("GET", "/wallet?wallet=a"), ("POST", "/rows"), ("POST", "/leases")],
)
async def test_nothing_is_told_without_a_proxys_token(
    backend: Backend, token: str | None, method: str, path: str
) -> None:
    assert (await backend.ask(method, f"/proxy/v1{path}", token)).status == 401


@on_sqlite
async def test_a_proxys_token_opens_no_door_of_the_operators(backend: Backend) -> None:
    assert (await backend.ask("GET", "/admin/v1/accounts", PROXY["openhands"])).status == 401


@on_sqlite
async def test_the_token_of_an_upstream_that_is_gone_holds_no_more(backend: Backend) -> None:
    assert (await backend.poll(upstream="ohmygpt")).status in (200, 204)
    (backend.directory / "proxy_tokens" / "ohmygpt").unlink()
    assert (await backend.poll(upstream="ohmygpt")).status == 401
    for upstream in ("openhands", "second"):
        (backend.directory / "proxy_tokens" / upstream).unlink()
    answer = await backend.poll()
    assert answer.status == 503
    assert "PROXY_TOKENS_PATH" in answer.error


@on_sqlite
async def test_a_replaced_token_of_a_proxy_is_good_until_the_backend_is_replaced(backend: Backend) -> None:
    """So the proxies of before and of after can be replaced one by one, and the backend at last."""
    file = backend.directory / "proxy_tokens" / "openhands"
    for token in ("the-next-one", "and-the-one-after-it"):
        file.write_text(hashlib.sha256(token.encode()).hexdigest())
        for good in (PROXY["openhands"], token):
            assert (await backend.ask("GET", "/proxy/v1/keys?instance=i&wait=0", good)).status == 204
    fresh = ProxyTokens(file.parent)
    assert owner("and-the-one-after-it", fresh.digests()) == "openhands"
    assert owner(PROXY["openhands"], fresh.digests()) is None


@on_sqlite
async def test_a_replaced_token_of_the_operator_ends_at_once(backend: Backend) -> None:
    (backend.directory / "operator_token").write_text(hashlib.sha256(b"the-next-one").hexdigest())
    assert (await backend.ask("GET", "/admin/v1/accounts", "the-next-one")).status == 200
    assert (await backend.ask("GET", "/admin/v1/accounts", OPERATOR)).status == 401


@on_sqlite
@pytest.mark.parametrize(
    "query", ["", "instance=", "instance=a%20b", "instance=i&after=x", "instance=i&wait=-1", "instance=i&instance=j"]
)
async def test_a_poll_that_is_none(backend: Backend, query: str) -> None:
    assert (await backend.ask("GET", f"/proxy/v1/keys?{query}", PROXY["openhands"])).status == 400


@on_sqlite
@pytest.mark.parametrize(
    "change",
    [
        {"sequence": -1},
        {"sequence": 1.5},
        {"sequence": 2**63},
        {"instance": "a b"},
        {"leases": [{"wallet": "alice", "known_total": 0}]},
        {"leases": [{"wallet": "a b", "known_total": 0, "want": 0}]},
        {"leases": [{"wallet": "alice", "known_total": -1, "want": 0}]},
        {"leases": [{"wallet": "alice", "known_total": 0, "want": 1e9}]},
        {"leases": [{"wallet": "alice", "known_total": 0, "want": 0}] * 2},
        {"leases": None},
    ],
)
async def test_a_call_for_leases_that_is_none(backend: Backend, change: dict[str, Any]) -> None:
    call: dict[str, Any] = {"instance": "i1", "upstream": "openhands", "sequence": 1, "leases": []}
    answer = await backend.proxy("/leases", call | change)
    assert answer.status == 400, answer.text
    assert answer.error


@on_sqlite
async def test_nothing_is_kept_of_who_polls_once(backend: Backend) -> None:
    for number in range(20):
        await backend.poll(f"i{number}")
    assert len(backend.plane.feed._recalls) == 0


@on_sqlite
async def test_of_an_upstream_that_asks_by_ever_new_names_the_last_ones_are_remembered(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_feed, "_HEARD", 3)
    await backend.poll("other", upstream="ohmygpt")
    for number in (0, 1, 2, 0, 3):
        await backend.poll(f"i{number}")
    assert backend.plane.feed.heard == {"other", "i2", "i0", "i3"}
