"""The operator's API: accounts, keys and credits; who may ask, and what is answered to what is no question."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict
from psycopg import sql

from goproxy.control_plane.store import keys, leases, rows
from goproxy.core.keys import digest, is_well_formed
from goproxy.core.pricing import dollars
from tests.control_plane.backend import DOLLAR, OPERATOR, WALLETS, Backend, row
from tests.control_plane.conftest import on_sqlite
from tests.control_plane.postgres import Postgres, name_of
from tests.gateway import OPUS, config_document

OTHER = OPUS | {"id": "another", "id_aliases": []}


async def test_an_account_is_made_once_with_an_empty_wallet(backend: Backend) -> None:
    made = await backend.admin("POST", "/accounts", {"name": "alice@example.org", "note": "Grüße"})
    assert made["note"] == "Grüße"
    assert (made["origin"], made["disabled_at"]) == ("operator", None)
    assert await backend.admin("GET", "/accounts") == {"accounts": [made]}
    assert await backend.admin("GET", "/accounts/alice@example.org") == made
    assert (await backend.wallet("alice@example.org"))["credits_nanodollars"] == 0
    twice = await backend.ask("POST", "/admin/v1/accounts", json={"name": "alice@example.org"})
    assert (twice.status, twice.json["error"]["type"]) == (409, "conflict_error")
    assert (await backend.ask("GET", "/admin/v1/accounts/bob")).status == 404
    assert (await backend.ask("POST", "/admin/v1/accounts/bob/keys", json={})).status == 404


async def test_a_key_is_shown_once_and_kept_as_its_digest(
    backend: Backend, url: str, request: pytest.FixtureRequest
) -> None:
    await backend.account()
    limits: dict[str, Any] = {
        "name": "laptop",
        "expires_at": "2027-01-31T02:00:00+02:00",
        "upstreams": ["openhands"],
        "models": ["claude-opus-4-5"],
        "requests_per_minute": 60,
        "tokens_per_minute": 100_000,
        "limit_nanodollars": DOLLAR,
    }
    made = await backend.key(**limits)
    key = made.pop("key")
    assert is_well_formed(key)
    assert {name: made[name] for name in limits} == limits | {"expires_at": "2027-01-31T00:00:00.000Z"}
    assert made["prefix"] == key[:11]
    assert await backend.admin("GET", f"/keys/{made['id']}") == made
    assert await backend.admin("GET", "/keys?account=alice") == {"keys": [made]}
    assert (await backend.wallet(f"key:{made['id']}"))["balance_nanodollars"] == DOLLAR
    for path in ("/keys", "/accounts", "/wallets", "/rows", "/leases", "/usage"):
        assert key not in (await backend.ask("GET", f"/admin/v1{path}")).text

    (entry,) = (await backend.poll()).json["keys"]
    assert entry == {
        "id": made["id"],
        "account": "alice",
        "sha256": digest(key),
        "wallets_limit": True,
        "expires_at": "2027-01-31T00:00:00.000Z",
        "upstreams": ["openhands"],
        "models": ["claude-opus-4-5"],
        "requests_per_minute": 60,
        "tokens_per_minute": 100_000,
    }
    stored = stored_bytes(url, request)
    assert digest(key).encode() in stored
    assert key.encode() not in stored
    assert key[12:40].encode() not in stored


def stored_bytes(url: str, request: pytest.FixtureRequest) -> bytes:
    """All that the database has written, be it in a file of its own or in the server's."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
    server: Postgres = request.getfixturevalue("postgres")
    with server.connect(name_of(url)) as connection:
        tables = ("accounts", "api_keys", "wallets", "credits", "instances", "counters")
        found = b""
        for name in tables:
            query = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(name))
            with connection.cursor().copy(query) as copy:
                found += b"".join(map(bytes, copy))
        return found


async def test_a_revoked_key_and_a_disabled_account_are_live_no_more(backend: Backend) -> None:
    await backend.account()
    first, second = await backend.key(), await backend.key()

    async def live() -> list[str]:
        return [each["id"] for each in (await backend.poll()).json["keys"]]

    assert sorted(await live()) == sorted([first["id"], second["id"]])
    revoked = await backend.admin("POST", f"/keys/{first['id']}/revoke")
    assert revoked["revoked_by"] == "operator"
    assert await live() == [second["id"]]
    assert await backend.admin("POST", f"/keys/{first['id']}/revoke") == revoked
    assert (await backend.ask("POST", "/admin/v1/keys/key_0000000000000000/revoke")).status == 404

    assert (await backend.admin("POST", "/accounts/alice/disable"))["disabled_by"] == "operator"
    assert await live() == []
    await backend.admin("POST", "/accounts/alice/enable")
    assert await live() == [second["id"]]


