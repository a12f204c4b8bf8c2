"""Drains: an answer is read to its end for the count alone, within bounds."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from goproxy.core.wire import Fault, Refusal
from goproxy.data_plane.bodies import Bodies, Body
from goproxy.data_plane.drain import DrainEnd, Drains
from goproxy.data_plane.scoreboard import Scoreboard
from goproxy.data_plane.sending import Sending
from goproxy.data_plane.upstream_connection import Answer
from goproxy.data_plane.upstream_pool import UpstreamPool
from tests.provider import Provider, Received, Script, Wire

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def an_answer(provider: Provider, script: Script) -> AsyncIterator[Answer]:
    provider.script = script
    pool = UpstreamPool(URL(provider.url), ssl.create_default_context())
    connection = await pool.connect()
    head = b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    sending = Sending(pool.loop)
    connection.send(head, Body(Bodies(2), b"{}"), pool.loop.time() + 5, sending)
    yield await sending.answer()
    pool.close()


async def drain(bounds: Drains, answer: Answer, feed: Callable[[bytes], object], account: str = "alice") -> DrainEnd:
    with bounds.one(account) as one:
        return await one.rest(answer, feed)


async def head(bounds: Drains, sending: asyncio.Task[Answer]) -> Answer | None:
    with bounds.one("alice") as one:
        return await one.head(sending)


def drains(*, seconds: float = 5, most: int = 1 << 20, concurrent: int = 4) -> Drains:
    return Drains(seconds=seconds, bytes=most, concurrent=concurrent)


async def whole(_: Received, wire: Wire) -> None:
    await wire.begin_stream()
    for _n in range(3):
        await wire.chunk(b"0123456789")
    await wire.end_stream()


async def endless(_: Received, wire: Wire) -> None:
    await wire.begin_stream()
    await wire.chunk(b"0123456789")
    await wire.until_closed()


async def test_an_answer_is_read_to_its_end(provider: Provider) -> None:
    fed = bytearray()
    async with an_answer(provider, whole) as answer:
        ended = await drain(drains(), answer, fed.extend)
    assert (ended, ended.is_whole, bytes(fed)) == (DrainEnd.WHOLE, True, b"0123456789" * 3)


async def test_what_came_before_a_break_counts(provider: Provider) -> None:
    async def broken(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(b"0123456789")
        await wire.send(b"5\r\nab")
        wire.hang_up()

    fed = bytearray()
    async with an_answer(provider, broken) as answer:
        ended = await drain(drains(), answer, fed.extend)
    assert (ended, ended.is_whole) == (DrainEnd.BROKEN, False)
    assert bytes(fed) == b"0123456789ab"


async def test_it_has_an_end_in_time(provider: Provider) -> None:
    fed = bytearray()
    async with an_answer(provider, endless) as answer:
        drained = drains(seconds=0.1)
        assert await drain(drained, answer, fed.extend) is DrainEnd.TOO_LONG
    assert bytes(fed) == b"0123456789"
    assert drained.running == 0


async def test_it_has_an_end_in_bytes(provider: Provider) -> None:
    async def flood(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        while True:
            await wire.chunk(b"x" * 1000)

    fed = bytearray()
    async with an_answer(provider, flood) as answer:
        assert await drain(drains(most=5000), answer, fed.extend) is DrainEnd.TOO_LARGE
    assert 5000 <= len(fed) < 5000 + (1 << 18), "the last piece may go beyond"


async def test_an_answer_that_is_just_as_long_as_it_may_be(provider: Provider) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + b"x" * 30)

    async with an_answer(provider, script) as answer:
        assert await drain(drains(most=30), answer, bytearray().extend) is DrainEnd.WHOLE


async def test_only_so_many_at_once(provider: Provider) -> None:
    limited, fed = drains(concurrent=1), bytearray()
    async with an_answer(provider, endless) as first:
        draining = asyncio.create_task(drain(limited, first, bytearray().extend))
        await asyncio.sleep(0.02)
        assert limited.running == 1
        async with an_answer(provider, whole) as second:
            assert await drain(limited, second, fed.extend) is DrainEnd.TOO_MANY
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
    assert limited.running == 0
    assert not fed


async def test_the_last_quarter_is_for_those_who_have_none(provider: Provider) -> None:
    """An account that leaves many answers does not make those of others estimates."""
    bounds = drains(concurrent=4)
    with bounds.one("alice") as first, bounds.one("alice") as second, bounds.one("alice") as third:
        assert bounds.running == 3, "they are three of four places"
        async with an_answer(provider, whole) as answer:
            assert await drain(bounds, answer, bytearray().extend, "alice") is DrainEnd.TOO_MANY
        async with an_answer(provider, whole) as answer:
            assert await drain(bounds, answer, bytearray().extend, "bob") is DrainEnd.WHOLE
        del first, second, third
    async with an_answer(provider, whole) as answer:
        assert await drain(bounds, answer, bytearray().extend, "alice") is DrainEnd.WHOLE


async def test_each_gives_its_place_among_those_of_all_processes_back(provider: Provider) -> None:
    """However it ends."""
    one, other = Scoreboard(2).places
    bounds = Drains(seconds=5, bytes=1 << 20, concurrent=1, place=one)

    def fail() -> None:
        assert not other.begin_drain(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), bounds.one("alice"):
        fail()
    for _ in range(2):
        async with an_answer(provider, whole) as answer:
            assert await drain(bounds, answer, bytearray().extend) is DrainEnd.WHOLE
    assert other.begin_drain(1)


async def test_all_end_when_the_process_leaves(provider: Provider) -> None:
    leaving, fed = drains(), bytearray()
    async with an_answer(provider, endless) as first, an_answer(provider, endless) as second:
        draining = [asyncio.create_task(drain(leaving, answer, bytearray().extend)) for answer in (first, second)]
        await asyncio.sleep(0.02)
        leaving.stop()
        assert await asyncio.wait_for(asyncio.gather(*draining), 30) == [DrainEnd.STOPPED] * 2
        assert await drain(leaving, first, fed.extend) is DrainEnd.STOPPED
    assert not fed


async def test_an_answer_that_comes_as_it_is_given_up_is_not_forgotten(provider: Provider) -> None:
    """Who waited for it must close it: nobody else knows of it."""
    async with an_answer(provider, endless) as answer:
        sending = asyncio.create_task(asyncio.sleep(0, answer))
        await asyncio.wait([sending])
        assert await head(drains(concurrent=0), sending) is answer


async def test_a_failure_that_comes_as_it_is_given_up_is_told() -> None:
    async def fail() -> Answer:
        raise Refusal(Fault.UPSTREAM_BROKEN, "gone")

    sending = asyncio.create_task(fail())
    await asyncio.wait([sending])
    with pytest.raises(Refusal, match="gone"):
        await head(drains(concurrent=0), sending)


async def test_an_answer_that_comes_as_its_time_is_over_is_not_forgotten(provider: Provider) -> None:
    bounds = drains()

    async with an_answer(provider, endless) as answer:

        async def come() -> Answer:
            await asyncio.sleep(0.01)
            bounds.stop()  # its limit fires in the next turn, in which who waits for this is woken, too
            return answer

        assert await head(bounds, asyncio.create_task(come())) is answer


async def test_an_answer_that_comes_as_the_process_leaves_is_not_read(provider: Provider) -> None:
    bounds = drains(seconds=3600)

    async with an_answer(provider, endless) as answer:

        async def come() -> Answer:
            bounds.stop()
            return answer

        with bounds.one("alice") as one:
            assert await one.head(asyncio.create_task(come())) is answer
            assert await asyncio.wait_for(one.rest(answer, bytearray().extend), 10) is DrainEnd.STOPPED
