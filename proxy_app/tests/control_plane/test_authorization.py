"""A proxy's token reaches no further than its upstream; and no change of the configuration loses an honest row."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from goproxy.control_plane.store import authorization
from goproxy.core.ledger import Row, Settlement
from goproxy.core.usage import Usage
from tests.conftest import Lines
from tests.control_plane.backend import AS_LISTED, DOLLAR, PROXY, Backend, config_of, row
from tests.control_plane.conftest import on_sqlite
from tests.control_plane.test_key_feed import told, version, waiting

OF_SECOND: dict[str, Any] = {"upstream": "second", "wallets": ("alice/team",)}


def configure(backend: Backend, upstream: str, **changes: Any) -> None:
    """Give an upstream another configuration, as a run does while its proxies still have the former one."""
    document = config_of(upstream) | changes
    (backend.directory / f"config-{upstream}-prod.json").write_text(json.dumps(document))
    backend.plane.catalogue.look()


async def listed(backend: Backend) -> dict[str, Any]:
    return {each["id"]: each for each in (await backend.admin("GET", "/rows?kind=request"))["rows"]}


async def refused(backend: Backend, *rows: Row, upstream: str = "openhands") -> list[str]:
    """Posts rows of which none may be taken; why not."""
    answer = await backend.post("i1", *rows, upstream=upstream)
    assert answer["accepted"] == []
    assert await listed(backend) == {}
    return [each["reason"] for each in answer["rejected"]]


async def test_a_wallet_that_an_upstream_never_pays_from_is_not_lent_to_it(backend: Backend, lines: Lines) -> None:
    await backend.account(dollars=1000)
    assert (await backend.lend("i0", 1, ("alice", 0, DOLLAR)))["alice"]["granted_total"] >= DOLLAR, "elsewhere it is"
    before = await backend.wallet("alice")
    for sequence, known in enumerate((0, 0, 10**18)):
        told_now = (await backend.lend("i1", sequence, ("alice", known, DOLLAR), upstream="second"))["alice"]
        assert told_now == {"wallet": "alice", "granted_total": 0, "spent_total": 0, "balance": 0}
    assert await backend.wallet("alice") == before
    (line,) = lines.all("not lent: the upstream does not pay from it")
    assert (line["upstream"], line["wallets"]) == ("second", ["alice"])
    shown = (await backend.ask("GET", "/metrics", None)).text
    assert 'goproxy_leases_refused_total{upstream="second"} 3.0' in shown


async def test_a_proxy_sees_into_the_wallets_of_its_upstream_alone(backend: Backend) -> None:
    await backend.account(dollars=10)
    await backend.key()
    await backend.post("i1", row(1, cost=4))

    async def look(wallet: str, upstream: str = "openhands") -> tuple[int, Any]:
        answer = await backend.ask("GET", f"/proxy/v1/wallet?wallet={wallet}", PROXY[upstream])
        return answer.status, answer.json

    never = dict.fromkeys(("renews", "renews_to_nanodollars", "renews_at"))
    assert await look("alice") == (200, {"credits_nanodollars": 10 * DOLLAR, "spent_nanodollars": 4} | never)
    nothing = 200, {"credits_nanodollars": 0, "spent_nanodollars": 0} | never
    assert await look("alice", "second") == nothing, "it pays from alice/team"
    assert await look("alice/team", "second") == await look("nobody") == nothing
    elsewhere = await backend.key(limit_nanodollars=DOLLAR, upstreams=["ohmygpt"])
    assert await look(f"key:{elsewhere['id']}") == nothing
    own = {"credits_nanodollars": DOLLAR, "spent_nanodollars": 0} | never
    assert await look(f"key:{elsewhere['id']}", "ohmygpt") == (200, own)
    for wallet in ("", "a b", "x" * 201):
        assert (await look(wallet))[0] == 400
    for wallet in ("alice", "alice/team"):
        renewal = {"wallet": wallet, "period": "day", "amount_nanodollars": DOLLAR}
        await backend.admin("POST", "/renewals", renewal)
    assert (await look("alice"))[1]["renews_to_nanodollars"] == DOLLAR
    assert await look("alice/team") == nothing


async def test_a_loan_does_not_read_every_key_that_the_account_ever_had(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.account(dollars=100)
    for upstreams in (["ohmygpt"], ["ohmygpt", "openhands"]) * 5:
        await backend.key(upstreams=upstreams)
    read = Mock(wraps=json)
    monkeypatch.setattr(authorization, "json", read)
    assert (await backend.lend("i1", 1, ("alice", 0, DOLLAR)))["alice"]["granted_total"] >= DOLLAR
    assert read.loads.call_count == 2
    await backend.key()
    assert (await backend.lend("i1", 2, ("alice", 0, DOLLAR)))["alice"]["granted_total"] >= DOLLAR
    assert read.loads.call_count == 2


async def test_no_wallet_of_an_account_is_lent_whose_keys_are_for_other_upstreams(backend: Backend) -> None:
    await backend.account(dollars=9)
    key = await backend.key(upstreams=["ohmygpt"], limit_nanodollars=DOLLAR)
    limit = f"key:{key['id']}"
    asked = await backend.lend("i1", 1, ("alice", 0, DOLLAR), (limit, 0, DOLLAR))
    assert [each["granted_total"] for each in asked.values()] == [0, 0]
    asked = await backend.lend("i2", 1, ("alice", 0, DOLLAR), (limit, 0, DOLLAR), upstream="ohmygpt")
    assert all(each["granted_total"] >= DOLLAR for each in asked.values())


async def test_a_cost_that_does_not_follow_from_its_row_is_charged_to_nobody(backend: Backend) -> None:
    await backend.account("bob", dollars=1000)
    forged: dict[str, Any] = {"account": "bob", "wallets": ("bob",), "usage": Usage(), "multiplier": "1"}
    (reason,) = await refused(backend, replace(row(1, 0, **forged), cost_nanodollars=10**17))
    assert reason == f"cost_nanodollars is {10**17}, but by its own usage, prices and multiplier it costs 0"
    assert (await backend.wallet("bob"))["balance_nanodollars"] == 1000 * DOLLAR
    shown = (await backend.ask("GET", "/metrics", None)).text
    assert 'goproxy_ledger_rows_rejected_total{upstream="openhands"} 1.0' in shown


ROWS_OF_NO_PROXY: dict[str, dict[str, Any]] = {
    "cheaper than it is": {"cost_nanodollars": AS_LISTED - 1},
    "an estimate above its hold": {"settlement": Settlement.ESTIMATED, "hold_nanodollars": AS_LISTED - 1},
    "what the provider counted, capped": {"hold_nanodollars": 7, "cost_nanodollars": 7},
    "without prices": {"prices": {}, "cost_nanodollars": 0},
    "a price that fills the memory": {"prices": {"input": "1e999999999", "output": "1"}},
    "a price that is none": {"prices": {"input": "NaN", "output": "1"}},
    "another account's wallet": {"wallets": ("bob",)},
    "an account's name as the beginning of another's": {"account": "ali"},
    "another key's limit": {"wallets": ("alice", "key:key_ffffffffffffffff")},
    "two of the account's": {"wallets": ("alice", "alice/team")},
    "a key's limit alone": {"account": "key:key_0123456789abcdef", "wallets": ("key:key_0123456789abcdef",)},
    "nobody's": {"account": "", "wallets": ("/team",)},
}


@on_sqlite
@pytest.mark.parametrize("case", ROWS_OF_NO_PROXY)
async def test_a_row_that_contradicts_itself_is_rejected(backend: Backend, case: str) -> None:
    await backend.account()
    assert await refused(backend, replace(row(1, AS_LISTED), **ROWS_OF_NO_PROXY[case]))


async def test_a_row_is_charged_to_the_wallets_of_its_upstream_alone(backend: Backend) -> None:
    await backend.account()
    await backend.grant("alice/team", 1)
    (reason,) = await refused(backend, row(1, upstream="second"), upstream="second")
    assert reason == "nothing with its key is paid from alice at second, nor ever was"
    await backend.post("i1", row(1, **OF_SECOND), upstream="second")
    assert (await backend.wallet("alice"))["spent_nanodollars"] == 0
    assert (await backend.wallet("alice/team"))["spent_nanodollars"] == row(1).cost_nanodollars


async def test_a_row_of_a_key_for_other_upstreams_or_of_another_account_is_rejected(backend: Backend) -> None:
    await backend.account()
    await backend.account("bob")
    elsewhere, of_bob = await backend.key(upstreams=["ohmygpt"]), await backend.key("bob")
    reasons = await refused(backend, row(1, key_id=elsewhere["id"]), row(2, key_id=of_bob["id"]))
    assert reasons == [
        "its key may not be used at openhands, nor ever might",
        "nothing with its key is paid from alice at openhands, nor ever was",
    ]


async def test_a_proxy_is_told_the_keys_of_its_upstream_alone(backend: Backend) -> None:
    await backend.account()
    everywhere, here = await backend.key(), await backend.key(upstreams=["openhands", "ohmygpt"])

    async def ids(upstream: str) -> list[str]:
        news = (await backend.poll(upstream=upstream)).json
        assert news["version"] == await version(backend)  # of all keys, or a poll would be answered again and again
        assert all(each["upstreams"] is None or upstream in each["upstreams"] for each in news["keys"])
        return sorted(each["id"] for each in news["keys"])

    assert await ids("openhands") == sorted([everywhere["id"], here["id"]])
    assert await ids("second") == [everywhere["id"]]
    poll = await waiting(backend, "i2", await version(backend), "second")
    there = await backend.key(upstreams=["second"])
    assert there["id"] in [each["id"] for each in (await told(poll)).json["keys"]]
    assert there["id"] not in await ids("openhands")
    await backend.admin("POST", f"/keys/{there['id']}/revoke")
    assert await ids("second") == [everywhere["id"]]
    rotated = await backend.admin("POST", f"/keys/{here['id']}/rotate", {})
    assert rotated["id"] in await ids("ohmygpt")
    assert rotated["id"] not in await ids("second")


async def test_a_proxy_of_before_goes_on_with_the_wallet_that_it_was_lent(backend: Backend) -> None:
    """It runs until the one with the new configuration is ready; and a journal can be adopted at any time."""
    await backend.account()
    await backend.account("bob")
    key = (await backend.key())["id"]
    known = (await backend.lend("i1", 1, ("alice", 0, DOLLAR)))["alice"]["granted_total"]
    configure(backend, "openhands", wallet="research")
    asked = await backend.lend("i1", 2, ("alice", known, DOLLAR), ("bob", 0, DOLLAR))
    assert asked["alice"]["granted_total"] >= known + DOLLAR
    assert asked["bob"]["granted_total"] == 0
    posted = row(1, AS_LISTED, key_id=key)
    for instance in ("i1", "of-an-adopted-journal"):
        assert (await backend.post(instance, replace(posted, id=instance)))["rejected"] == []
    assert [each["flags"] for each in (await listed(backend)).values()] == [["other_wallet", "total_mismatch"]] * 2
    await backend.grant("alice/research", 3)
    assert (await backend.lend("i2", 1, ("alice/research", 0, DOLLAR)))["alice/research"]["granted_total"] >= DOLLAR

    for instance in ("i1", "of-an-adopted-journal"):  # nothing can come of them any more
        await backend.admin("POST", f"/leases/{instance}/retire?force=true")
    assert (await backend.lend("i2", 2, ("alice", 0, DOLLAR)))["alice"]["granted_total"] == 0
    assert len((await backend.post("i2", row(2)))["rejected"]) == 1
    assert (await backend.post("i1", replace(posted, id="i1")))["rejected"] == []  # it is in the ledger


async def test_what_was_lent_can_be_given_back_whatever_the_configuration_is_now(backend: Backend) -> None:
    await backend.account(dollars=10)
    known = (await backend.lend("i1", 1, ("alice", 0, DOLLAR)))["alice"]["granted_total"]
    configure(backend, "openhands", wallet="research")
    assert (await backend.lend("i1", 2, ("alice", known - DOLLAR, 0)))["alice"]["granted_total"] == known - DOLLAR
    assert (await backend.wallet("alice"))["held_nanodollars"] == known - DOLLAR


@on_sqlite
async def test_prices_of_before_are_taken_and_flagged(backend: Backend) -> None:
    await backend.account()
    key = (await backend.key())["id"]
    now, before = row(1, AS_LISTED, key_id=key), row(2, 2_675_700, key_id=key)
    other = row(3, AS_LISTED * 2, key_id=key, multiplier="2.16")
    gone = row(4, 0, key_id=key, prices={"input": "0", "output": "0"}, multiplier="1", flags=("unpriced",))
    await backend.post("i1", now, before, other, gone)
    flags = {id_: each["flags"] for id_, each in (await listed(backend)).items()}
    assert flags == {
        now.id: ["total_mismatch"],
        before.id: ["other_prices", "total_mismatch"],
        other.id: ["other_prices", "total_mismatch"],
        gone.id: ["unpriced"],
    }


@on_sqlite
async def test_a_key_of_the_inventory_that_became_another_accounts_leaves_rows_of_before(backend: Backend) -> None:
    sha256 = "ab" * 32
    backend.declare(keys=[{"account": "alice", "sha256": sha256}])
    await backend.plane.look()
    (key,) = (await backend.admin("GET", "/keys"))["keys"]
    await backend.lend("i1", 1, ("alice", 0, 0))
    backend.declare(keys=[{"account": "bob", "sha256": sha256}])
    await backend.plane.look()
    posted = row(1, AS_LISTED, key_id=key["id"])
    assert (await backend.post("i1", posted))["accepted"] == [posted.id]
    assert (await listed(backend))[posted.id]["flags"] == ["other_wallet", "total_mismatch"]


@on_sqlite
async def test_where_a_configuration_cannot_be_read_nothing_is_held_against_it(backend: Backend) -> None:
    """A proxy of a newer release may have it; the backend is replaced as the last."""
    await backend.account()
    await backend.grant("alice/team", 5)
    configure(backend, "openhands", wallet="team", something="new")
    assert backend.plane.catalogue.problems
    assert (await backend.lend("i1", 1, ("alice/team", 0, DOLLAR)))["alice/team"]["granted_total"] >= DOLLAR
    posted = row(1, wallets=("alice/team",))
    assert (await backend.post("i1", posted))["accepted"] == [posted.id]


async def test_a_key_that_no_database_can_look_up_sinks_no_other_row(backend: Backend) -> None:
    await backend.account()
    odd = [row(number, key_id=name) for number, name in enumerate(("\0", "\ud800", "😀", "'; --"))]
    assert len((await backend.post("i1", *odd, row(9)))["accepted"]) == 5


@on_sqlite
async def test_a_token_without_a_configuration_reaches_nothing(backend: Backend) -> None:
    await backend.account()
    for known in (backend.plane.catalogue._files, backend.plane.catalogue._configs):  # or it is read again
        known.pop("GOPROXY_OHMYGPT_CONFIG_PATH")
    assert (await backend.lend("i1", 1, ("alice", 0, DOLLAR), upstream="ohmygpt"))["alice"]["granted_total"] == 0
    assert await refused(backend, row(1, upstream="ohmygpt"), upstream="ohmygpt")
