"""A future whose waiter goes on at once, and not in the event loop's next turn.

A task that waits for an `asyncio.Future` is put at the end of the queue when that is done, and before its turn comes
the loop reads what has come on other connections. Of the time to a first event that is a part that nobody needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


class PromptFuture(asyncio.Future[T]):
    """For one task, which awaits it. Done in a callback of the loop, it runs that task's next step in that call.

    Done by another task, or cancelled, it is as any other future: one task cannot run within another.
    """

    _waiter: tuple[Callable[[PromptFuture[T]], object], Context] | None = None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """How a task says that it waits."""
        assert self._waiter is None and context is not None, "one task waits for this, and nobody else"
        self._waiter = fn, context

    def set_result(self, result: T, /) -> None:
        super().set_result(result)
        self._go_on()

    def set_exception(self, exception: type | BaseException, /) -> None:
        super().set_exception(exception)
        self._go_on()

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self._go_on_soon()
        return True

    def _go_on(self) -> None:
        if asyncio.current_task(self.get_loop()) is not None:
            self._go_on_soon()
        elif self._waiter is not None:
            (step, context), self._waiter = self._waiter, None
            context.run(step, self)

    def _go_on_soon(self) -> None:
        if self._waiter is not None:
            (step, context), self._waiter = self._waiter, None
            self.get_loop().call_soon(step, self, context=context)
