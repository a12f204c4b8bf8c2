"""The tables: made from nothing, the same as schema.py says, and refused when a newer goproxy made them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from goproxy.control_plane.store.database import Database
from goproxy.control_plane.store.engine import UnusableStore
from goproxy.control_plane.store.migrating import revisions
from goproxy.control_plane.store.schema import metadata
from tests.control_plane.conftest import POSTGRESQL


@pytest.fixture
def database(own_url: str) -> Iterator[Database]:
    opened = Database(own_url)
    yield opened
    opened.close()


def differences(connection: Connection) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True}
    found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return found


def test_every_migration_together_makes_what_the_schema_says(database: Database) -> None:
    assert database.transact("compare", differences) == []


@pytest.mark.parametrize("own_url", [POSTGRESQL], indirect=True)
def test_all_text_is_ordered_by_its_code_points(database: Database) -> None:
    """Which the comparison does not see."""
    query = (
        "SELECT DISTINCT collation_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'text' AND table_name <> 'alembic_version'"
    )
    assert database.transact("look", lambda store: store.execute(text(query)).all()) == [("C",)]


def test_the_comparison_sees_a_difference(database: Database) -> None:
    def change(connection: Connection) -> list[Any]:
        connection.execute(text("ALTER TABLE accounts ADD COLUMN colour TEXT"))
        connection.execute(text("DROP INDEX ix_ledger_rows_account_day_id"))
        return differences(connection)

    assert {found[0] for found in database.transact("change", change)} == {"remove_column", "add_index"}


def test_migrating_again_changes_nothing(database: Database) -> None:
    database.migrate()
    assert database.transact("compare", differences) == []


def test_a_store_of_a_newer_goproxy_is_refused(database: Database) -> None:
    database.transact("pretend", lambda store: store.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(UnusableStore, match=r"9999.*newer goproxy"):
        database.migrate()


def test_a_step_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/store.sqlite3")
    database.transact("in the way", lambda store: store.execute(text("CREATE TABLE ledger_rows (id TEXT)")))
    with pytest.raises(UnusableStore, match="ledger_rows already exists"):
        database.migrate()
    tables = database.transact("look", lambda store: store.execute(text("SELECT name FROM sqlite_master")).all())
    assert tables == [("ledger_rows",)]
    database.close()


def test_the_steps_are_one_line() -> None:
    assert revisions() == {f"{number:04}" for number in range(1, len(revisions()) + 1)}


@pytest.mark.parametrize(
    "url", ["", "mysql://root@h/x", "sqlite://", "sqlite:///:memory:", "postgresql", "sqlite:////nowhere/at/all/x"]
)
def test_a_url_that_is_no_store_is_one_clear_error(url: str) -> None:
    with pytest.raises(UnusableStore):
        Database(url).migrate()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"not a database at all, but long enough to be taken for one" * 100)
    database = Database(f"sqlite:///{tmp_path}/store")
    with pytest.raises(UnusableStore, match="file is not a database"):
        database.migrate()
    database.close()


def test_a_password_is_not_shown() -> None:
    with pytest.raises(UnusableStore) as raised:
        Database("postgresql://backend:CANARY@127.0.0.1:1/x").migrate()
    assert "CANARY" not in str(raised.value)
    assert "127.0.0.1" in str(raised.value)
