"""Leases: what is lent is never more than there is, whatever is lost, late, doubled, or at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update

from goproxy.control_plane.store import accounts, leases, rows, wallets
from goproxy.control_plane.store.database import Database, StoreUnavailable
from goproxy.control_plane.store.refusals import Conflict
from goproxy.control_plane.store.schema import instances
from goproxy.core.lease import MOST, Wallet
from goproxy.core.ledger import Row
from goproxy.timestamps import now, text_of
from tests.control_plane.backend import DOLLAR, Backend, config_of, row, running_backend
from tests.control_plane.conftest import POSTGRESQL, SQLITE, on_postgresql, on_sqlite
from tests.control_plane.postgres import Postgres, name_of

LONG_AGO = "2026-01-01T00:00:00.000Z"
HEARING = leases.Hearing(LONG_AGO, lambda _: timedelta(hours=1))


async def test_what_is_wanted_is_lent_and_something_on_top(backend: Backend) -> None:
    await backend.account(dollars=10)
    told = await backend.lend("i1", 1, ("alice", 0, 2 * DOLLAR))
    assert told == {"alice": {"wallet": "alice", "granted_total": 3 * DOLLAR, "spent_total": 0, "balance": 7 * DOLLAR}}
    assert (await backend.wallet("alice"))["held_nanodollars"] == 3 * DOLLAR


async def test_nothing_is_lent_where_there_is_not_enough(backend: Backend) -> None:
    await backend.account(dollars=1)
    told = await backend.lend("i1", 1, ("alice", 0, DOLLAR + 1))
    assert told["alice"] == {"wallet": "alice", "granted_total": 0, "spent_total": 0, "balance": DOLLAR}
    assert (await backend.lend("i1", 2, ("alice", 0, DOLLAR)))["alice"]["granted_total"] == DOLLAR


async def test_several_wallets_in_one_call(backend: Backend) -> None:
    await backend.account(dollars=10)
    await backend.grant("alice/team", 5)
    key = await backend.key(limit_nanodollars=2 * DOLLAR)
    limit = f"key:{key['id']}"
    asks = (("alice/team", 0, DOLLAR), (limit, 0, DOLLAR), ("nobody/team", 0, DOLLAR))
    told = await backend.lend("i1", 1, *asks, upstream="second")
    assert {wallet: each["granted_total"] for wallet, each in told.items()} == {
        "alice/team": 2 * DOLLAR,
        limit: DOLLAR + DOLLAR // 4,
        "nobody/team": 0,
    }
    assert (await backend.wallet("alice"))["held_nanodollars"] == 0


async def test_an_answer_that_was_lost_lends_nothing(backend: Backend) -> None:
    await backend.account(dollars=10)
    first = (await backend.lend("i1", 1, ("alice", 0, DOLLAR)))["alice"]["granted_total"]
    await backend.lend("i1", 2, ("alice", first, 4 * DOLLAR))  # this answer is lost
    again = (await backend.lend("i1", 3, ("alice", first, DOLLAR)))["alice"]["granted_total"]
    assert again == first + 2 * DOLLAR
    assert (await backend.wallet("alice"))["held_nanodollars"] == again


@pytest.mark.parametrize("sequence", [1, 2])
async def test_a_call_that_comes_late_or_twice_changes_nothing(backend: Backend, sequence: int) -> None:
    await backend.account(dollars=10)
    await backend.lend("i1", 2, ("alice", 0, DOLLAR))
    before = await backend.wallet("alice")
    call = {"instance": "i1", "upstream": "openhands", "sequence": sequence}
    late = await backend.proxy("/leases", call | {"leases": [{"wallet": "alice", "known_total": 0, "want": 9}]})
    assert late.status == 409
    assert late.json["error"]["type"] == "conflict_error"
    assert await backend.wallet("alice") == before


async def test_what_an_instance_gives_back_another_can_have(backend: Backend) -> None:
    await backend.account(dollars=4)
    held = (await backend.lend("i1", 1, ("alice", 0, 3 * DOLLAR)))["alice"]["granted_total"]
    assert (await backend.lend("i2", 1, ("alice", 0, 2 * DOLLAR), upstream="ohmygpt"))["alice"]["granted_total"] == 0
    assert (await backend.lend("i1", 2, ("alice", held - 2 * DOLLAR, 0)))["alice"]["granted_total"] == held - 2 * DOLLAR
    told = await backend.lend("i2", 2, ("alice", 0, 2 * DOLLAR), upstream="ohmygpt")
    assert told["alice"]["granted_total"] >= 2 * DOLLAR


async def test_a_row_is_spent_once_and_from_the_lease(backend: Backend) -> None:
    await backend.account(dollars=10)
    await backend.lend("i1", 1, ("alice", 0, DOLLAR))
    for _ in range(2):
        assert await backend.post("i1", row(1, cost=DOLLAR // 2)) == {"accepted": [row(1).id], "rejected": []}
    wallet = await backend.wallet("alice")
    assert (wallet["spent_nanodollars"], wallet["balance_nanodollars"]) == (DOLLAR // 2, 8 * DOLLAR)


async def test_a_cost_above_the_lease_is_taken_from_the_balance_even_below_zero(backend: Backend) -> None:
    await backend.account(dollars=1)
    await backend.post("i1", row(1, cost=3 * DOLLAR))
    wallet = await backend.wallet("alice")
    assert (wallet["spent_nanodollars"], wallet["balance_nanodollars"]) == (3 * DOLLAR, -2 * DOLLAR)
    assert (await backend.lend("i1", 1, ("alice", 0, 1)))["alice"]["balance"] == -2 * DOLLAR


async def test_a_retired_instance_returns_what_it_did_not_spend(backend: Backend) -> None:
    await backend.account(dollars=10)
    total = (await backend.lend("i1", 1, ("alice", 0, 4 * DOLLAR)))["alice"]["granted_total"]
    await backend.post("i1", row(1, cost=DOLLAR))
    done = await backend.admin("POST", "/leases/i1/retire?force=true")
    assert done["returned"] == [{"wallet": "alice", "amount_nanodollars": total - DOLLAR}]
    assert (await backend.wallet("alice"))["balance_nanodollars"] == 9 * DOLLAR
    (lease,) = (await backend.admin("GET", "/leases"))["leases"]
    assert lease["retired_at"] is not None
    assert (await backend.ask("POST", "/admin/v1/leases/i2/retire")).status == 404

    # Should it live, it gets nothing by that name any more: its money may be lent to others by now.
    call = {
        "instance": "i1",
        "upstream": "openhands",
        "sequence": 2,
        "leases": [{"wallet": "alice", "known_total": total, "want": 0}],
    }
    assert (await backend.proxy("/leases", call)).status == 409
    assert (await backend.wallet("alice"))["balance_nanodollars"] == 9 * DOLLAR


async def test_an_instance_that_may_live_is_retired_by_force_alone(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds for its running requests would be lent a second time."""
    await backend.account(dollars=10)
    total = (await backend.lend("i1", 1, ("alice", 0, 4 * DOLLAR)))["alice"]["granted_total"]

    async def refusal() -> str:
        answer = await backend.ask("POST", "/admin/v1/leases/i1/retire")
        assert (answer.status, (await backend.wallet("alice"))["held_nanodollars"]) == (409, total)
        return answer.error

    async def last_seen() -> str:
        (lease,) = (await backend.admin("GET", "/leases"))["leases"]
        return str(lease["last_seen"])

    assert f"heard of at {await last_seen()}" in await refusal()
    monkeypatch.setattr(backend.plane, "listening_since", LONG_AGO)
    await backend.plane.database.run("age", lambda store: store.execute(update(instances).values(last_seen=LONG_AGO)))

    monkeypatch.setattr(backend.plane, "listening_since", now())
    assert f"listens since {backend.plane.listening_since}" in await refusal()  # it has had no time to be heard of
    monkeypatch.setattr(backend.plane, "listening_since", LONG_AGO)

    await backend.poll("i1")  # nothing is lent, and no row came: it is quiet, and lives
    told = await refusal()
    assert f"heard of at {await last_seen()}" in told
    assert await last_seen() > LONG_AGO
    await backend.plane.database.run("age", lambda store: store.execute(update(instances).values(last_seen=LONG_AGO)))
    done = await backend.admin("POST", "/leases/i1/retire")
    assert done["returned"] == [{"wallet": "alice", "amount_nanodollars": total}]
    await backend.poll("i1")
    again = await backend.admin("POST", "/leases/i1/retire")  # its answer may have been lost
    assert again["returned"] == [{"wallet": "alice", "amount_nanodollars": 0}]


