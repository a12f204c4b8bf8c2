"""What a backend does while it brings a large store to its form: it lives, is not ready, and can be told to leave.

What takes long in these stores is a trigger: each row that the step changes takes as long as a million do.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import Connection, text

from goproxy.control_plane.store.database import Database
from goproxy.control_plane.store.migrating import GivenUp, upgrade
from tests.control_plane.conftest import POSTGRESQL, SQLITE
from tests.control_plane.postgres import Postgres, name_of
from tests.gateway import config_document
from tests.process import free_port

TOKEN = "operator"
ROW, WALLETS = "req_1", ("alice", "alice/team")
_SLOW = {
    "sqlite": """CREATE TRIGGER slow AFTER UPDATE ON ledger_rows BEGIN
        SELECT count(*) FROM
        (WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM c WHERE n < {turns}) SELECT n FROM c);
        {then} END""",
    "postgresql": """CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN WHILE NOT pg_try_advisory_xact_lock({gate}) LOOP PERFORM pg_sleep(0.05); END LOOP; RETURN NEW; END';
        CREATE TRIGGER slow AFTER UPDATE ON ledger_rows FOR EACH ROW EXECUTE FUNCTION slow()""",
}


def turns_in(seconds: float) -> int:
    """How far SQLite counts in this time on this machine."""
    counting = (
        "WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM c WHERE n < 500000) SELECT count(*) FROM c"
    )
    with closing(sqlite3.connect(":memory:")) as connection:
        began = time.monotonic()
        connection.execute(counting).fetchall()
        return int(500_000 * seconds / (time.monotonic() - began))


LONG = {"turns": 10**10, "gate": 42}
SOME_SECONDS = {"turns": turns_in(4), "gate": 42}
"""On SQLite; on PostgreSQL until the test opens the `gate`."""


def fill(connection: Connection, corrections: int = 1) -> None:
    """One row, and so many corrections of it for each of its two wallets."""
    columns: dict[str, Any] = (
        dict.fromkeys(_NUMBERS, 0) | dict.fromkeys(_TEXTS, "x") | {"id": ROW, "multiplier": "1.08"}
    )
    connection.execute(text("INSERT INTO instances VALUES ('x', 'x', 0, 'x', NULL)"))
    connection.execute(
        text("INSERT INTO accounts VALUES ('alice', '', 'operator', '2026-01-01T00:00:00.000Z', NULL, NULL)")
    )
    names = ", ".join(columns)
    connection.execute(
        text(f"INSERT INTO ledger_rows ({names}, stream) VALUES (:{', :'.join(columns)}, false)"), columns
    )
    for wallet in WALLETS:
        connection.execute(text(f"INSERT INTO wallets VALUES ('{wallet}', 'alice', NULL, 0, 'x')"))
        for number in range(1, corrections + 1):
            note = f"rerate: multiplier 1.{number}"
            entry = f"'{wallet}-{number}', '{wallet}', 'alice', 'rerate', 1, '{note}', '{ROW}', '2026-01-0{number}'"
            connection.execute(text(f"INSERT INTO credits VALUES ({entry})"))


_TEXTS = (
    *("instance", "received_at", "day", "account", "key_id", "wallets", "upstream", "endpoint", "protocol", "model"),
    *("opened_at", "settled_at", "settlement", "outcome", "flags", "price_version", "prices"),
)
_NUMBERS = (
    *("status", "hold_nanodollars", "estimated_input_tokens", "input", "cache_write_5m", "cache_write_1h"),
    *("cache_read", "output", "reasoning", "cost_nanodollars", "adjustment_nanodollars", "received_bytes"),
    "answered_bytes",
)


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of revision 0002 with one row, which was corrected."""
    server: Postgres | None = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    made = f"sqlite:///{tmp_path}/old.sqlite3" if server is None else server.new_database()
    database = Database(made)
    database.transact("make", lambda connection: upgrade(connection, "0002"))
    database.transact("fill", fill)
    database.close()
    return made


def slow_down(url: str, pace: dict[str, int], then: str = "") -> None:
    database = Database(url)
    kind = url.partition(":")[0]
    database.transact(
        "slow down",
        lambda connection: connection.execute(text(_SLOW[kind].format(**pace, then=then).replace(":", "\\:"))),
    )
    database.close()


