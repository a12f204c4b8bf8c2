"""Credit that renews: filled up with each period, once, and no more than was asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from goproxy.control_plane.store import live_keys, renewals, wallets
from goproxy.control_plane.store.refusals import Conflict
from goproxy.core.usage import Usage
from tests.control_plane.backend import DOLLAR, Backend, row, running_backend
from tests.control_plane.conftest import on_sqlite
from tests.control_plane.test_backup import put_back, taken

DECEMBER, JANUARY, FEBRUARY = (f"{month}-01T00:00:00.000Z" for month in ("2098-12", "2099-01", "2099-02"))


class Calendar:
    """What time it is for renewals; they are made up for as the backend does it by itself."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        self._backend, self._now = backend, "2098-12-10T12:00:00.000Z"
        for module in (renewals, live_keys):
            monkeypatch.setattr(module, "now", lambda: self._now)

    def turn(self, moment: str) -> None:
        """It is that time, and nothing has happened yet."""
        self._now = moment

    async def goes_to(self, moment: str) -> None:
        self.turn(moment)
        await self._backend.plane.renew()


@pytest.fixture
async def calendar(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Calendar:
    return Calendar(backend, monkeypatch)


async def renew(backend: Backend, wallet: str, period: str | None, dollars: int | None, **more: Any) -> Any:
    amount = None if dollars is None else dollars * DOLLAR
    return await backend.admin(
        "POST", "/renewals", {"wallet": wallet, "period": period, "amount_nanodollars": amount} | more
    )


async def spend(backend: Backend, number: int, dollars: int, key: Any = None) -> None:
    mine = {} if key is None else {"key_id": key["id"], "wallets": ("alice", f"key:{key['id']}")}
    await backend.post("i1", row(number, cost=dollars * DOLLAR, **mine))


async def left(backend: Backend, wallet: str = "alice") -> float:
    """Dollars, of which proxies may have been lent some."""
    found = await backend.wallet(wallet)
    return float((found["credits_nanodollars"] - found["spent_nanodollars"]) / DOLLAR)


async def entries(backend: Backend) -> list[Any]:
    """Wallet, dollars and id of each renewal, the oldest first."""
    found = (await backend.admin("GET", "/rows?kind=renewal"))["rows"]
    return [(each["wallet"], each["amount_nanodollars"] / DOLLAR, each["id"]) for each in reversed(found)]


async def test_a_wallet_is_filled_up_at_once_and_with_each_month(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=10)
    shown = await renew(backend, "alice", "month", 50)
    assert [shown[name] for name in ("renews", "renews_to_nanodollars", "renews_at")] == ["month", 50 * DOLLAR, JANUARY]
    assert shown["balance_nanodollars"] == 50 * DOLLAR
    assert await backend.wallet("alice") == shown
    await spend(backend, 1, 45)
    await calendar.goes_to("2098-12-31T23:59:59.999Z")
    assert await left(backend) == 5
    await calendar.goes_to(JANUARY)
    assert await left(backend) == 50
    assert (await backend.wallet("alice"))["renews_at"] == FEBRUARY
    await calendar.goes_to("2099-01-31T00:00:00.000Z")
    found = await entries(backend)
    assert [each[:2] for each in found] == [("alice", 40), ("alice", 45)]
    assert found[1][2] == f"renewal:alice:{JANUARY}"


async def test_what_is_more_stays_and_what_is_less_is_made_up_for(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=70)
    await renew(backend, "alice", "month", 50)
    await calendar.goes_to(JANUARY)
    assert (await left(backend), await entries(backend)) == (70, [])
    await spend(backend, 1, 73)  # a request that cost more than there was
    await calendar.goes_to(FEBRUARY)
    assert (await left(backend), [each[1] for each in await entries(backend)]) == (50, [53])


async def test_of_the_months_without_a_backend_the_present_one_is_made_up_for(
    backend: Backend, calendar: Calendar
) -> None:
    await backend.account(dollars=0)
    await renew(backend, "alice", "month", 50)
    await spend(backend, 1, 50)
    await calendar.goes_to("2099-04-05T00:00:00.000Z")
    await calendar.goes_to("2099-04-06T00:00:00.000Z")
    assert await left(backend) == 50
    (_, last) = await entries(backend)
    assert last == ("alice", 50, "renewal:alice:2099-04-01T00:00:00.000Z")
    assert (await backend.wallet("alice"))["renews_at"] == "2099-05-01T00:00:00.000Z"


async def test_a_period_is_made_up_for_once_whatever_the_clock_does(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=0)
    await renew(backend, "alice", "month", 50)
    await spend(backend, 1, 50)
    await calendar.goes_to(FEBRUARY)
    await spend(backend, 2, 50)
    calendar.turn("2098-12-11T00:00:00.000Z")
    await renew(backend, "alice", "month", 60)  # from which it goes by the clock again
    assert (await backend.wallet("alice"))["renews_at"] == JANUARY
    await calendar.goes_to(FEBRUARY)
    assert (await left(backend), len(await entries(backend))) == (0, 2)
    await calendar.goes_to("2099-03-01T00:00:00.000Z")
    assert await left(backend) == 60


async def test_asked_again_or_changed_it_gives_nothing_before_its_time(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=0)
    await renew(backend, "alice", "month", 50)
    await spend(backend, 1, 45)
    await renew(backend, "alice", "month", 50)
    shown = await renew(backend, "alice", "day", 60)
    assert (await left(backend), shown["renews_at"]) == (5, "2098-12-11T00:00:00.000Z")
    await calendar.goes_to("2098-12-11T00:00:00.000Z")
    assert await left(backend) == 60


async def test_what_is_changed_after_midnight_has_renewed_before(backend: Backend, calendar: Calendar) -> None:
    """Though the backend has not come to it yet: else the new period would be passed over."""
    await backend.account(dollars=100)
    await renew(backend, "alice", "month", 50)
    changed, rotated = [await backend.key(limit_nanodollars=20 * DOLLAR, limit_renews="month") for _ in range(2)]
    await spend(backend, 1, 15, changed)
    await spend(backend, 2, 15, rotated)
    await spend(backend, 3, 60)
    calendar.turn(JANUARY)
    await renew(backend, "alice", "month", 80)
    assert await left(backend) == 50
    await backend.admin("POST", f"/keys/{changed['id']}/set", {"limit_nanodollars": 30 * DOLLAR})
    assert await left(backend, f"key:{changed['id']}") == 30
    second = await backend.admin("POST", f"/keys/{rotated['id']}/rotate", {})
    assert await left(backend, f"key:{second['id']}") == 20


async def test_it_ends_and_what_there_is_stays(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=0)
    await renew(backend, "alice", "week", 50)
    await spend(backend, 1, 20)
    shown = await renew(backend, "alice", None, None)
    assert [shown[name] for name in ("renews", "renews_to_nanodollars", "renews_at")] == [None, None, None]
    await calendar.goes_to(FEBRUARY)
    assert await left(backend) == 30


async def test_a_keys_limit_is_for_each_period(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=100)
    key = await backend.key(limit_nanodollars=20 * DOLLAR, limit_renews="month")
    wallet = f"key:{key['id']}"
    assert (key["limit_renews"], await left(backend, wallet)) == ("month", 20)
    await spend(backend, 1, 15, key)
    await calendar.goes_to(JANUARY)
    assert (await left(backend, wallet), await left(backend)) == (20, 85)
    await spend(backend, 2, 5, key)
    await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_nanodollars": 30 * DOLLAR})
    assert await left(backend, wallet) == 25  # the month before does not count
    await calendar.goes_to(FEBRUARY)
    assert await left(backend, wallet) == 30
    await spend(backend, 3, 30, key)
    changed = await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_renews": None})
    assert (changed["limit_renews"], changed["limit_nanodollars"]) == (None, 30 * DOLLAR)
    await calendar.goes_to("2099-03-01T00:00:00.000Z")
    assert await left(backend, wallet) == 0
    await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_nanodollars": 40 * DOLLAR})
    assert await left(backend, wallet) == 10


async def overcharged(backend: Backend) -> Any:
    """A key with 20 dollars for each month, which was charged 5.40 of them."""
    await backend.account(dollars=100)
    key = await backend.key(limit_nanodollars=20 * DOLLAR, limit_renews="month")
    mine = {"key_id": key["id"], "wallets": ("alice", f"key:{key['id']}")}
    await backend.post("i1", row(1, cost=54 * DOLLAR // 10, usage=Usage(input=1_000_000), **mine))
    return key


async def put_right(backend: Backend) -> None:
    """It was to cost 5."""
    await backend.admin("POST", "/rerate", {"multiplier": "1", "apply": True})


async def left_by_the_same_limit(backend: Backend, key: Any) -> float:
    await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_nanodollars": 20 * DOLLAR})
    return await left(backend, f"key:{key['id']}")


async def test_a_corrected_price_of_the_month_before_is_no_credit_of_this_one(
    backend: Backend, calendar: Calendar
) -> None:
    key = await overcharged(backend)
    await put_right(backend)
    assert await left(backend, f"key:{key['id']}") == 15
    await calendar.goes_to(JANUARY)
    assert await left_by_the_same_limit(backend, key) == 20


async def test_a_price_that_is_put_right_in_the_next_month_is_credit_of_that(
    backend: Backend, calendar: Calendar
) -> None:
    key = await overcharged(backend)
    await calendar.goes_to(JANUARY)
    await put_right(backend)
    assert await left(backend, f"key:{key['id']}") == 20.4
    assert await left_by_the_same_limit(backend, key) == 20.4
    await calendar.goes_to(FEBRUARY)
    assert await left_by_the_same_limit(backend, key) == 20


async def test_a_limit_that_begins_to_renew_does_so_at_once(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=100)
    key = await backend.key(limit_nanodollars=20 * DOLLAR)
    await spend(backend, 1, 15, key)
    await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_renews": "day"})
    assert await left(backend, f"key:{key['id']}") == 20
    await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_renews": "week", "requests_per_minute": 5})
    assert (await backend.admin("GET", "/keys?account=alice"))["keys"][0]["limit_renews"] == "week"
    without = await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_nanodollars": None})
    assert (without["limit_renews"], without["limit_nanodollars"]) == (None, None)
    again = await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_nanodollars": 20 * DOLLAR})
    assert (again["limit_renews"], await left(backend, f"key:{key['id']}")) == (None, 20)


async def test_a_second_key_has_what_is_left_of_the_month_and_renews_as_the_first(
    backend: Backend, calendar: Calendar
) -> None:
    await backend.account(dollars=100)
    first = await backend.key(limit_nanodollars=20 * DOLLAR, limit_renews="month")
    await spend(backend, 1, 15, first)
    second = await backend.admin("POST", f"/keys/{first['id']}/rotate", {})
    wallet = f"key:{second['id']}"
    assert (second["limit_nanodollars"], second["limit_renews"]) == (20 * DOLLAR, "month")
    assert await left(backend, wallet) == 5
    await backend.admin("POST", f"/keys/{second['id']}/set", {"limit_nanodollars": 25 * DOLLAR})
    assert await left(backend, wallet) == 10
    await calendar.goes_to(JANUARY)
    assert await left(backend, wallet) == 25


async def test_what_a_first_key_was_granted_is_in_the_limit_of_the_second(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=100)
    first = await backend.key(limit_nanodollars=20 * DOLLAR, limit_renews="month")
    await backend.grant(f"key:{first['id']}", 30, "more")
    second = await backend.admin("POST", f"/keys/{first['id']}/rotate", {})
    assert await left(backend, f"key:{second['id']}") == 50
    for key in (first, second):
        await backend.admin("POST", f"/keys/{key['id']}/set", {"limit_nanodollars": 20 * DOLLAR})
        assert await left(backend, f"key:{key['id']}") == 20


async def test_a_key_that_has_moved_to_another_account_renews_with_that(backend: Backend, calendar: Calendar) -> None:
    def declared(account: str) -> dict[str, Any]:
        return {"keys": [{"account": account, "prefix": "tg-AbCd1234", "sha256": "a" * 64}]}

    backend.declare(**declared("alice"))
    await backend.plane.look()
    (key,) = (await backend.admin("GET", "/keys"))["keys"]
    limits = {"limit_nanodollars": 20 * DOLLAR, "limit_renews": "month"}
    await backend.admin("POST", f"/keys/{key['id']}/set", limits)
    await backend.grant("alice", 100)
    await spend(backend, 1, 15, key)
    backend.declare(**declared("bob"))
    await backend.plane.look()
    assert (await backend.admin("GET", "/accounts/alice"))["disabled_at"] is not None
    await calendar.goes_to(JANUARY)
    assert await left(backend, f"key:{key['id']}") == 20


async def test_who_is_not_let_in_gets_nothing_and_makes_up_for_it_later(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=0)
    await renew(backend, "alice", "month", 50)
    limits: dict[str, Any] = {"limit_nanodollars": 20 * DOLLAR, "limit_renews": "month"}
    revoked, over = await backend.key(**limits), await backend.key(**limits, expires_at="2099-01-01T00:00:00Z")
    for number, key in enumerate((None, revoked, over)):
        await spend(backend, number, 10, key)
    ended = await backend.admin("POST", f"/keys/{revoked['id']}/revoke")
    assert ended["limit_renews"] is None
    await backend.admin("POST", "/accounts/alice/disable")
    await calendar.goes_to(JANUARY)
    assert len(await entries(backend)) == 1  # of the beginning
    await backend.admin("POST", "/accounts/alice/enable")
    await calendar.goes_to("2099-01-03T00:00:00.000Z")
    assert await left(backend) == 50
    assert [await left(backend, f"key:{key['id']}") for key in (revoked, over)] == [10, 10]


async def test_many_are_filled_up_in_turns(
    backend: Backend, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "_AT_ONCE", 2)
    names = [f"account{number}" for number in range(5)]
    for name in names:
        await backend.admin("POST", "/accounts", {"name": name})
        await renew(backend, name, "month", 1)
        await backend.admin(
            "POST", "/credits", {"id": name, "wallet": name, "kind": "withdrawal", "amount_nanodollars": 1}
        )
    await calendar.goes_to(JANUARY)
    assert [await left(backend, name) for name in names] == [1] * 5


async def test_one_that_cannot_be_filled_up_keeps_nobody_waiting(
    backend: Backend, calendar: Calendar, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("alice", "bob"):
        await backend.account(name, dollars=0)
        await renew(backend, name, "month", 50)
    await spend(backend, 1, 50)
    fill_up = wallets.fill_up

    def refuse(connection: Any, entry_id: str, wallet: str, amount: int) -> None:
        if wallet == "alice":
            raise Conflict("it has too much")
        fill_up(connection, entry_id, wallet, amount)

    monkeypatch.setattr(wallets, "fill_up", refuse)
    await calendar.goes_to(JANUARY)
    assert [(await backend.wallet(name))["renews_at"] for name in ("alice", "bob")] == [FEBRUARY, FEBRUARY]
    assert "credit not renewed" in caplog.messages


async def test_a_backend_does_it_by_itself(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_backend(url, tmp_path) as before:
        await before.account(dollars=0)
        calendar = Calendar(before, monkeypatch)
        await renew(before, "alice", "month", 50)
        await spend(before, 1, 45)
        calendar.turn(JANUARY)
    async with asyncio.timeout(20), running_backend(url, tmp_path) as backend:
        while await left(backend) < 50:
            await asyncio.sleep(0.05)


@on_sqlite
async def test_a_wallet_of_an_upstream_may_begin_so(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=0)
    assert (await renew(backend, "alice/team", "month", 5))["credits_nanodollars"] == 5 * DOLLAR


@on_sqlite
async def test_what_cannot_renew_is_refused(backend: Backend, calendar: Calendar) -> None:
    async def refused(status: int, path: str, **document: Any) -> str:
        answer = await backend.ask("POST", f"/admin/v1{path}", json=document)
        assert answer.status == status, answer.text
        return answer.error

    await backend.account(dollars=10)
    key = await backend.key()
    monthly = {"period": "month", "amount_nanodollars": DOLLAR}
    assert "there is no wallet 'bob'" in await refused(404, "/renewals", wallet="bob", **monthly)
    assert "no upstream would pay from it" in await refused(404, "/renewals", wallet="alice/tem", **monthly)
    assert "there is no wallet" in await refused(404, "/renewals", wallet="alice/team", period=None)
    assert "limit_renews" in await refused(409, "/renewals", wallet=f"key:{key['id']}", **monthly)
    assert "give both period and amount_nanodollars" in await refused(409, "/renewals", wallet="alice", period="month")
    assert "or null for both" in await refused(409, "/renewals", wallet="alice", period=None, amount_nanodollars=1)
    told = await refused(400, "/renewals", wallet="alice", period="year", amount_nanodollars=1)
    assert "'year' is not one of 'day', 'week' or 'month'" in told
    assert "the key has none" in await refused(409, "/accounts/alice/keys", limit_renews="month")
    assert "the key has none" in await refused(409, f"/keys/{key['id']}/set", limit_renews="month")
    used_up = await backend.key(limit_nanodollars=DOLLAR)
    await spend(backend, 1, 1, used_up)
    used_up = await backend.admin("POST", f"/keys/{used_up['id']}/rotate", {})
    assert "above 0" in await refused(409, f"/keys/{used_up['id']}/set", limit_renews="month")
    both = {"limit_renews": "month", "limit_nanodollars": None}
    assert "the key has none" in await refused(409, f"/keys/{key['id']}/set", **both)
    assert (await backend.wallet("alice"))["renews"] is None
    assert {each["account"] for each in (await backend.admin("GET", "/wallets"))["wallets"]} == {"alice"}


async def test_a_restored_backup_renews(backend: Backend, calendar: Calendar) -> None:
    await backend.account(dollars=0)
    key = await backend.key(limit_nanodollars=20 * DOLLAR, limit_renews="month")
    await renew(backend, "alice", "month", 50)
    await spend(backend, 1, 15, key)
    saved = await taken(backend)
    await renew(backend, "alice", None, None)
    restored = await put_back(backend, saved, "?replace=true")
    assert restored.status == 200, restored.text
    await calendar.goes_to(JANUARY)
    assert [await left(backend, wallet) for wallet in ("alice", f"key:{key['id']}")] == [50, 20]