async def test_two_keys_live_while_one_takes_over_from_the_other(backend: Backend) -> None:
    await backend.account()
    limits: dict[str, Any] = {
        "upstreams": ["openhands"],
        "models": ["claude-opus-4-5"],
        "requests_per_minute": 7,
        "tokens_per_minute": 9000,
        "expires_at": "2099-01-01T00:00:00.000Z",
    }
    first = await backend.key(**limits, limit_nanodollars=5 * DOLLAR)
    limit = f"key:{first['id']}"
    await backend.lend("i1", 1, (limit, 0, DOLLAR))
    await backend.post("i1", row(1, cost=DOLLAR, key_id=first["id"], wallets=("alice", limit)))
    second = await backend.admin("POST", f"/keys/{first['id']}/rotate", {"old_expires_at": "2098-01-01T00:00:00Z"})
    assert second["key"] != first["key"]
    assert {name: second[name] for name in limits} == limits
    assert (second["rotated_from"], second["limit_nanodollars"]) == (first["id"], 4 * DOLLAR)
    entries = {each["id"]: each for each in (await backend.poll()).json["keys"]}
    assert entries[first["id"]]["expires_at"] == "2098-01-01T00:00:00.000Z"
    assert entries[second["id"]]["expires_at"] == limits["expires_at"]
    await backend.admin("POST", f"/keys/{first['id']}/revoke")
    assert (await backend.ask("POST", f"/admin/v1/keys/{first['id']}/rotate", json={})).status == 409


@on_sqlite
async def test_of_a_limit_that_is_overspent_nothing_is_left_for_the_next_key(backend: Backend) -> None:
    await backend.account()
    key = await backend.key(limit_nanodollars=DOLLAR)
    await backend.post("i1", row(1, cost=2 * DOLLAR, key_id=key["id"], wallets=("alice", f"key:{key['id']}")))
    second = await backend.admin("POST", f"/keys/{key['id']}/rotate", {})
    assert second["limit_nanodollars"] == 0
    assert (await backend.wallet(f"key:{second['id']}"))["balance_nanodollars"] == 0


@on_sqlite
async def test_a_key_that_has_expired_is_not_told(backend: Backend) -> None:
    await backend.account()
    key = await backend.key(expires_at="2099-01-01T00:00:00Z")
    await backend.admin("POST", f"/keys/{key['id']}/rotate", {"old_expires_at": "2020-01-01T00:00:00Z"})
    assert key["id"] not in [each["id"] for each in (await backend.poll()).json["keys"]]
    past = await backend.ask("POST", "/admin/v1/accounts/alice/keys", json={"expires_at": "2020-01-01T00:00:00Z"})
    assert past.status == 400
    assert "2020-01-01T00:00:00.000Z is past" in past.error


