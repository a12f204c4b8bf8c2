"""Who awaits a prompt future goes on in the call that tells the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from goproxy.data_plane.prompt_future import PromptFuture


class Waiter:
    """A task that awaits a future, and what became of it."""

    def __init__(self) -> None:
        self.future: PromptFuture[str] = PromptFuture()
        self.found: list[str] = []
        self.task = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        try:
            self.found.append(await self.future)
        except (ValueError, asyncio.CancelledError) as error:
            self.found.append(type(error).__name__)
            raise


@pytest.fixture
async def waiter() -> Waiter:
    """It waits already."""
    waiter = Waiter()
    await asyncio.sleep(0)
    return waiter


async def called(tell: Callable[[], object]) -> None:
    """Let the loop call this, as it calls what reads a connection."""
    asyncio.get_running_loop().call_soon(tell)
    await asyncio.sleep(0)


async def test_a_result_is_acted_upon_at_once(waiter: Waiter) -> None:
    found_in_the_call: list[str] = []

    def tell() -> None:
        waiter.future.set_result("told")
        found_in_the_call.extend(waiter.found)

    await called(tell)
    assert found_in_the_call == ["told"]
    await waiter.task


async def test_an_error_is_raised_at_once(waiter: Waiter) -> None:
    found_in_the_call: list[str] = []

    def tell() -> None:
        waiter.future.set_exception(ValueError("told"))
        found_in_the_call.extend(waiter.found)

    await called(tell)
    assert found_in_the_call == ["ValueError"]
    with pytest.raises(ValueError, match="told"):
        await waiter.task


async def test_a_result_that_is_there_is_not_waited_for() -> None:
    waiter = Waiter()
    waiter.future.set_result("told")
    await waiter.task
    assert waiter.found == ["told"]


async def test_what_another_task_tells_is_acted_upon_in_a_turn_of_its_own(waiter: Waiter) -> None:
    """No task can run within another."""
    waiter.future.set_result("told")
    assert waiter.found == []
    await waiter.task
    assert waiter.found == ["told"]


async def test_a_waiter_can_be_cancelled(waiter: Waiter) -> None:
    waiter.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter.task
    assert waiter.found == ["CancelledError"]
    assert waiter.future.cancelled()


async def test_a_waiter_that_is_cancelled_after_it_was_told_is_told(waiter: Waiter) -> None:
    def tell() -> None:
        waiter.future.set_result("told")
        waiter.task.cancel()

    await called(tell)
    await waiter.task
    assert waiter.found == ["told"]