async def test_an_instance_that_may_be_cut_off_is_not_retired(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves on by the keys that it believes, and spends what it was lent."""
    monkeypatch.setattr(backend.plane, "listening_since", LONG_AGO)
    await backend.account(dollars=10)
    document = config_of("openhands")
    for staleness in (7200, 60):  # it may not have heard of the shorter one
        text = json.dumps(document | {"staleness_seconds": staleness})
        (backend.directory / "config-openhands-prod.json").write_text(text)
        backend.plane.catalogue.look()
    cut_off = timedelta(seconds=7200 + document["timeouts"]["total"]) + leases.SILENT_FOR
    assert backend.plane.catalogue.serves_on("gone") == timedelta(hours=1)
    await backend.lend("i1", 1, ("alice", 0, 4 * DOLLAR))
    for more, status in ((-60, 409), (1, 200)):
        seen = datetime.now(UTC) - cut_off - timedelta(seconds=more)
        values = update(instances).values(last_seen=text_of(seen))
        await backend.plane.database.run("age", lambda store, values=values: store.execute(values))  # type: ignore[misc]
        answer = await backend.ask("POST", "/admin/v1/leases/i1/retire")
        assert answer.status == status, answer.text
        if status == 409:
            assert f"may live until {text_of(seen + cut_off)}" in answer.error


@on_postgresql
def test_an_instance_that_is_heard_of_while_it_is_retired_is_not(url: str, postgres: Postgres) -> None:
    one, other = Database(url), Database(url)
    one.transact("begin", lambda store: _fund(store, 10 * DOLLAR))
    one.transact("meet", lambda store: leases.met(store, "i1", "openhands"))
    one.transact("age", lambda store: store.execute(update(instances).values(last_seen=LONG_AGO)))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"

    def hear(store: Connection) -> Future[Any]:
        leases.met(store, "i1", "openhands")
        retiring = thread.submit(other.transact, "retire", lambda store: leases.retire(store, "i1", HEARING))
        with postgres.connect() as looking:
            while looking.execute(waiting, [name_of(url)]).fetchone() != (1,):
                assert not retiring.done()
        return retiring

    with ThreadPoolExecutor(1) as thread:
        retiring = one.transact("hear", hear)
        with pytest.raises(Conflict, match="may live"):
            retiring.result()
    one.close()
    other.close()


def test_more_names_are_noted_than_a_statement_takes(url: str, database: Database) -> None:
    """65,535 on PostgreSQL, 250,000 on SQLite."""
    database.transact("meet", lambda store: leases.met(store, "i1", "openhands"))
    database.transact("age", lambda store: store.execute(update(instances).values(last_seen=LONG_AGO)))
    names = [f"h{number}" for number in range(66_000 if url.startswith("postgresql") else 251_000)]
    database.transact("note", lambda store: leases.heard(store, [*names, "i1"]))
    seen = database.transact("look", lambda store: store.execute(select(instances.c.last_seen)).scalar_one())
    assert seen > LONG_AGO


async def test_that_an_instance_lives_is_noted_for_many_polls_at_once(backend: Backend) -> None:
    await backend.lend("i1", 1)
    await backend.plane.database.run("age", lambda store: store.execute(update(instances).values(last_seen=LONG_AGO)))
    for _ in range(3):
        await backend.poll("i1")
    assert backend.plane.feed.heard == {"i1"}
    await backend.plane.note_heard()
    assert backend.plane.feed.heard == set()
    seen = await backend.plane.database.read("look", lambda s: s.execute(select(instances.c.last_seen)).scalar_one())
    assert seen > LONG_AGO


async def test_a_lease_of_a_wallet_that_the_store_has_forgotten_is_known_again(backend: Backend) -> None:
    told = await backend.lend("i1", 1, ("alice", 5, 0), ("key:key_00", 7, 0))
    assert [each["granted_total"] for each in told.values()] == [5, 7]
    assert (await backend.wallet("alice"))["balance_nanodollars"] == -5


async def test_an_instance_that_knows_of_more_than_it_was_lent_is_another(backend: Backend) -> None:
    """It gave that back, of which its journal, from a backup, does not know: another may have it by now."""
    await backend.account(dollars=10)
    known = (await backend.lend("i1", 1, ("alice", 0, 4 * DOLLAR)))["alice"]["granted_total"]
    await backend.lend("i1", 2, ("alice", DOLLAR, 0))
    await backend.lend("i2", 1, ("alice", 0, 8 * DOLLAR))
    before = await backend.wallet("alice")
    call = {"instance": "i1", "upstream": "openhands", "sequence": 10**9}
    told = await backend.proxy("/leases", call | {"leases": [{"wallet": "alice", "known_total": known, "want": 0}]})
    assert (told.status, told.json["error"]["type"]) == (409, "conflict_error")
    assert await backend.wallet("alice") == before


async def test_one_upstreams_proxy_cannot_speak_for_anothers_instance(backend: Backend) -> None:
    await backend.account()
    await backend.lend("i1", 1, ("alice", 0, DOLLAR))
    call = {"instance": "i1", "upstream": "ohmygpt", "sequence": 2, "leases": []}
    assert (await backend.proxy("/leases", call, "ohmygpt")).status == 409
    assert (await backend.proxy("/leases", call, "openhands")).status == 403


async def test_fifty_at_once_from_both_upstreams_are_lent_what_there_is(backend: Backend) -> None:
    await backend.account(dollars=10)

    async def ask(number: int) -> int:
        upstream = ("openhands", "ohmygpt")[number % 2]
        told = await backend.lend(f"i{number}", 1, ("alice", 0, DOLLAR), upstream=upstream)
        return int(told["alice"]["granted_total"])

    granted = await asyncio.gather(*map(ask, range(50)))
    wallet = await backend.wallet("alice")
    assert sum(granted) == wallet["held_nanodollars"] <= 10 * DOLLAR
    assert 0 <= wallet["balance_nanodollars"] < DOLLAR


def test_fifty_at_once_from_two_backends_lend_each_dollar_once(url: str) -> None:
    """Two processes on one store: the database's own locks must hold, without the one worker thread."""
    backends = [Database(url), Database(url)]
    backends[0].transact("begin", lambda store: _fund(store, 10 * DOLLAR))

    def lend(number: int) -> int:
        def ask(store: Connection) -> int:
            lent = leases.lend(store, f"i{number}", "openhands", 1, [leases.Ask("alice", 0, DOLLAR)])
            return lent.grants[0].granted_total

        return until_it_can_be_had(backends[number % 2], ask)

    with ThreadPoolExecutor(8) as threads:
        granted = list(threads.map(lend, range(50)))
    (wallet,) = backends[0].transact("show", wallets.show)
    assert sum(granted) == wallet["held_nanodollars"] == 10 * DOLLAR - wallet["balance_nanodollars"]
    assert 0 <= wallet["balance_nanodollars"] < DOLLAR
    for backend in backends:
        backend.close()


def test_a_call_that_comes_to_two_backends_at_once_is_answered_once(url: str) -> None:
    """The one that is late would give back what the other one lent."""
    backends = [Database(url), Database(url)]
    backends[0].transact("begin", lambda store: _fund(store, 10 * DOLLAR))

    def lend(number: int) -> int | None:
        def ask(store: Connection) -> int:
            leases.lend(store, "i1", "openhands", number // 8, [leases.Ask("alice", 0, DOLLAR)])
            return number // 8

        with suppress(Conflict):
            return until_it_can_be_had(backends[number % 2], ask)
        return None

    with ThreadPoolExecutor(8) as threads:
        answered = [sequence for sequence in threads.map(lend, range(160)) if sequence is not None]
    assert answered
    assert len(answered) == len({*answered})
    for backend in backends:
        backend.close()


@on_sqlite
def test_wallets_are_locked_in_the_order_of_their_ids(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order they are named: two that want the same money never wait for each other."""
    locked, load = list[str](), wallets.load

    def noting(store: Connection, wallet: str) -> Wallet:
        locked.append(wallet)
        return load(store, wallet)

    for name in ("bob", "alice"):
        database.transact("begin", partial(accounts.create, name=name))
    monkeypatch.setattr(wallets, "load", noting)
    works: list[Callable[[Connection], object]] = [
        lambda store: leases.lend(store, "i1", "openhands", 1, [leases.Ask("bob", 0, 1), leases.Ask("alice", 0, 1)]),
        lambda store: leases.spend(store, "i1", {"bob": 1, "alice": 1}),
        lambda store: leases.retire(store, "i1", None),
    ]
    for work in works:
        locked.clear()
        database.transact("work", work)
        assert locked == ["alice", "bob"]


def until_it_can_be_had(database: Database, work: Callable[[Connection], int]) -> int:
    while True:
        with suppress(StoreUnavailable):
            return database.transact("work", work)


def _fund(store: Connection, amount: int) -> None:
    accounts.create(store, "alice")
    wallets.credit(store, "first", "alice", "grant", amount)


def test_rows_posted_to_two_backends_at_once_are_counted_once(url: str) -> None:
    backends = [Database(url), Database(url)]
    backends[0].transact("begin", lambda store: _fund(store, 10 * DOLLAR))

    def post(number: int) -> int:
        batch = [row(each % 7, cost=1000) for each in range(number, number + 3)]
        return until_it_can_be_had(
            backends[number % 2], lambda store: len(rows.ingest(store, "i1", "openhands", batch))
        )

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(post, range(30))) == 7
    assert backends[0].transact("show", wallets.show)[0]["spent_nanodollars"] == 7000
    for backend in backends:
        backend.close()


def test_a_correction_that_two_backends_make_at_once_is_settled_once(url: str) -> None:
    backends, posted = [Database(url), Database(url)], row(1, cost=1000)
    backends[0].transact("begin", lambda store: _fund(store, 10 * DOLLAR))
    backends[0].transact("post", lambda store: rows.ingest(store, "i1", "openhands", [posted]))

    def correct(number: int) -> int:
        def dearer(found: Row) -> Row:
            return replace(found, cost_nanodollars=1000 + number // 8)

        return until_it_can_be_had(backends[number % 2], lambda store: len(rows.correct(store, [posted.id], dearer)))

    for first in range(0, 80, 8):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(correct, range(first, first + 8)))
    assert backends[0].transact("show", wallets.show)[0]["balance_nanodollars"] == 10 * DOLLAR - 1009
    for backend in backends:
        backend.close()


async def test_the_store_is_the_same_after_a_restart(url: str, tmp_path: Path) -> None:
    async with running_backend(url, tmp_path) as backend:
        await backend.account(dollars=10)
        await backend.lend("i1", 5, ("alice", 0, DOLLAR))
        await backend.post("i1", row(1))
        before = await backend.wallet("alice")
    async with running_backend(url, tmp_path) as backend:
        assert await backend.wallet("alice") == before
        call = {"instance": "i1", "upstream": "openhands", "sequence": 5, "leases": []}
        assert (await backend.proxy("/leases", call)).status == 409


_CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("lend"), st.integers(0, 1), st.integers(-3, 3), st.integers(0, 60)),
        st.tuples(st.just("spend"), st.integers(0, 1), st.integers(0, 5), st.integers(0, 40)),
        st.tuples(st.just("retire"), st.integers(0, 1), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@pytest.mark.parametrize("kind", [SQLITE, POSTGRESQL])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=_CALLS)
def test_the_store_does_what_the_rule_does(new_url: Callable[[str], str], kind: str, calls: list[Any]) -> None:
    """The wallet of core/lease.py in memory, and the same wallet in the database, after any calls."""
    database = Database(new_url(kind))
    try:
        database.transact("begin", lambda store: _fund(store, 100))
        _compare(database, calls)
    finally:
        database.close()


def _compare(database: Database, calls: list[Any]) -> None:
    rule, sequence, spent, retired = Wallet(100), 0, set(), set()
    for number, (verb, which, first, second) in enumerate(calls):
        instance, upstream = (("i0", "openhands"), ("i1", "ohmygpt"))[which]
        loan = rule.loans.get(instance)
        if verb == "lend":
            sequence += 1
            known = max(0, (loan.granted_total if loan else 0) + first)
            ask = leases.Ask("alice", known, second)
            if instance in retired or rule.is_exceeded(instance, known):
                with pytest.raises(Conflict):
                    database.transact("lend", lambda s: leases.lend(s, instance, upstream, sequence, [ask]))  # noqa: B023
                continue
            lent = database.transact("lend", lambda s: leases.lend(s, instance, upstream, sequence, [ask]))  # noqa: B023
            expected = rule.lend(instance, known, second, leases.CHUNK)
            assert lent.grants == [leases.Grant("alice", expected, rule.loans[instance].spent_total, rule.balance)]
        elif verb == "spend":
            posted = row(first, cost=second, upstream=upstream)
            database.transact("post", lambda s: rows.ingest(s, instance, upstream, [posted]))  # noqa: B023
            if posted.id not in spent:
                rule.spend(instance, second)
            spent.add(posted.id)
        elif loan is not None:
            database.transact("retire", lambda s: leases.retire(s, instance, None))  # noqa: B023
            rule.retire(instance)
            retired.add(instance)
        (stored,) = database.transact("show", wallets.show)
        kept = (stored["balance_nanodollars"], stored["held_nanodollars"], stored["spent_nanodollars"])
        assert kept == (rule.balance, rule.held, rule.spent), number
        assert sum(kept) == stored["credits_nanodollars"] == 100


def test_a_credit_beyond_all_measure_is_refused(database: Database) -> None:
    database.transact("begin", lambda store: _fund(store, MOST))
    with pytest.raises(Conflict):
        database.transact("more", lambda store: wallets.credit(store, "second", "alice", "grant", 1))
    assert database.transact("show", wallets.show)[0]["credits_nanodollars"] == MOST
