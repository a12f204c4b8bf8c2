"""Backup and restore: all of it, on either database and from one to the other; and nothing of it when it is damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, text

from goproxy.control_plane.store import accounts, backup, keys, rows
from goproxy.control_plane.store.database import Database
from goproxy.control_plane.store.migrating import revisions
from goproxy.control_plane.store.schema import metadata
from goproxy.core.keys import digest, new_key
from goproxy.core.usage import Usage
from tests.control_plane.backend import DOLLAR, OPERATOR, Answer, Backend, row, running_backend
from tests.control_plane.conftest import POSTGRESQL, SQLITE, on_sqlite
from tests.control_plane.test_declared import entry, live, until
from tests.control_plane.test_migrations import differences


def everything(connection: Connection) -> dict[str, list[Any]]:
    return {
        table.name: sorted(map(repr, connection.execute(select(table)).all())) for table in metadata.tables.values()
    }


async def fill(backend: Backend) -> None:
    await backend.account()
    key = await backend.key(models=["claude-opus-4-5", "claude-opus-4-5-20251101"], limit_nanodollars=DOLLAR)
    await backend.key()
    await backend.lend("i1", 3, ("alice", 0, DOLLAR))
    batch = [row(number, raw_usage={"Grüße": "\U0001f600"}) for number in range(120)]
    await backend.post("i1", *batch)
    await backend.admin("POST", f"/keys/{key['id']}/revoke")


async def taken(backend: Backend) -> bytes:
    async with backend.session.get(
        f"{backend.url}/admin/v1/backup", headers={"Authorization": f"Bearer {OPERATOR}"}
    ) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/gzip")
        return await answer.read()


async def put_back(backend: Backend, copy: bytes, query: str = "") -> Answer:
    return await backend.ask("POST", f"/admin/v1/restore{query}", data=io.BytesIO(copy))


@pytest.mark.parametrize("kind", [SQLITE, POSTGRESQL])
@pytest.mark.parametrize("url", [SQLITE, POSTGRESQL], indirect=True)
async def test_a_backup_is_the_whole_store_and_goes_into_either_database(
    backend: Backend, kind: str, own: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_BATCH", 50)
    await fill(backend)
    before = backend.plane.database.transact("look", everything)
    known = backend.plane.feed.version
    copy = await taken(backend)

    (tmp_path / "other").mkdir()
    async with running_backend(own(kind), tmp_path / "other") as other:
        done = await put_back(other, copy)
        assert done.status == 200, done.text
        assert done.json["records"]["ledger_rows"] == 120
        after = other.plane.database.transact("look", everything)
        assert after.pop("counters") != before.pop("counters")  # or a proxy could know the version with other keys
        assert after == before
        assert other.plane.feed.version > known
        assert await other.wallet("alice") == await backend.wallet("alice")
        assert (await other.poll()).json["keys"] == (await backend.poll()).json["keys"]
        await other.post("i1", row(1), row(9999))  # what was posted since is posted again, from the journals
        assert (await other.wallet("alice"))["spent_nanodollars"] == 121 * 1_000_000
        await other.grant("alice", 1, "after")


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes a store on the database of a kind, which no other fixture knows."""

    def new(kind: str) -> str:
        sqlite = f"sqlite:///{tmp_path}/other.sqlite3"
        url = sqlite if kind == "sqlite" else request.getfixturevalue("postgres").new_database()
        database = Database(url)
        database.migrate()
        database.close()
        return str(url)

    return new


async def test_what_is_stored_is_replaced_only_when_that_is_asked_for(backend: Backend) -> None:
    await backend.account("alice")
    copy = await taken(backend)
    await backend.account("bob")
    refused = await put_back(backend, copy)
    assert (refused.status, refused.json["error"]["type"]) == (409, "conflict_error")
    assert len((await backend.admin("GET", "/accounts"))["accounts"]) == 2
    assert (await put_back(backend, copy, "?replace=true")).status == 200
    assert [each["name"] for each in (await backend.admin("GET", "/accounts"))["accounts"]] == ["alice"]


async def test_no_version_of_the_keys_is_told_twice_with_other_keys(backend: Backend) -> None:
    await backend.account()
    await backend.key()
    copy = await taken(backend)
    versions = {backend.plane.feed.version}
    for _ in range(3):
        await backend.key()
        versions.add(backend.plane.feed.version)
    assert (await put_back(backend, copy, "?replace=true")).status == 200
    news = (await backend.poll()).json
    assert len(news["keys"]) == 1
    assert news["version"] > max(versions)


async def test_a_restored_store_is_what_the_inventory_declares(backend: Backend) -> None:
    """At once: not one poll may find a key that has left the inventory since the backup."""
    backend.declare(keys=[entry("alice", "a"), entry("bob", "b")])
    await until(backend, ("alice", "a"), ("bob", "b"))
    copy = await taken(backend)
    backend.declare(keys=[entry("bob", "b"), entry("carol", "c")])
    await until(backend, ("bob", "b"), ("carol", "c"))
    assert (await put_back(backend, copy, "?replace=true")).status == 200
    assert await live(backend) == {("bob", "b"), ("carol", "c")}


