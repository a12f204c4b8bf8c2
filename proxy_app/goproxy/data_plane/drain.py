"""Reading the rest of an answer whose client has left, for the count alone; bounded in seconds, bytes and number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from goproxy.data_plane.board import Place
from goproxy.data_plane.upstream_connection import Answer

T = TypeVar("T")


class DrainEnd(StrEnum):
    """Why a drain ended."""

    WHOLE = "whole"  # the body ended as HTTP says
    BROKEN = "broken"  # it broke off
    TOO_LONG = "too_long"  # there was more to come after so many seconds
    TOO_LARGE = "too_large"  # there was more than so many bytes
    TOO_MANY = "too_many"  # as many drains as may be were running: nothing was read
    STOPPED = "stopped"  # the process leaves

    @property
    def is_whole(self) -> bool:
        """Whether all of the body was read."""
        return self is DrainEnd.WHOLE


class Drains:
    """All drains of one proxy."""

    def __init__(self, *, seconds: float, bytes: int, concurrent: int, place: Place | None = None) -> None:  # noqa: A002
        """The bounds are the config's; `place`: of this process, where several drain no more than so many together."""
        self._seconds = seconds
        self._bytes = bytes
        self._concurrent = concurrent
        self._place = place
        self._limits: set[asyncio.Timeout] = set()
        self._is_stopped = False

    @property
    def running(self) -> int:
        """How many answers are being drained."""
        return len(self._limits)

    def may_start(self) -> bool:
        """Whether one more may be."""
        return not self._is_stopped and self.running < self._concurrent

    async def drain(self, answer: Answer, feed: Callable[[bytes], object]) -> DrainEnd:
        """Read `answer` to its end or to a bound; every piece is given to `feed`, and kept nowhere."""
        if not self._begins():
            return DrainEnd.STOPPED if self._is_stopped else DrainEnd.TOO_MANY
        limit = asyncio.timeout(self._seconds)
        self._limits.add(limit)
        try:
            async with limit:
                return await _Reading(answer, feed, self._bytes).run()
        except TimeoutError:
            return DrainEnd.STOPPED if self._is_stopped else DrainEnd.TOO_LONG
        finally:
            self._limits.discard(limit)
            self._ended()

    async def head(self, sending: asyncio.Task[T]) -> T | None:
        """Wait within the same bounds for an answer that has not begun. None: it did not, and nobody waits any more.

        One that comes in the moment in which it would be given up is told all the same: its caller must close it.
        """
        if not self._begins():
            try:
                return None if sending.cancel() else await sending
            finally:
                del sending  # it knows its exception, which knows this frame
        limit = asyncio.timeout(self._seconds)
        self._limits.add(limit)
        try:
            async with limit:
                return await sending  # its end is the sending's end too
        except TimeoutError:
            return None if sending.cancelled() else sending.result()
        finally:
            del sending  # as above
            self._limits.discard(limit)
            self._ended()

    def _begins(self) -> bool:
        return self.may_start() and (self._place is None or self._place.begin_drain(self._concurrent))

    def _ended(self) -> None:
        if self._place is not None:
            self._place.end_drain()

    def stop(self) -> None:
        """End all drains, and begin none any more."""
        self._is_stopped = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)


class _Reading:
    """One answer, read for the count alone."""

    def __init__(self, answer: Answer, feed: Callable[[bytes], object], most: int) -> None:
        self._answer = answer
        self._feed = feed
        self._left = most
        self._over: asyncio.Future[DrainEnd] = asyncio.get_running_loop().create_future()

    async def run(self) -> DrainEnd:
        self._answer.resume()
        self._answer.pass_to(self)
        try:
            return await self._over
        finally:
            self._answer.pass_to(None)

    def take(self, piece: bytes) -> None:
        self._feed(piece)
        self._left -= len(piece)
        if self._left <= 0:
            self._answer.pause()  # if it is over by now, that shows before anything else does
            asyncio.get_running_loop().call_soon(self._end, DrainEnd.TOO_LARGE)

    def ended(self, last: bytes) -> None:
        if last:
            self._feed(last)
        self._end(DrainEnd.WHOLE)

    def broke_off(self) -> None:
        self._end(DrainEnd.BROKEN)

    def _end(self, how: DrainEnd) -> None:
        if not self._over.done():
            self._over.set_result(how)
