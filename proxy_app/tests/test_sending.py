"""A request on its way outlives who waits for it, and is ended once."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import pytest

from goproxy.data_plane.sending import Sending
from goproxy.data_plane.upstream_connection import Answer, NoAnswer


class AnAnswer:
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
async def sending() -> Sending:
    return Sending(asyncio.get_running_loop())


@pytest.fixture
def answer() -> Answer:
    return cast("Answer", AnAnswer())


async def test_who_waits_may_leave_and_another_may_wait(sending: Sending, answer: Answer) -> None:
    leaves = asyncio.create_task(sending.answer())
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    waits = asyncio.create_task(sending.answer())
    await asyncio.sleep(0)
    sending.came(answer)
    assert await waits is answer


async def test_an_answer_is_not_lost_on_who_leaves_as_it_comes(sending: Sending, answer: Answer) -> None:
    leaves = asyncio.create_task(sending.answer())
    await asyncio.sleep(0)
    sending.came(answer)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    assert await sending.answer() is answer


async def test_a_failure_is_not_lost_on_who_leaves_as_it_comes(sending: Sending) -> None:
    leaves = asyncio.create_task(sending.answer())
    await asyncio.sleep(0)
    sending.failed(NoAnswer())
    leaves.cancel()
    await asyncio.wait([leaves])
    with pytest.raises(NoAnswer):
        await sending.answer()


async def test_what_is_given_up_is_stopped_once_and_wants_no_answer(sending: Sending, answer: Any) -> None:
    stops: list[int] = []
    sending.carried_by(lambda: stops.append(1))
    sending.give_up()
    sending.give_up()
    assert stops == [1]
    sending.came(answer)
    assert answer.is_closed


async def test_who_takes_over_what_was_given_up_stops_too(sending: Sending) -> None:
    """A connection was made in the very moment in which the request was given up."""
    sending.carried_by(lambda: None)
    sending.give_up()
    stops: list[int] = []
    sending.carried_by(lambda: stops.append(1))
    assert stops == [1]


async def test_of_a_failure_nothing_is_kept_when_it_is_given_up(sending: Sending) -> None:
    sending.carried_by(lambda: pytest.fail("there is nothing to stop"))
    error = NoAnswer()
    kept = sys.getrefcount(error)
    sending.failed(error)
    assert sys.getrefcount(error) == kept + 1
    sending.give_up()
    assert sys.getrefcount(error) == kept


async def test_an_answer_that_came_is_closed_when_it_is_given_up(sending: Sending, answer: Any) -> None:
    sending.carried_by(lambda: pytest.fail("there is nothing to stop"))
    sending.came(answer)
    sending.give_up()
    assert answer.is_closed