@pytest.fixture
def gate(url: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Holds up the migration on PostgreSQL until it is called; on SQLite it does nothing."""
    if url.startswith("sqlite"):
        yield lambda: None
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.connect(name_of(url)) as connection:
        connection.execute("SELECT pg_advisory_lock(42)")

        def opens() -> None:
            connection.execute("SELECT pg_advisory_unlock(42)")

        yield opens


def revision(url: str) -> Any:
    database = Database(url)
    try:
        return database.transact(
            "look", lambda connection: connection.scalar(text("SELECT version_num FROM alembic_version"))
        )
    finally:
        database.close()


class Process:
    """A backend in a process of its own."""

    def __init__(self, url: str, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(json.dumps(config_document()))
        (directory / "operator_token").write_text(hashlib.sha256(TOKEN.encode()).hexdigest())
        self.port = free_port()
        self.log = directory / "log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "GOPROXY_OPENHANDS_CONFIG_PATH": str(directory / "config.json"),
            "BACKEND_DATABASE_URL": url,
            "OPERATOR_TOKEN_PATH": str(directory / "operator_token"),
            "PROXY_TOKENS_PATH": str(directory / "proxy_tokens"),
            "KEYS_PATH": str(directory / "keys.json"),
            "BACKEND_PORT": str(self.port),
        }
        self.process: asyncio.subprocess.Process

    def said(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines() if line.startswith("{")]

    async def until(self, event: str) -> None:
        async with asyncio.timeout(30):
            while event not in self.said():
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.02)

    async def ask(self, path: str) -> tuple[int, dict[str, str], Any]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as answer,
        ):
            is_json = answer.content_type == "application/json"
            return answer.status, dict(answer.headers), await (answer.json() if is_json else answer.text())

    async def leave(self) -> float:
        """Tell it to; how long it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(self.process.wait(), 30) == 0, self.log.read_text()
        return time.monotonic() - began

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Process]:
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "goproxy.cli", "backend"), env=self._environment, stdout=log, stderr=log
            )
        try:
            yield self
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()


async def test_it_lives_and_is_not_ready_until_the_store_is_migrated(
    url: str, tmp_path: Path, gate: Callable[[], None]
) -> None:
    slow_down(url, SOME_SECONDS)
    async with Process(url, tmp_path / "backend").running() as backend:
        await backend.until("answering while the store is migrated")
        assert (await backend.ask("/healthz"))[0] == 200
        status, _, document = await backend.ask("/readyz")
        assert (status, document["ready"]) == (503, False)
        assert "being migrated" in document["detail"]
        for path in ("/admin/v1/accounts", "/proxy/v1/keys?instance=i&after=0&wait=60", "/"):
            status, headers, document = await backend.ask(path)
            assert (status, headers["Retry-After"]) == (503, "5")
            assert (document["error"]["type"], set(document)) == ("unavailable_error", {"error"})
        status, _, metrics = await backend.ask("/metrics")
        assert status == 200
        assert "\ngoproxy_store_available 0.0\n" in metrics
        assert "listening" not in backend.said()

        gate()
        refused = []
        while "listening" not in backend.said():  # nobody is turned away when the one application follows the other
            try:
                refused.append((await backend.ask("/healthz"))[0] != 200)
            except aiohttp.ClientConnectorError:
                refused.append(True)
        assert not any(refused)
        assert (await backend.ask("/readyz"))[0] == 200
        status, _, document = await backend.ask("/admin/v1/accounts")
        assert (status, [account["name"] for account in document["accounts"]]) == (200, ["alice"])
        assert backend.said().index("migrating the store") < backend.said().index("store migrated")
        assert '"event":"store migrated"' in backend.log.read_text()  # the role goproxy looks for it like this
        await backend.leave()


@pytest.mark.usefixtures("gate")
async def test_one_that_is_told_to_leave_ends_it_and_the_store_is_as_it_was(url: str, tmp_path: Path) -> None:
    slow_down(url, LONG)
    async with Process(url, tmp_path / "backend").running() as backend:
        await backend.until("answering while the store is migrated")
        assert await backend.leave() < 5
        assert backend.said()[-1] == "left before the store was migrated"
    assert revision(url) == "0002"