async def test_what_others_have_in_the_same_database_stays(backend: Backend) -> None:
    await backend.account()
    copy = await taken(backend)
    store = backend.plane.database

    def others(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE others (id INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO others VALUES (7)"))

    store.transact("others", others)
    assert (await put_back(backend, copy, "?replace=true")).status == 200
    assert store.transact("look", lambda c: c.execute(text("SELECT id FROM others")).scalars().all()) == [7]
    store.transact("tidy", lambda c: c.execute(text("DROP TABLE others")))


@pytest.mark.parametrize("place", ["/dev/full", "/nowhere/at/all"])
@on_sqlite
async def test_no_room_for_a_copy_is_503(backend: Backend, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    await backend.account()
    copy = await taken(backend)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path(place).open("wb"))  # noqa: SIM115
    for answer in (await backend.ask("GET", "/admin/v1/backup"), await put_back(backend, copy, "?replace=true")):
        assert answer.status == 503
        assert "cannot be written here" in answer.error
    assert await backend.wallet("alice")


def lines_of(copy: bytes) -> list[bytes]:
    return gzip.decompress(copy).splitlines(keepends=True)


_BODY = 10
"""Of what gzip writes without a file's name. Its first three bits say how it is packed; all of them set is no way."""


def newest() -> bytes:
    """The revision of the tables, as a backup has it."""
    return f'"{max(revisions())}"'.encode()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "something else": lambda _: b"hello",
    "something else, packed": lambda _: gzip.compress(b"hello\n"),
    "no object": lambda _: gzip.compress(b"[]\n"),
    "a bit flipped": lambda copy: copy[:_BODY] + bytes([copy[_BODY] | 7]) + copy[_BODY + 1 :],
    "cut short": lambda copy: copy[: len(copy) // 2],
    "the last line gone": lambda copy: gzip.compress(b"".join(lines_of(copy)[:-1])),
    "a line gone": lambda copy: gzip.compress(b"".join(lines_of(copy)[:2] + lines_of(copy)[3:])),
    "a number changed": lambda copy: gzip.compress(b"".join(lines_of(copy)).replace(b"10000000000", b"90000000000")),
    "a newer goproxy": lambda copy: gzip.compress(b"".join(lines_of(copy)).replace(newest(), b'"9999"')),
}


@on_sqlite
async def test_a_damaged_backup_changes_nothing(backend: Backend) -> None:
    await backend.account()
    copy = await taken(backend)
    before = backend.plane.database.transact("look", everything)
    for name, damage in DAMAGE.items():
        answer = await put_back(backend, damage(copy), "?replace=true")
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error"), name
    assert backend.plane.database.transact("look", everything) == before
    assert backend.plane.database.directory is not None
    assert len(list(backend.plane.database.directory.iterdir())) <= 2  # no copy is left lying about


async def test_a_restore_that_fails_in_the_middle_changes_nothing(backend: Backend) -> None:
    await backend.account()
    copy = await taken(backend)
    record = {"table": "wallets", "record": {"id": "x", "account": "x", "credits": "many", "created_at": None}}
    lines = lines_of(copy)
    whole = _sealed([*lines[:-1], json.dumps(record).encode() + b"\n"])
    before = backend.plane.database.transact("look", everything)
    answer = await put_back(backend, whole, "?replace=true")
    assert answer.status == 500, answer.text
    assert backend.plane.database.transact("look", everything) == before


async def test_a_backup_of_an_older_goproxy_becomes_a_store_of_this_one(backend: Backend) -> None:
    """What a correction was made with is taken from its credits, as they were before the row itself told."""
    await fill(backend)
    priced: dict[str, Any] = {"usage": Usage(input=1_000_000), "cost": 54 * DOLLAR // 10, "multiplier": "1.08"}
    once, twice, back = (row(number, **priced) for number in (1001, 1002, 1003))
    gone = row(1004, usage=Usage(input=1_000_000), cost=0, multiplier="1", flags=("unpriced",))
    await backend.post("i1", once, twice, back, gone)
    for multiplier in ("1.3", "1.2"):
        await backend.admin("POST", "/rerate", {"multiplier": multiplier, "apply": True})
    before = {each["id"]: each for each in (await backend.admin("GET", "/rows?kind=request"))["rows"]}
    lines = []
    for line in lines_of(await taken(backend))[1:-1]:
        document = json.loads(line)
        record = document["record"]
        for later in ("adjusted_multiplier", "terms", "web_search"):
            record.pop(later, None)
        if record.get("row_id") in (back.id, gone.id) and "multiplier 1.2" in record["note"]:
            record["note"] = record["note"].replace("1.2", "1.08" if record["row_id"] == back.id else "1")
        lines.append(json.dumps(document).encode() + b"\n")
    head = {"format": "goproxy backup 1", "revision": "0001", "made_at": "x"}
    old = _sealed([json.dumps(head).encode() + b"\n", *lines])
    assert (await put_back(backend, old, "?replace=true")).status == 200
    assert backend.plane.database.transact("compare", differences) == []
    after = {each["id"]: each for each in (await backend.admin("GET", "/rows?kind=request"))["rows"]}
    own = {row_id: document | {"adjusted_multiplier": None} for row_id, document in before.items()}
    kept = {name: own[name] | {"adjusted_multiplier": "1.2"} for name in before.keys() - {back.id, gone.id}}
    assert after == own | kept


def _sealed(lines: list[bytes]) -> bytes:
    counts = Counter(json.loads(line)["table"] for line in lines[1:])
    seal = {"end": True, "records": counts, "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
    return gzip.compress(b"".join(lines) + json.dumps(seal).encode() + b"\n")


def test_a_backup_holds_no_key(database: Database) -> None:
    key, file = new_key(), io.BytesIO()

    def work(store: Connection) -> None:
        accounts.create(store, "alice")
        keys.create(store, "alice", digest(key), keys.prefix(key))
        rows.ingest(store, "i1", "openhands", [row(1)])

    database.transact("fill", work)
    database.transact("back up", lambda store: backup.dump(store, file))
    content = gzip.decompress(file.getvalue())
    assert digest(key).encode() in content
    assert key.encode() not in content
