"""What is said to the control plane, and what is made of its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from goproxy.core.key_snapshot import InvalidSnapshot, KeySnapshot
from goproxy.core.keys import new_key
from goproxy.core.lease import Wallet
from goproxy.data_plane import control_client
from goproxy.data_plane.control_client import (
    BackOff,
    ControlClient,
    ControlPlaneAway,
    ControlPlaneRefuses,
    LeaseAnswer,
    LeaseCall,
)
from tests.bookkeeping import a_hold, a_row
from tests.conftest import Lines
from tests.control import CHUNK, TOKEN, Control, key_entry, running_control

KEY = new_key(bytes(range(32)))


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    async with running_control() as running:
        running.wallets["alice"] = Wallet(credits=10_000)
        yield running


@pytest.fixture
async def client(control: Control) -> AsyncIterator[ControlClient]:
    async with aiohttp.ClientSession() as session:
        yield ControlClient(session, control.url, TOKEN, "openhands")


def document(id_: str) -> bytes:
    return json.dumps(a_row(a_hold(id_)).to_json()).encode()


async def test_rows_are_posted_once_however_often(client: ControlClient, control: Control) -> None:
    for _ in range(2):
        answer = await client.post_rows("i1", [document("req_1"), document("req_2")])
        assert (answer.accepted, dict(answer.rejected)) == (("req_1", "req_2"), {})
    assert {id_: instance for id_, (instance, _) in control.rows.items()} == {"req_1": "i1", "req_2": "i1"}
    assert control.wallets["alice"].spent == 800
    (call, _) = control.calls_to("rows")
    assert (call["instance"], call["upstream"]) == ("i1", "openhands")


async def test_a_row_that_is_rejected_does_not_hinder_the_others(client: ControlClient, control: Control) -> None:
    control.rejects["req_2"] = "a reason"
    answer = await client.post_rows("i1", [document("req_1"), document("req_2")])
    assert (answer.accepted, dict(answer.rejected)) == (("req_1",), {"req_2": "a reason"})


async def test_leases_are_asked_for_in_one_call(client: ControlClient, control: Control) -> None:
    answers = await client.lease("i1", 1, [LeaseCall("alice", 0, 2000), LeaseCall("bob", 0, 5)])
    lent = 2000 + CHUNK
    assert answers == [LeaseAnswer("alice", lent, 0, 10_000 - lent), LeaseAnswer("bob", 0, 0, 0)]
    assert control.total_is_right()


async def test_an_older_control_plane_does_not_tell_what_is_spent() -> None:
    """In a rollout the proxies are followed by the backend, and must be lent money before."""

    async def answer() -> web.StreamResponse:
        return web.json_response({"leases": [{"wallet": "alice", "granted_total": 5, "balance": 2}]})

    async with answering(answer) as client:
        assert await client.lease("i1", 1, [LeaseCall("alice", 0, 5)]) == [LeaseAnswer("alice", 5, 0, 2)]


async def test_an_old_call_is_refused(client: ControlClient, control: Control) -> None:
    await client.lease("i1", 5, [])
    with pytest.raises(ControlPlaneRefuses, match="409 that was before") as refusal:
        await client.lease("i1", 5, [LeaseCall("alice", 0, 2000)])
    assert refusal.value.status == 409
    assert control.wallets["alice"].held == 0


async def test_keys_come_when_they_change(client: ControlClient, control: Control) -> None:
    control.keys = [key_entry(KEY)]
    answer = await client.keys("i1", 0, 0)
    assert answer is not None
    found = answer.snapshot.find(KEY)
    assert found is not None
    assert (found.account, found.upstreams) == ("alice", None)
    assert await client.keys("i1", answer.snapshot.version, 0) is None

    asking = asyncio.create_task(client.keys("i1", answer.snapshot.version, 45))
    await asyncio.sleep(0.02)
    assert not asking.done()
    await control.tell()
    news = await asyncio.wait_for(asking, 30)
    assert news is not None
    assert news.snapshot.find(KEY) is None
    assert len(news.snapshot) == 0


async def test_a_wrong_token_is_a_refusal(control: Control) -> None:
    async with aiohttp.ClientSession() as session:
        client = ControlClient(session, control.url, "wrong", "openhands")
        with pytest.raises(ControlPlaneRefuses, match="401 who are you"):
            await client.lease("i1", 1, [])


async def test_a_lost_answer_is_none(client: ControlClient, control: Control) -> None:
    control.loses_answers = 1
    with pytest.raises(ControlPlaneAway):
        await client.post_rows("i1", [document("req_1")])
    assert "req_1" in control.rows


# Answers that are none.


@asynccontextmanager
async def answering(answer: Callable[[], Awaitable[web.StreamResponse]]) -> AsyncIterator[ControlClient]:
    async def handle(_: web.Request) -> web.StreamResponse:
        return await answer()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield ControlClient(session, f"http://127.0.0.1:{runner.addresses[0][1]}", TOKEN, "openhands")
    await runner.cleanup()


WRONG: list[tuple[int, bytes]] = [
    (500, b"{}"),
    (302, b""),
    (429, b""),
    (200, b""),
    (200, b"<html>"),
    (200, b"[]"),
    (200, b'{"leases": [{"wallet": "alice", "granted_total": 1.5, "spent_total": 0, "balance": 0}]}'),
    (200, b'{"leases": [{"wallet": "alice", "granted_total": "1", "spent_total": 0, "balance": 0}]}'),
    (200, b'{"leases": [{"wallet": "alice", "granted_total": 1, "spent_total": null, "balance": 0}]}'),
    (200, b'{"leases": {}}'),
    (200, b"\xff"),
    (200, b"[" * 100_000),
]


@pytest.mark.parametrize(("status", "content"), WRONG)
async def test_an_answer_of_another_kind_is_none(status: int, content: bytes) -> None:
    async def answer() -> web.StreamResponse:
        return web.Response(status=status, body=content)

    async with answering(answer) as client:
        for call in (client.lease("i", 1, []), client.post_rows("i", []), client.keys("i", 0, 0)):
            with pytest.raises(ControlPlaneAway):
                await call


async def test_a_control_plane_that_is_not_there() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ControlPlaneAway, match="cannot be reached"):
            await ControlClient(session, "http://127.0.0.1:1", TOKEN, "openhands").lease("i", 1, [])


async def test_a_control_plane_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        control_client.ControlClient._call, "__kwdefaults__", {"body": None, "query": None, "patience": 0.05}
    )

    async def answer() -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.Response()

    async with answering(answer) as client:
        with pytest.raises(ControlPlaneAway, match=r"no answer within 0.05 s"):
            await client.lease("i", 1, [])


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"version": "1", "keys": []},
        {"version": 1, "keys": {}},
        {"version": 1, "keys": [{}]},
        {"version": 1, "keys": [key_entry(KEY, upstreams="openhands")]},
        {"version": 1, "keys": [key_entry(KEY, requests_per_minute=1.5)]},
    ],
)
def test_a_document_that_is_no_snapshot(wrong: Any) -> None:
    with pytest.raises(InvalidSnapshot):
        KeySnapshot.from_json(wrong)


def test_a_snapshot_is_what_it_was_when_it_was_kept() -> None:
    entry = key_entry(KEY, upstreams=["openhands"], models=[], expires_at="2027-01-01T00:00:00Z", wallets_limit=True)
    snapshot = KeySnapshot.from_json(
        json.loads(json.dumps(KeySnapshot.from_json({"version": 7, "keys": [entry]}).to_json()))
    )
    assert snapshot.version == 7
    found = snapshot.find(KEY)
    assert found is not None
    assert (found.upstreams, found.models, found.wallets_limit) == (("openhands",), (), True)
    assert snapshot.find(new_key()) is None
    assert snapshot.find("tg-mistyped") is None


def test_it_is_asked_again_after_longer_and_longer_pauses(lines: Lines) -> None:
    back_off = BackOff("rows")
    pauses = [back_off.failed(ControlPlaneAway("gone")) for _ in range(8)]
    assert all(
        0.75 * most <= pause <= most for pause, most in zip(pauses, [0.2, 0.4, 0.8, 1.6, 2, 2, 2, 2], strict=True)
    )
    assert back_off.problem == "gone"
    back_off.succeeded()
    back_off.succeeded()
    assert back_off.problem is None
    assert back_off.failed(ControlPlaneAway("gone")) <= 0.2
    assert len(lines.all("control plane does not answer")) == 2
    assert len(lines.all("control plane answers again")) == 1
