"""How the databases are opened: what is acknowledged is on the disk, and who only reads changes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import Connection, exc, func, insert, select

from goproxy.control_plane.store import accounts, engine, wallets
from goproxy.control_plane.store.database import Database, StoreUnavailable
from goproxy.control_plane.store.schema import accounts as accounts_table
from goproxy.control_plane.store.schema import credit_entries
from tests.control_plane.conftest import POSTGRESQL, on_postgresql, on_sqlite
from tests.control_plane.postgres import Postgres, name_of


@on_sqlite
def test_sqlite_syncs_the_database_and_its_journal_at_each_commit(database: Database) -> None:
    def settings(store: Connection) -> list[object]:
        return [store.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("synchronous", "journal_mode")]

    assert database.transact("look", settings) == [2, "truncate"]


@pytest.mark.parametrize("own_url", [POSTGRESQL], indirect=True)
def test_postgresql_syncs_each_commit_however_it_is_set_up(own_url: str, postgres: Postgres) -> None:
    with postgres.connect() as connection:
        connection.execute(f"ALTER DATABASE {name_of(own_url)} SET synchronous_commit = off")
    opened = Database(own_url)
    shown = opened.transact("look", lambda store: store.exec_driver_sql("SHOW synchronous_commit").scalar_one())
    opened.close()
    assert shown == "on"


def test_who_only_reads_changes_nothing(url: str) -> None:
    reading = engine.to_read(engine.known_url(url))
    with pytest.raises(exc.DBAPIError, match=r"readonly|read-only"), reading.begin() as store:
        accounts.create(store, "alice")
    reading.dispose()


@on_postgresql
def test_what_one_transaction_reads_is_of_one_moment(url: str, database: Database) -> None:
    """On SQLite nobody can commit meanwhile."""
    reading, many = engine.to_read(engine.known_url(url)), select(func.count()).select_from(accounts_table)
    with reading.begin() as store:
        before = store.scalar(many)
        database.transact("create", lambda other: accounts.create(other, "alice"))
        assert store.scalar(many) == before
    reading.dispose()


def test_nothing_is_credited_to_a_wallet_that_is_not_there(database: Database) -> None:
    """Whatever a fault of ours would write: the database itself refuses it."""
    database.transact("create", lambda store: accounts.create(store, "alice"))
    database.transact("credit", lambda store: wallets.credit(store, "c", "alice", "grant", 1))
    entry = select(credit_entries).where(credit_entries.c.id == "c")
    with pytest.raises(exc.IntegrityError):
        database.transact(
            "credit",
            lambda store: store.execute(
                insert(credit_entries).values({**store.execute(entry).mappings().one(), "id": "d", "wallet": "nobody"})
            ),
        )


@on_sqlite
def test_a_lock_that_cannot_be_had_is_found_out_before_the_work(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LOCK_SECONDS", 0.1)
    opened, begun = Database(url), list[bool]()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            opened.transact("work", lambda _: begun.append(True))
    assert begun == []
    opened.close()
