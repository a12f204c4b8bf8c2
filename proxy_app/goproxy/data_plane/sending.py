"""A request on its way to the upstream, until the head of its answer is there.

Who waits for that may leave, and another may wait in its place: a handler ends with its client, and the answer is
still drained and settled (settler.py). So this is no future, which would end with whoever waits for it; and an
answer that comes wakes who waits in the next turn of the loop, without the turns that `asyncio.shield` takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from goproxy.data_plane.upstream_connection import Answer


class Sending:
    """One request. Exactly one of `came`, `failed` and `give_up` ends it; what comes after that changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._is_over = False
        """It was given up, or who asked knows that it has failed."""
        self.is_handed_over = False
        """A connection has it: the upstream may get it, and may want to be paid."""
        self._stop: Callable[[], object] | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def answer(self) -> Answer:
        """Wait for the head of the answer, which the caller must close. One may wait at a time.

        Raises:
            Exception: what it failed with.
        """
        assert not self._is_over, "nobody waits for what is over"
        if self._answer is None and self._error is None:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._end()
        assert self._answer is not None
        return self._answer

    def _end(self) -> Exception:
        """What it failed with, which is kept here no more: an exception knows the frames that it went through."""
        assert self._error is not None
        error, self._error, self._is_over = self._error, None, True
        return error

    def give_up(self) -> None:
        """Nobody wants the answer any more, whether it has come or not."""
        if self._answer is not None:
            self._answer.close()
        elif self._error is not None:
            self._end()
        elif not self._is_over:
            self._is_over = True
            if self._stop is not None:
                stop, self._stop = self._stop, None  # what is cancelled remembers its frames, and they know this
                stop()

    # From whoever carries it.

    def carried_by(self, stop: Callable[[], object]) -> None:
        """`stop`: carry it no further; nothing needs to be told then."""
        if self._is_over:
            stop()
        else:
            self._stop = stop

    def came(self, answer: Answer) -> None:
        """The head of the answer is there."""
        if self._is_over:
            answer.close()
            return
        self._answer = answer
        self._wake()

    def failed(self, error: Exception) -> None:
        """There will be no answer."""
        if not self._is_over:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