@pytest.mark.usefixtures("gate")
async def test_one_that_is_told_to_leave_at_once_does(url: str, tmp_path: Path) -> None:
    slow_down(url, LONG)
    async with Process(url, tmp_path / "backend").running() as backend:
        await backend.until("migrating the store")
        assert await backend.leave() < 5
    assert revision(url) == "0002"


@pytest.mark.parametrize("url", [SQLITE], indirect=True)
async def test_one_whose_migration_fails_ends_with_one_line(url: str, tmp_path: Path) -> None:
    slow_down(url, SOME_SECONDS, then="SELECT RAISE(ABORT, 'no room');")
    async with Process(url, tmp_path / "backend").running() as backend:
        await backend.until("answering while the store is migrated")
        assert await asyncio.wait_for(backend.process.wait(), 60) == 1
        *_, last = backend.log.read_text().splitlines()
        assert last.startswith("the store cannot be used: ")
        assert last.endswith("no room")
    assert revision(url) == "0002"


@pytest.mark.parametrize("url", [POSTGRESQL], indirect=True)
async def test_a_second_backend_waits_until_the_first_one_is_done(
    url: str, tmp_path: Path, gate: Callable[[], None]
) -> None:
    slow_down(url, SOME_SECONDS)
    async with Process(url, tmp_path / "one").running() as one:
        await one.until("migrating the store")
        async with Process(url, tmp_path / "two").running() as two:
            await two.until("another backend migrates the store")
            gate()
            await one.until("listening")
            await two.until("listening")
            assert "store migrated" not in two.said()
            assert (await two.ask("/readyz"))[0] == 200


@pytest.mark.parametrize("url", [POSTGRESQL], indirect=True)
@pytest.mark.usefixtures("gate")
async def test_a_second_backend_leaves_while_it_waits(url: str, tmp_path: Path) -> None:
    slow_down(url, LONG)
    async with Process(url, tmp_path / "one").running() as one:
        await one.until("migrating the store")
        async with Process(url, tmp_path / "two").running() as two:
            await two.until("another backend migrates the store")
            assert await two.leave() < 5
        await one.leave()


def test_one_that_is_given_up_between_two_statements_goes_no_further(tmp_path: Path) -> None:
    """There is nothing that could be interrupted in this moment."""
    database = Database(f"sqlite:///{tmp_path}/new.sqlite3")
    database.give_up()
    with pytest.raises(GivenUp):
        database.migrate()
    tables = text("SELECT count(*) FROM sqlite_master")
    assert database.transact("look", lambda connection: connection.scalar(tables)) == 0
    database.close()


def test_one_that_is_given_up_too_late_cuts_nothing_that_comes_after_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new.sqlite3")
    database.migrate()

    def work(connection: Connection) -> list[Any]:
        found = connection.exec_driver_sql("SELECT 1 UNION ALL SELECT 2")
        first = found.fetchone()
        database.give_up()
        return [first, found.fetchone()]

    assert database.transact("work", work) == [(1,), (2,)]
    database.close()


async def test_a_store_that_is_made_or_is_todays_is_not_called_migrated(tmp_path: Path) -> None:
    """By that line a run tells whether the backend of before could still open it."""
    for _ in range(2):
        async with Process(f"sqlite:///{tmp_path}/new.sqlite3", tmp_path / "backend").running() as backend:
            await backend.until("listening")
            await backend.leave()
            assert not [event for event in backend.said() if "migrat" in event]


def test_each_row_takes_the_multiplier_of_its_last_correction_in_one_change(tmp_path: Path) -> None:
    """Of two wallets, and of several corrections."""
    database = Database(f"sqlite:///{tmp_path}/corrected.sqlite3")
    database.transact("make", lambda connection: upgrade(connection, "0002"))
    database.transact("fill", lambda connection: fill(connection, corrections=3))
    database.transact("count", lambda connection: connection.execute(text("CREATE TABLE changes (id TEXT)")))
    count = "CREATE TRIGGER count AFTER UPDATE ON ledger_rows BEGIN INSERT INTO changes VALUES (NEW.id); END"
    database.transact("count", lambda connection: connection.execute(text(count)))
    database.migrate()
    assert database.transact(
        "look", lambda connection: connection.execute(text("SELECT id, adjusted_multiplier FROM ledger_rows")).all()
    ) == [(ROW, "1.3")]
    assert database.transact("look", lambda connection: connection.execute(text("SELECT * FROM changes")).all()) == [
        (ROW,)
    ]
    database.close()
