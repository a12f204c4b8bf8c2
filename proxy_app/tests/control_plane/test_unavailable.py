"""A database that cannot be had: the proxies are told to come again, nothing is lost, and nothing is half done."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, exc, select

from goproxy.control_plane.store import accounts, engine, wallets
from goproxy.control_plane.store import database as module
from goproxy.control_plane.store.database import Database, StoreUnavailable
from goproxy.control_plane.store.engine import UnusableStore
from tests.conftest import Lines
from tests.control_plane.backend import DOLLAR, PROXY, Answer, Backend, row, running_backend
from tests.control_plane.conftest import on_postgresql, on_sqlite
from tests.control_plane.gate import Gate
from tests.control_plane.postgres import Postgres, name_of


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LOCK_SECONDS", 0.2)


def is_away(answer: Answer) -> bool:
    if answer.status == 503:
        assert answer.headers["Retry-After"] == "1"
        assert answer.json["error"]["type"] == "unavailable_error"
    return answer.status == 503


async def test_a_locked_database_is_503_and_then_everything_is_there_once(
    backend: Backend, lock: Callable[[], Any], lines: Lines
) -> None:
    await backend.account(dollars=10)
    await backend.key()
    posted = {"instance": "i1", "upstream": "openhands", "rows": [row(1, cost=5).to_json()]}
    wanted = [{"wallet": "alice", "known_total": 0, "want": DOLLAR}]
    lent = {"instance": "i1", "upstream": "openhands", "sequence": 1, "leases": wanted}
    credit = {"id": "more", "wallet": "alice", "kind": "grant", "amount_nanodollars": DOLLAR}
    with lock():
        answers = [
            await backend.proxy("/rows", posted),
            await backend.proxy("/leases", lent),
            await backend.ask("POST", "/admin/v1/credits", json=credit),
        ]
        assert all(map(is_away, answers)), answers
        assert (await backend.poll()).status == 200  # the keys are known all the same
        assert (await backend.ask("GET", "/admin/v1/catalogue")).status == 200
        ready = (await backend.ask("GET", "/readyz", None)).json
        assert ready["ready"]
        assert "the store cannot be had now" in ready["detail"]
        await backend.plane.count()  # which it does by itself, too: it reads
    works = [line["work"] for line in lines.all("store unavailable")]
    assert sorted(work == "count" for work in works) == [False, True], "once for what writes, and for what reads"

    assert (await backend.proxy("/rows", posted)).json["accepted"] == [row(1).id]
    assert (await backend.proxy("/leases", lent)).status == 200
    await backend.admin("POST", "/credits", credit)
    assert lines.all("store available again")
    wallet = await backend.wallet("alice")
    assert (wallet["credits_nanodollars"], wallet["spent_nanodollars"]) == (11 * DOLLAR, 5)


async def test_proxies_that_come_again_and_again_lose_nothing(backend: Backend, lock: Callable[[], Any]) -> None:
    await backend.account(dollars=10)
    sent_away = asyncio.Event()

    async def post(number: int) -> None:
        attempts = 0
        document = {"instance": "i1", "upstream": "openhands", "rows": [row(number, cost=7).to_json()]}
        while is_away(await backend.proxy("/rows", document)):
            attempts += 1
            if attempts == 2:
                sent_away.set()
            await asyncio.sleep(0.05)

    with lock():
        posts = [asyncio.create_task(post(number)) for number in range(4)]
        await sent_away.wait()
    await asyncio.gather(*posts)
    assert (await backend.wallet("alice"))["spent_nanodollars"] == 4 * 7


async def test_work_that_has_waited_too_long_for_its_turn_is_given_up(
    backend: Backend, lock: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_SECONDS", 0.1)
    with lock():
        answers = await asyncio.gather(*(backend.lend_answer(number) for number in range(5)))
    assert all(map(is_away, answers))
    assert sum("busy" in answer.error for answer in answers) >= 3  # they did not wait for the lock one after the other


class Posted:
    """What somebody wants to be stored."""


async def test_nobody_waits_without_end_behind_what_hangs(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    """As PostgreSQL hangs in a commit whose synchronous standby is gone: it does not fail."""
    monkeypatch.setattr(module, "QUEUE_SECONDS", 0.1)
    store, gate = backend.plane.database, Gate()
    hanging = asyncio.create_task(store.run("hang", lambda _: gate.wait()))
    async with gate.held():
        posted = Posted()
        kept = weakref.ref(posted)
        with pytest.raises(StoreUnavailable, match="busy"):
            await store.run("keep", partial(lambda posted, _: posted, posted))
        del posted
        gc.collect()
        assert kept() is None
        assert store.problem is None
        monkeypatch.setattr(module, "HANGS_AFTER", 0.01)
        assert "no answer to 'hang' for more than" in str(store.problem)
        assert "it hangs" in (await backend.ask("GET", "/readyz", None)).json["detail"]
        assert "goproxy_store_available 0.0" in backend.plane.metrics.text()
        monkeypatch.setattr(module, "QUEUE_SECONDS", 60)  # nobody waits at all now
        assert all(map(is_away, [await backend.lend_answer(number) for number in range(3)]))
        assert (await backend.ask("GET", "/admin/v1/accounts")).status == 200  # which only reads
    await hanging
    assert len(lines.all("store unavailable")) == len(lines.all("store available again")) == 1
    assert store.problem is None
    assert (await backend.lend_answer(1)).status == 200


async def test_who_goes_while_waiting_for_a_turn_leaves_nothing(backend: Backend) -> None:
    store, gate = backend.plane.database, Gate()
    hanging = asyncio.create_task(store.run("hang", lambda _: gate.wait()))
    async with gate.held():
        posted = Posted()
        kept = weakref.ref(posted)
        waiting = asyncio.create_task(store.run("keep", partial(lambda posted, _: posted, posted)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        del posted, waiting
        await asyncio.sleep(0.05)
        gc.collect()
        assert kept() is None
    await hanging


async def test_posts_that_their_proxies_gave_up_are_not_told_one_by_one(backend: Backend, lines: Lines) -> None:
    async def away() -> None:
        await asyncio.sleep(0.05)
        raise StoreUnavailable("the store is busy")

    asked = asyncio.create_task(backend.plane.see_through(away()))
    await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.sleep(0.1)
    assert lines.all("what nobody waited for any more failed") == []


async def test_what_is_long_by_its_nature_does_not_hang(
    backend: Backend, own_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANGS_AFTER", 0.05)
    fresh = Database(own_url)
    reading, restoring, migrating = Gate(), Gate(), Gate()
    monkeypatch.setattr(fresh._migration, "work", lambda _: migrating.wait())
    long_ones: list[tuple[Database, Gate, Coroutine[Any, Any, object]]] = [
        (backend.plane.database, reading, backend.plane.database.at_one_moment("back up", lambda _: reading.wait())),
        (backend.plane.database, restoring, backend.plane.restore(lambda _: restoring.wait())),
        (fresh, migrating, asyncio.to_thread(fresh.migrate)),
    ]
    for store, gate, work in long_ones:
        task = asyncio.create_task(work)
        async with gate.held():
            await asyncio.sleep(0.1)
            assert store.problem is None
        await task
    fresh.close()


async def test_a_revocation_that_could_not_be_stored_is_not_told(backend: Backend, lock: Callable[[], Any]) -> None:
    await backend.account()
    key = await backend.key()
    with lock():
        assert is_away(await backend.ask("POST", f"/admin/v1/keys/{key['id']}/revoke"))
    assert [each["id"] for each in (await backend.poll()).json["keys"]] == [key["id"]]
    assert (await backend.admin("GET", f"/keys/{key['id']}"))["revoked_at"] is None


async def test_declared_keys_are_taken_in_when_the_database_is_back(
    backend: Backend, lock: Callable[[], Any], eventually: Callable[..., Any]
) -> None:
    with lock():
        backend.declare(keys=[{"account": "carol", "prefix": "tg-", "sha256": "c" * 64}])
        await asyncio.sleep(0.5)
    while (await backend.poll()).status != 200:
        await asyncio.sleep(0.05)
    assert [each["account"] for each in (await backend.poll()).json["keys"]] == ["carol"]


@on_postgresql
async def test_a_server_that_drops_every_connection_is_found_again(
    backend: Backend, url: str, postgres: Postgres
) -> None:
    await backend.account()
    with postgres.connect() as connection:
        drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        assert connection.execute(drop, [name_of(url)]).rowcount >= 1
    assert await backend.wallet("alice")


@on_postgresql
def test_a_backend_that_stops_in_the_middle_does_not_keep_its_locks(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose machine froze: nothing of it is heard, and its connection stays."""
    monkeypatch.setattr(engine, "IDLE_SECONDS", 0.3, raising=False)
    database.transact("fill", lambda store: accounts.create(store, "alice"))
    stopped = engine.to_write(engine.known_url(url))
    held = stopped.connect()
    driver: Any = held.connection.driver_connection
    wallets.load(held, "alice")

    def grant() -> bool:
        with suppress(StoreUnavailable):
            database.transact("grant", lambda store: wallets.credit(store, "g", "alice", "grant", DOLLAR))
            return True
        return False

    assert any(grant() for _ in range(10))
    with pytest.raises(exc.DBAPIError, match="idle-in-transaction timeout"):
        held.execute(select(1))
    driver.close()
    held.close()
    stopped.dispose()


