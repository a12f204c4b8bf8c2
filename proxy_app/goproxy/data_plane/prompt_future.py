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
        assert self._waiter is None, "one task waits for this, and nobody else"
        assert context is not None, "a task tells its context"
        self._waiter = fn, context

    def set_result(self, result: T, /) -> None:
        super().set_result(result)
        self._go_on(at_once=asyncio.current_task(self.get_loop()) is None)

    def set_exception(self, exception: type | BaseException, /) -> None:
        super().set_exception(exception)
        self._go_on(at_once=asyncio.current_task(self.get_loop()) is None)

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self._go_on(at_once=False)
        return True

    def _go_on(self, *, at_once: bool) -> None:
        if self._waiter is None:
            return
        (step, context), self._waiter = self._waiter, None
        if at_once:
            context.run(step, self)
        else:
            self.get_loop().call_soon(step, self, context=context)