@on_sqlite
@pytest.mark.parametrize(
    ("own", "asked", "end"),
    [
        ("2098-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "2098"),
        ("2098-01-01T00:00:00Z", "2097-01-01T00:00:00Z", "2097"),
        ("2098-01-01T00:00:00Z", None, "2098"),
        (None, "2099-01-01T00:00:00Z", "2099"),
    ],
)
async def test_rotating_does_not_lengthen_a_keys_life(
    backend: Backend, own: str | None, asked: str | None, end: str
) -> None:
    await backend.account()
    key = await backend.key(expires_at=own)
    await backend.admin("POST", f"/keys/{key['id']}/rotate", {"old_expires_at": asked})
    assert (await backend.admin("GET", f"/keys/{key['id']}"))["expires_at"] == f"{end}-01-01T00:00:00.000Z"


async def test_the_same_credit_twice_is_one_credit(backend: Backend) -> None:
    await backend.account(dollars=0)
    first = await backend.grant("alice", 10, "invoice-1")
    assert await backend.grant("alice", 10, "invoice-1") == first
    wallet = await backend.wallet("alice")
    assert (wallet["credits_nanodollars"], wallet["balance_nanodollars"]) == (10 * DOLLAR, 10 * DOLLAR)
    other = {"id": "invoice-1", "wallet": "alice", "kind": "grant", "amount_nanodollars": 1}
    answer = await backend.ask("POST", "/admin/v1/credits", json=other)
    assert answer.status == 409
    assert "grant of $10.00" in answer.error


async def test_what_is_lent_cannot_be_withdrawn(backend: Backend) -> None:
    await backend.account(dollars=10)
    await backend.lend("i1", 1, ("alice", 0, 6 * DOLLAR))
    balance = (await backend.wallet("alice"))["balance_nanodollars"]
    new = {"wallet": "alice", "kind": "withdrawal"}
    refused = await backend.ask("POST", "/admin/v1/credits", json=new | {"id": "w1", "amount_nanodollars": balance + 1})
    assert refused.status == 409
    assert dollars(balance) in refused.error
    taken = await backend.admin("POST", "/credits", new | {"id": "w1", "amount_nanodollars": balance})
    assert taken["amount_nanodollars"] == -balance
    assert (await backend.wallet("alice"))["balance_nanodollars"] == 0


async def test_a_wallet_of_an_upstream_begins_with_its_first_credit(backend: Backend) -> None:
    await backend.account(dollars=1)
    await backend.grant("alice/team", 2)
    wallets = (await backend.admin("GET", "/wallets?account=alice"))["wallets"]
    assert [(each["id"], each["balance_nanodollars"]) for each in wallets] == [
        ("alice", DOLLAR),
        ("alice/team", 2 * DOLLAR),
    ]
    for wallet in ("bob", "bob/team", "key:key_0000000000000000"):
        new = {"id": "x", "wallet": wallet, "kind": "grant", "amount_nanodollars": 1}
        assert (await backend.ask("POST", "/admin/v1/credits", json=new)).status == 404


@on_sqlite
async def test_a_wallet_that_an_upstream_is_about_to_pay_from(backend: Backend) -> None:
    await backend.account()
    new = {"id": "x", "wallet": "alice/later", "kind": "grant", "amount_nanodollars": 1}
    assert (await backend.ask("POST", "/admin/v1/credits", json=new)).status == 404
    assert (await backend.ask("POST", "/admin/v1/credits", json=new | {"force": True})).status == 201


NO_NAMES: dict[str, tuple[str, str, Any, str]] = {
    "a wallet that no upstream pays from": (
        "POST",
        "/credits",
        {"id": "x", "wallet": "alice/reserch", "kind": "grant", "amount_nanodollars": 1},
        "no wallet 'alice/reserch', and no upstream would pay from it; those that would be: alice/team",
    ),
    "a key's upstream": (
        "POST",
        "/accounts/alice/keys",
        {"upstreams": ["openhands", "opnhands"]},
        "no upstream 'opnhands'; there are ohmygpt, openhands, second",
    ),
    "a key's model": (
        "POST",
        "/accounts/alice/keys",
        {"models": ["no-such"]},
        "no model 'no-such'; there are claude-opus-4-5, claude-opus-4-5-20251101",
    ),
    "an account's keys": ("GET", "/keys?account=nobody", None, "no account 'nobody'"),
    "an account's wallets": ("GET", "/wallets?account=nobody", None, "no account 'nobody'"),
    "an account's rows": ("GET", "/rows?account=nobody", None, "no account 'nobody'"),
    "an account's usage": ("GET", "/usage?by=key&account=nobody", None, "no account 'nobody'"),
    "an upstream's rows": (
        "GET",
        "/rows?upstream=opnhands",
        None,
        "no upstream 'opnhands'; there are gone, ohmygpt, openhands, second",
    ),
    "an upstream's prices": ("POST", "/rerate", {"upstream": "opnhands", "apply": True}, "no upstream 'opnhands'"),
    "a model's prices": (
        "POST",
        "/rerate",
        {"model": "claude-opus"},
        "no model 'claude-opus'; there are claude-opus-4-5, claude-opus-4-5-20251101",
    ),
    "a model's rows": ("GET", "/rows?model=claude-opus", None, "no model 'claude-opus'"),
    "a model's usage": ("GET", "/usage?by=key&model=claude-opus", None, "no model 'claude-opus'"),
    "a key's usage": (
        "GET",
        "/usage?by=day&key=key_0000000000000000",
        None,
        "no key 'key_0000000000000000'",
    ),
    "an account's prices": ("POST", "/rerate", {"account": "nobody"}, "no account 'nobody'"),
    "an upstream's record": ("POST", "/reconcile?upstream=opnhands", None, "no upstream 'opnhands'"),
}


@pytest.mark.parametrize("case", NO_NAMES)
async def test_a_name_that_nothing_answers_to_is_refused(backend: Backend, case: str) -> None:
    await backend.account()
    await backend.plane.database.run("of a time before", lambda store: leases.met(store, "i1", "gone"))
    method, path, document, told = NO_NAMES[case]
    answer = await backend.ask(method, f"/admin/v1{path}", json=document)
    assert answer.status == 404
    assert told in answer.error
    assert [each["id"] for each in (await backend.admin("GET", "/wallets"))["wallets"]] == ["alice"]
    assert (await backend.admin("GET", "/keys"))["keys"] == []


async def test_what_is_stored_answers_to_its_name_whatever_upstreams_there_are_now(backend: Backend) -> None:
    await backend.account()
    await backend.grant("alice/team", 2)
    key = await backend.key(models=["claude-opus-4-5"], upstreams=["openhands"])
    posted = row(1, account="mallory", wallets=("mallory",), upstream="gone")
    await backend.plane.database.run("of a time before", lambda store: rows.ingest(store, "i1", "gone", [posted]))
    for upstream in WALLETS:
        document = config_document(upstream=upstream, models=[OTHER | {"upstream": upstream}])
        (backend.directory / f"config-{upstream}-prod.json").write_text(json.dumps(document))
    backend.plane.catalogue.look()

    assert (await backend.ask("POST", "/admin/v1/accounts/alice/keys", json={"models": key["models"]})).status == 404
    for query in (f"model={row(1).model}", f"key={key['id']}"):
        assert (await backend.admin("GET", f"/rows?{query}&since=2099-01-01"))["rows"] == []
    await backend.grant("alice/team", 1, "more")
    assert (await backend.wallet("alice/team"))["credits_nanodollars"] == 3 * DOLLAR
    assert (await backend.admin("POST", f"/keys/{key['id']}/rotate", {}))["models"] == ["claude-opus-4-5"]
    for query in ("upstream=gone", "account=mallory"):  # that upstream was never in this catalogue
        assert [each["id"] for each in (await backend.admin("GET", f"/rows?{query}"))["rows"]] == [row(1).id]


OPERATIONS = [
    ("GET", "/accounts"),
    ("POST", "/accounts"),
    ("POST", "/accounts/alice/keys"),
    ("POST", "/keys/key_0000000000000000/revoke"),
    ("POST", "/credits"),
    ("GET", "/rows"),
    ("GET", "/backup"),
    ("POST", "/restore"),
]


@on_sqlite
@pytest.mark.parametrize(
    "shown", [None, "", "x", OPERATOR + "x", OPERATOR[:-1], "\N{LATIN SMALL LETTER E WITH ACUTE}", "x" * 7000]
)
async def test_nothing_is_done_without_the_operators_token(backend: Backend, shown: str | None) -> None:
    headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
    for method, path in OPERATIONS:
        async with backend.session.request(method, f"{backend.url}/admin/v1{path}", headers=headers) as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert (await answer.json())["error"]["type"] == "authentication_error"
    assert (await backend.admin("GET", "/accounts"))["accounts"] == []


@on_sqlite
async def test_two_tokens_are_none(backend: Backend) -> None:
    headers = CIMultiDict([("Authorization", f"Bearer {OPERATOR}")] * 2)
    async with backend.session.get(f"{backend.url}/admin/v1/accounts", headers=headers) as answer:
        assert answer.status == 401


@on_sqlite
async def test_every_operation_but_two_needs_the_token(backend: Backend) -> None:
    description = await backend.admin("GET", "/openapi.json")
    open_ones = {
        operation["operationId"]
        for path in description["paths"].values()
        for operation in path.values()
        if operation.get("security") == []
    }
    assert open_ones == {"describe", "show_catalogue"}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            answer = await backend.ask(method.upper(), path.replace("{", "").replace("}", ""), token=None)
            assert (answer.status == 401) == (operation["operationId"] not in open_ones), path


@on_sqlite
async def test_without_an_operator_token_the_admin_api_says_so_and_the_rest_serves(backend: Backend) -> None:
    await backend.admin("GET", "/accounts")
    (backend.directory / "operator_token").unlink()
    answer = await backend.ask("GET", "/admin/v1/accounts")
    assert answer.status == 503
    assert "OPERATOR_TOKEN_PATH" in answer.error
    assert len((await backend.ask("GET", "/admin/v1/catalogue")).json["upstreams"]) == len(WALLETS)
    assert (await backend.lend("i1", 1)) == {}


@on_sqlite
async def test_a_new_operator_token_holds_at_once(backend: Backend) -> None:
    (backend.directory / "operator_token").write_text(digest("another"))
    assert (await backend.ask("GET", "/admin/v1/accounts")).status == 401
    assert (await backend.ask("GET", "/admin/v1/accounts", "another")).status == 200
    (backend.directory / "operator_token").write_text("torn")
    assert (await backend.ask("GET", "/admin/v1/accounts", "another")).status == 200


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"null", 400),
    (b"[]", 400),
    (b"\xff", 400),
    (b'{"name": "a", "colour": "red"}', 400),
    (b'{"name": "a\\u0000b"}', 400),
    (b'{"name": "a", "note": "\\ud800"}', 400),
    (b'{"name": "a", "note": "line\\nbreak"}', 400),
    (b'{"name": "a/b"}', 400),
    (b'{"name": 7}', 400),
    (b'{"name": "' + b"x" * 100 + b'"}', 400),
    (b"[" * 60_000, 400),
    (b" " * 70_000, 413),
]