@on_postgresql
def test_the_server_gives_up_a_backend_whose_machine_is_gone(url: str, postgres: Postgres) -> None:
    opened = Database(postgres.by_tcp(url))
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")

    def settings(store: Connection) -> list[str]:
        return [store.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]

    assert opened.transact("look", settings) == ["5", "2", "3", "10000"]
    opened.close()


async def test_a_database_that_is_gone_at_the_next_start_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(UnusableStore, match="unable to open"):
        Database(f"sqlite:///{tmp_path}/store").migrate()


async def test_a_full_disk_is_503(tmp_path: Path, new_url: Callable[[str], str]) -> None:
    """SQLite's own limit of pages stands in for the disk's end: the error is the same."""
    async with running_backend(new_url("sqlite"), tmp_path) as backend:
        await backend.account()

        def limit(store: Any) -> None:
            pages = store.exec_driver_sql("PRAGMA page_count").scalar()
            store.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        await backend.plane.database.run("limit", limit)
        usage = {"text": "x" * 100_000}
        document = {"instance": "i1", "upstream": "openhands", "rows": [row(1, raw_usage=usage).to_json()]}
        answer = await backend.proxy("/rows", document)
        assert is_away(answer)
        assert "full" in answer.error
        assert (await backend.wallet("alice"))["spent_nanodollars"] == 0
        await backend.plane.count()  # which only reads, and can
        assert "goproxy_store_available 0.0" in backend.plane.metrics.text()
        await backend.lend_answer(1)
        assert "goproxy_store_available 1.0" in backend.plane.metrics.text()


@on_sqlite
async def test_a_proxy_without_a_token_does_not_reach_the_store(backend: Backend, lock: Callable[[], Any]) -> None:
    with lock():
        assert (await backend.ask("POST", "/proxy/v1/leases", PROXY["openhands"][:-1])).status == 401
