"""Accounts and keys that stand in the inventory: made when they come, taken back when they go."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from goproxy.control_plane import plane
from tests.conftest import Lines
from tests.control_plane.backend import DOLLAR, Backend
from tests.control_plane.conftest import on_sqlite


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the file all the time."""
    monkeypatch.setattr(plane, "LOOK_EVERY", 0.02)


def entry(account: str, digit: str) -> dict[str, str]:
    return {"account": account, "prefix": f"tg-{digit}", "sha256": digit * 64}


async def live(backend: Backend) -> set[tuple[str, str]]:
    answer = await backend.poll()
    return {(each["account"], each["sha256"][0]) for each in answer.json["keys"]} if answer.status == 200 else set()


async def until(backend: Backend, *expected: tuple[str, str]) -> None:
    """Wait until the keys that are told are these."""
    async with asyncio.timeout(30):
        while await live(backend) != set(expected):
            await asyncio.sleep(0.02)


async def test_what_is_declared_is_made_and_told_within_a_second(backend: Backend) -> None:
    backend.declare(keys=[entry("alice", "a"), entry("bob", "b")], opening_credits={"alice": 10 * DOLLAR})
    await until(backend, ("alice", "a"), ("bob", "b"))
    accounts = (await backend.admin("GET", "/accounts"))["accounts"]
    assert [(each["name"], each["origin"]) for each in accounts] == [("alice", "declared"), ("bob", "declared")]
    assert (await backend.wallet("alice"))["balance_nanodollars"] == 10 * DOLLAR
    assert (await backend.wallet("bob"))["balance_nanodollars"] == 0
    (key,) = (await backend.admin("GET", "/keys?account=alice"))["keys"]
    assert (key["prefix"], key["origin"]) == ("tg-a", "declared")


async def test_what_leaves_the_file_is_taken_back_and_what_returns_is_live_again(often: None, backend: Backend) -> None:
    backend.declare(keys=[entry("alice", "a"), entry("bob", "b")])
    await until(backend, ("alice", "a"), ("bob", "b"))
    ids = {key["account"]: key["id"] for key in (await backend.admin("GET", "/keys"))["keys"]}
    backend.declare(keys=[entry("alice", "c")])
    await until(backend, ("alice", "c"))
    keys = {key["id"]: key for key in (await backend.admin("GET", "/keys"))["keys"]}
    assert keys[ids["alice"]]["revoked_by"] == keys[ids["bob"]]["revoked_by"] == "declaration"
    assert (await backend.admin("GET", "/accounts/bob"))["disabled_by"] == "declaration"
    backend.declare(keys=[entry("alice", "a"), entry("bob", "b")])
    await until(backend, ("alice", "a"), ("bob", "b"))
    assert len((await backend.admin("GET", "/keys"))["keys"]) == 3
    assert (await backend.admin("GET", "/accounts/bob"))["disabled_at"] is None


async def test_what_an_operator_took_back_stays_so(often: None, backend: Backend) -> None:
    backend.declare(keys=[entry("alice", "a"), entry("bob", "b")])
    await until(backend, ("alice", "a"), ("bob", "b"))
    (key,) = (await backend.admin("GET", "/keys?account=alice"))["keys"]
    await backend.admin("POST", f"/keys/{key['id']}/revoke")
    await backend.admin("POST", "/accounts/bob/disable")
    backend.declare(keys=[entry("alice", "a"), entry("bob", "b"), entry("carol", "c")])
    await until(backend, ("carol", "c"))


async def test_what_an_operator_takes_back_that_has_left_the_inventory_stays_so(often: None, backend: Backend) -> None:
    backend.declare(keys=[entry("alice", "a"), entry("bob", "b")])
    await until(backend, ("alice", "a"), ("bob", "b"))
    (key,) = (await backend.admin("GET", "/keys?account=alice"))["keys"]
    backend.declare(keys=[])
    await until(backend)
    revoked = (await backend.admin("GET", "/keys?account=alice"))["keys"][0]["revoked_at"]
    answer = await backend.admin("POST", f"/keys/{key['id']}/revoke")
    assert (answer["revoked_by"], answer["revoked_at"]) == ("operator", revoked)
    assert (await backend.admin("POST", "/accounts/bob/disable"))["disabled_by"] == "operator"
    backend.declare(keys=[entry("alice", "a"), entry("bob", "b"), entry("carol", "c")])
    await until(backend, ("carol", "c"))


async def test_what_an_operator_made_is_not_touched(often: None, backend: Backend) -> None:
    await backend.account("dora")
    key = await backend.key("dora")
    backend.declare(keys=[entry("alice", "a")])
    await until(backend, ("alice", "a"), ("dora", (await backend.poll()).json["keys"][0]["sha256"][0]))
    backend.declare(keys=[])
    while ("alice", "a") in await live(backend):
        await asyncio.sleep(0.02)
    assert [each["id"] for each in (await backend.poll()).json["keys"]] == [key["id"]]