@on_sqlite
@pytest.mark.parametrize(("body", "status"), BAD_BODIES)
async def test_an_invalid_body_is_refused(backend: Backend, body: bytes, status: int) -> None:
    answer = await backend.ask("POST", "/admin/v1/accounts", data=body)
    assert answer.status == status
    assert answer.error


@on_sqlite
@pytest.mark.parametrize(
    "amount",
    [0, -1, 1.0, 1e9, "1", True, None, 10**18, 10**40],
)
async def test_money_is_a_whole_number(backend: Backend, amount: Any) -> None:
    await backend.account(dollars=0)
    new = {"id": "x", "wallet": "alice", "kind": "grant", "amount_nanodollars": amount}
    assert (await backend.ask("POST", "/admin/v1/credits", json=new)).status == 400
    assert (await backend.wallet("alice"))["credits_nanodollars"] == 0


@on_sqlite
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=ten",
        "limit=1_0",
        "limit=1.0",
        "limit=",
        "limit=1&limit=2",
        "colour=red",
        "since=2026-13-01",
        "since=today",
        "settlement=guessed",
        "before=x",
        "kind=x",
        "account=a%00b",
        "account=%27%20OR%201=1",
    ],
)
async def test_an_invalid_query_is_400(backend: Backend, query: str) -> None:
    answer = await backend.ask("GET", f"/admin/v1/rows?{query}")
    assert answer.status == 400, answer.text
    assert answer.error


