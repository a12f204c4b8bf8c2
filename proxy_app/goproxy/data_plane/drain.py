"""Reading the rest of an answer whose client has left, for the count alone; bounded in seconds, bytes and number."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

from goproxy.data_plane.scoreboard import Place
from goproxy.data_plane.upstream_connection import Answer

T = TypeVar("T")


class DrainEnd(StrEnum):
    """Why a drain ended."""

    WHOLE = "whole"  # the body ended as HTTP says
    BROKEN = "broken"  # it broke off
    TOO_LONG = "too_long"  # there was more to come after so many seconds
    TOO_LARGE = "too_large"  # there was more than so many bytes
    TOO_MANY = "too_many"  # as many drains as may be were running, of all or of this account: nothing was read
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
        self._kept_free = concurrent // 4
        """Places for accounts that drain nothing: one that leaves a hundred answers does not take all of them."""
        self._drains: set[Drain] = set()
        self._by_account: Counter[str] = Counter()
        self._is_stopped = False

    @property
    def running(self) -> int:
        """How many answers are being drained."""
        return len(self._drains)

    @contextmanager
    def one(self, account: str) -> Iterator[Drain]:
        """The drain of one answer of `account`, which has its place among the others until the end of the block."""
        if not self._begin(account):
            yield Drain(0, self._bytes, DrainEnd.STOPPED if self._is_stopped else DrainEnd.TOO_MANY)
            return
        drain = Drain(self._seconds, self._bytes)
        self._drains.add(drain)
        self._by_account[account] += 1
        try:
            yield drain
        finally:
            self._drains.discard(drain)
            self._by_account -= Counter({account: 1})
            if self._place is not None:
                self._place.end_drain()

    def _begin(self, account: str) -> bool:
        """Whether there is a place, which is taken then."""
        most = self._concurrent - (self._kept_free if self._by_account[account] else 0)
        if self._is_stopped or self.running >= most:
            return False
        return self._place is None or self._place.begin_drain(most)

    def stop(self) -> None:
        """End all drains, and begin none any more."""
        self._is_stopped = True
        for drain in self._drains:
            drain.stop()


class Drain:
    """One answer, of which the head may have to be waited for, too: its time is for both."""

    def __init__(self, seconds: float, bytes: int, ended: DrainEnd | None = None) -> None:  # noqa: A002
        """`ended`: why this drain is refused; None: it may read."""
        self._bytes = bytes
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._limit: asyncio.Timeout | None = None
        """Of what it waits for."""
        self._is_stopped = False

    async def head(self, sending: asyncio.Task[T]) -> T | None:
        """Wait for an answer that has not begun. None: it did not, and nobody waits any more.

        One that comes in the moment in which it would be given up is told all the same: its caller must close it.
        """
        try:
            if self._ended is not None:
                return None if sending.cancel() else await sending
            async with self._bounded():
                return await sending  # its end is the sending's end too
        except TimeoutError:
            return None if sending.cancelled() else sending.result()
        finally:
            del sending  # it knows its exception, which knows this frame

    async def rest(self, answer: Answer, feed: Callable[[bytes], object]) -> DrainEnd:
        """Read `answer` to its end or to a bound; every piece is given to `feed`, and kept nowhere."""
        if self._ended is not None:
            return self._ended
        try:
            async with self._bounded():
                return await _Reading(answer, feed, self._bytes).run()
        except TimeoutError:
            return DrainEnd.STOPPED if self._is_stopped else DrainEnd.TOO_LONG

    def stop(self) -> None:
        """The process leaves."""
        self._is_stopped = True
        self._until = self._loop.time()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._until)

    def _bounded(self) -> asyncio.Timeout:
        self._limit = asyncio.timeout_at(self._until)
        return self._limit


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
        return await self._over

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