async def test_an_operators_key_that_is_put_into_the_file_ends_when_it_leaves_it(often: None, backend: Backend) -> None:
    """A rotation as docs/accounts.md has it, and a later change of the key in the vault."""
    backend.declare(keys=[entry("alice", "a")])
    await until(backend, ("alice", "a"))
    (first,) = (await backend.admin("GET", "/keys"))["keys"]
    second = await backend.admin("POST", f"/keys/{first['id']}/rotate", {})
    rotated = entry("alice", "") | {"sha256": hashlib.sha256(second["key"].encode()).hexdigest()}
    backend.declare(keys=[rotated])
    async with asyncio.timeout(30):
        while (await backend.admin("GET", f"/keys/{second['id']}"))["origin"] != "declared":
            await asyncio.sleep(0.02)
    backend.declare(keys=[third := entry("alice", "c")])
    async with asyncio.timeout(30):
        while [each["sha256"] for each in (await backend.poll()).json["keys"]] != [third["sha256"]]:
            await asyncio.sleep(0.02)
    assert (await backend.admin("GET", f"/keys/{second['id']}"))["revoked_by"] == "declaration"


async def test_limits_that_an_operator_gave_stay(often: None, backend: Backend) -> None:
    """To a key of the file, and to one that is put into it."""
    backend.declare(keys=[entry("alice", "a")])
    await until(backend, ("alice", "a"))
    (declared,) = (await backend.admin("GET", "/keys"))["keys"]
    made = await backend.key(requests_per_minute=7)
    taken_over = entry("alice", "") | {"sha256": hashlib.sha256(made["key"].encode()).hexdigest()}
    await backend.admin("POST", f"/keys/{declared['id']}/set", {"tokens_per_minute": 9})
    backend.declare(keys=[entry("alice", "a"), taken_over])
    async with asyncio.timeout(30):
        while (await backend.admin("GET", f"/keys/{made['id']}"))["origin"] != "declared":
            await asyncio.sleep(0.02)
    told = {each["id"]: each for each in (await backend.poll()).json["keys"]}
    assert told[made["id"]]["requests_per_minute"] == 7
    assert told[declared["id"]]["tokens_per_minute"] == 9


async def test_an_opening_credit_is_granted_once(often: None, backend: Backend, lines: Lines) -> None:
    backend.declare(keys=[entry("alice", "a")], opening_credits={"alice": 5})
    await until(backend, ("alice", "a"))
    backend.declare(keys=[entry("alice", "b")], opening_credits={"alice": 7, "zoe": 3})
    await until(backend, ("alice", "b"))
    assert (await backend.wallet("alice"))["credits_nanodollars"] == 5
    assert (await backend.wallet("zoe"))["credits_nanodollars"] == 3
    (line,) = lines.all("an opening credit is granted once; its change is passed over")
    assert line["account"] == "alice"


async def test_a_key_that_moves_to_another_account(often: None, backend: Backend) -> None:
    backend.declare(keys=[entry("alice", "a")])
    await until(backend, ("alice", "a"))
    backend.declare(keys=[entry("bob", "a")])
    await until(backend, ("bob", "a"))


@on_sqlite
@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"[]",
        b'{"keys": [{"account": "a/b", "sha256": "' + b"a" * 64 + b'"}]}',
        b'{"keys": [{"account": "alice", "sha256": "short-CANARY"}]}',
        b'{"keys": [], "opening_credits": {"alice": 1.5}}',
        b'{"keys": [' + b", ".join([b'{"account": "x", "sha256": "' + b"a" * 64 + b'"}'] * 2) + b"]}",
        None,
    ],
)
async def test_a_broken_file_changes_nothing_and_says_so(
    often: None, backend: Backend, lines: Lines, broken: bytes | None
) -> None:
    backend.declare(keys=[entry("alice", "a")])
    await until(backend, ("alice", "a"))
    path = backend.directory / "keys.json"
    if broken is None:
        path.unlink()
        await asyncio.sleep(0.3)
    else:
        path.write_bytes(broken)
        async with asyncio.timeout(30):
            while not lines.all("declared keys cannot be read; nothing is changed"):
                await asyncio.sleep(0.02)
        ready: Any = (await backend.ask("GET", "/readyz", None)).json
        assert ready["ready"]
        assert str(path) in ready["detail"]
        assert "CANARY" not in "".join(lines.text) + ready["detail"]
    assert await live(backend) == {("alice", "a")}
    backend.declare(keys=[entry("bob", "b")])
    await until(backend, ("bob", "b"))
    assert "keys.json" not in (await backend.ask("GET", "/readyz", None)).json["detail"]