@on_sqlite
@pytest.mark.parametrize(
    "moment",
    [
        "2099-01-01",
        "2099-01-01T00:00:00",
        "2099-02-30T00:00:00Z",
        "2099-01-01T00:00:00Z\n",
        "0001-01-01T00:00:00+23:59",
        "20990101000000",
        "4070908800",
        "x",
        7,
    ],
)
async def test_a_time_that_is_none(backend: Backend, moment: Any) -> None:
    await backend.account()
    key = await backend.key()
    for path, field in (("accounts/alice/keys", "expires_at"), (f"keys/{key['id']}/rotate", "old_expires_at")):
        answer = await backend.ask("POST", f"/admin/v1/{path}", json={field: moment})
        assert answer.status == 400
        assert answer.error.startswith(f"{field}: {moment!r} is not a time of RFC 3339")


@on_sqlite
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/admin/v1/nothing", 404),
        ("GET", "/admin/v1/accounts/%00", 404),
        ("GET", "/admin/v1/accounts/a%2Fb", 404),
        ("GET", "/admin/v1/keys/x", 404),
        ("DELETE", "/admin/v1/accounts", 405),
        ("PUT", "/proxy/v1/rows", 405),
        ("POST", "/metrics", 405),
        ("GET", "/proxy/v1/nothing", 404),
    ],
)
async def test_what_there_is_not(backend: Backend, method: str, path: str, status: int) -> None:
    answer = await backend.ask(method, path)
    assert answer.status == status
    assert answer.error


