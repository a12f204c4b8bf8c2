"""A rollout, seen by the processes: a new instance beside the old one, on the same disk, and nobody notices."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.backend import Backend
from tests.gateway import endpoints_at
from tests.process import free_port, listens, noted, serving
from tests.provider import Provider, Received, Wire, running_provider
from tests.raw import connected
from tests.test_outages import ASK, COST, NOTED, START, rows_of, say_all


async def ask(port: int) -> tuple[int, bytes]:
    """One request on a connection of its own, as the edge sends it."""
    async with connected(port) as raw:
        await raw.post(ASK)
        status, headers = await raw.head()
        if "content-length" in headers:
            return status, await raw.reader.readexactly(int(headers["content-length"]))
        return status, b"".join([piece async for piece in _pieces(raw)])


async def _pieces(raw: Any) -> Any:
    while piece := await raw.chunk():
        yield piece


async def test_two_instances_share_a_wallet_and_each_row_is_there_once(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """Both spend at the same time; the old one leaves, with a stream that goes on to its end."""
    provider.script = say_all
    go_on = asyncio.Event()

    async def slow(_: Received, wire: Wire) -> None:
        provider.script = say_all
        await wire.begin_stream()
        await wire.chunk(START)
        await go_on.wait()
        await wire.end_stream()

    async with serving(document, backend, tmp_path / "old", grace=45) as old, connected(old.port) as raw:
        assert (await ask(old.port))[0] == 200
        provider.script = slow
        await raw.post(ASK)
        await raw.head()
        assert await raw.chunk() == START
        async with serving(document, backend, tmp_path / "new", beside=tmp_path / "old") as new:
            assert new.said("ready to serve beside the other instance")
            both = await asyncio.gather(*(ask(port) for port in (old.port, new.port) * 5))
            assert {status for status, _ in both} == {200}
            old.process.terminate()
            async with asyncio.timeout(30):
                while await listens(old.port):
                    await asyncio.sleep(0.02)
            assert (await ask(new.port))[0] == 200
            go_on.set()
            assert await raw.chunk() == b""
            assert await asyncio.wait_for(old.process.wait(), 30) == 0
            rows = await rows_of(backend, 13)
    assert sum(row["cost_nanodollars"] for row in rows) == 12 * COST + NOTED
    leases = (await backend.get("leases"))["leases"]
    assert len({lease["instance"] for lease in leases}) == 2
    assert all(lease["held_nanodollars"] >= 0 for lease in leases)


async def test_it_does_not_listen_before_it_could_serve(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """The provider of its configuration is not there; then it is."""
    provider.script = say_all
    port = free_port()
    elsewhere = document | {"endpoints": endpoints_at(f"http://127.0.0.1:{port}")}
    async with (
        serving(document, backend, tmp_path / "old") as old,
        serving(elsewhere, backend, tmp_path / "new", beside=tmp_path / "old", is_awaited=False) as new,
    ):
        async with asyncio.timeout(30):
            while not new.log.exists() or b"connection refused" not in new.log.read_bytes():
                await asyncio.sleep(0.05)
        with pytest.raises(ConnectionError):
            await ask(new.port)
        assert (await ask(old.port))[0] == 200
        async with running_provider(port=port) as there:
            there.script = say_all
            async with asyncio.timeout(30):
                while not new.said("listening"):
                    await asyncio.sleep(0.05)
            assert (await ask(new.port))[0] == 200


async def test_what_a_killed_instance_left_is_adopted_by_the_other(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """Its open request becomes one interrupted row, which the other counts, and what it was lent comes back."""

    async def stuck(_: Received, wire: Wire) -> None:
        provider.script = say_all
        await wire.begin_stream()
        await wire.chunk(START)
        await wire.until_closed()

    provider.script = stuck
    async with serving(document, backend, tmp_path / "old") as old, connected(old.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert await raw.chunk() == START
        while not noted(tmp_path / "old"):
            await asyncio.sleep(0.02)
        async with serving(document, backend, tmp_path / "new", beside=tmp_path / "old") as new:
            (lent,) = (await backend.get("leases"))["leases"]
            old.process.kill()
            await old.process.wait()
            (row,) = await rows_of(backend, 1)
            assert (row["settlement"], row["cost_nanodollars"]) == ("interrupted", NOTED)
            async with asyncio.timeout(30):
                while (await _held(backend))[lent["instance"]]:
                    await asyncio.sleep(0.05)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{new.port}/metrics") as answer,
            ):
                counted = await answer.text()
            assert 'goproxy_rows_total{settlement="interrupted",upstream="openhands"} 1.0\n' in counted
            assert (await ask(new.port))[0] == 200


async def _held(backend: Backend) -> dict[str, int]:
    leases = (await backend.get("leases"))["leases"]
    return {lease["instance"]: lease["held_nanodollars"] for lease in leases}


async def test_a_connection_that_was_made_is_served_and_any_later_one_is_refused(
    document: dict[str, Any], backend: Backend, provider: Provider, tmp_path: Path
) -> None:
    """While requests come on new connections all the time, one after the other is told to leave: none is reset."""
    provider.script = say_all
    refused = 0
    for number in range(3):
        async with serving(document, backend, tmp_path / f"{number}", grace=5) as served:
            answers: list[int] = []

            async def client(port: int = served.port, answers: list[int] = answers) -> None:
                while True:
                    answers.append((await ask(port))[0])

            clients = [asyncio.create_task(client()) for _ in range(20)]
            while len(answers) < 40:
                await asyncio.sleep(0.01)
            served.process.terminate()
            ended = await asyncio.gather(*clients, return_exceptions=True)
            assert set(answers) == {200}
            assert [end for end in ended if type(end) is not ConnectionRefusedError] == []
            refused += len(ended)
    assert refused == 60