@on_sqlite
async def test_a_change_of_keys_is_told_even_if_the_one_who_asked_for_it_has_left(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.account()
    key = await backend.key()
    version = (await backend.poll()).json["version"]
    began = asyncio.Event()
    revoke = keys.revoke

    def slow(store: Any, key_id: str) -> Any:
        loop.call_soon_threadsafe(began.set)
        time.sleep(0.2)
        return revoke(store, key_id)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(keys, "revoke", slow)
    asking = asyncio.create_task(backend.ask("POST", f"/admin/v1/keys/{key['id']}/revoke"))
    await began.wait()
    asking.cancel()
    news = await backend.poll(after=version, wait=1)
    assert news.status == 200
    assert news.json["keys"] == []


@on_sqlite
async def test_a_mistake_of_ours_is_told_in_json_and_in_the_log(backend: Backend, lines: Any) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("CANARY")

    backend.plane.database.read = broken  # type: ignore[assignment,method-assign]
    answer = await backend.ask("GET", "/admin/v1/accounts")
    assert (answer.status, answer.json["error"]["type"]) == (500, "api_error")
    assert "CANARY" not in answer.text
    assert lines.all("internal error")[0]["exception"] == "ZeroDivisionError"
    assert "CANARY" not in "".join(lines.text)


@on_sqlite
async def test_no_key_and_no_token_is_in_the_log(backend: Backend, lines: Any) -> None:
    await backend.account()
    key = await backend.key()
    second = await backend.admin("POST", f"/keys/{key['id']}/rotate", {})
    await backend.ask("GET", "/admin/v1/accounts", "wrong-CANARY")
    await backend.ask("POST", "/admin/v1/accounts", data=b'{"name": "CANARY')
    written = "".join(lines.text)
    assert all(secret not in written for secret in (key["key"], second["key"], "CANARY"))


@on_sqlite
def test_a_sqlite_store_is_durable_and_not_in_wal_mode(url: str, backend: Backend) -> None:
    def look(store: Any) -> dict[str, Any]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return {name: store.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}

    found = backend.plane.database.transact("look", look)
    assert found == {"journal_mode": "truncate", "synchronous": 2, "foreign_keys": 1}
    assert sqlite3.connect(url.removeprefix("sqlite:///")).execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_a_key_that_has_expired_is_not_rotated(backend: Backend) -> None:
    await backend.account()
    key = await backend.key()
    await backend.admin("POST", f"/keys/{key['id']}/rotate", {"old_expires_at": "2020-01-01T00:00:00Z"})
    answer = await backend.ask("POST", f"/admin/v1/keys/{key['id']}/rotate", json={})
    assert answer.status == 409
    assert "has expired (2020-01-01T00:00:00.000Z); add a key instead" in answer.error


@on_sqlite
@pytest.mark.parametrize("entry_id", ["opening:bob", "limit:key_0123456789abcdef", "rerate_1"])
async def test_an_operator_does_not_take_the_ids_of_the_stores_own_entries(backend: Backend, entry_id: str) -> None:
    """Or the opening credit of an account that comes later would never be granted."""
    await backend.account()
    new = {"id": entry_id, "wallet": "alice", "kind": "grant", "amount_nanodollars": 1}
    answer = await backend.ask("POST", "/admin/v1/credits", json=new)
    assert answer.status == 409
    assert "the store's own" in answer.error


@on_sqlite
async def test_an_empty_token_lets_nobody_in(backend: Backend, lines: Any) -> None:
    assert (await backend.ask("GET", "/admin/v1/accounts")).status == 200
    (backend.directory / "operator_token").write_text(hashlib.sha256(b"").hexdigest())
    (backend.directory / "proxy_tokens" / "openhands").write_text(hashlib.sha256(b"").hexdigest())
    for token in ("\u00a0", "\u2003"):
        headers = {"Authorization": f"Bearer {token}"}
        for method, path in (("GET", "/admin/v1/accounts"), ("POST", "/proxy/v1/rows")):
            async with backend.session.request(method, backend.url + path, headers=headers) as answer:
                assert answer.status in (401, 503)
    assert (await backend.ask("GET", "/admin/v1/accounts")).status == 200  # the last good one stays
    assert "empty token" in lines.all("token file is broken")[0]["problem"]
