"""Reading the rest of an answer whose client has left, for the count alone; bounded in seconds, bytes and number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, TypeVar

import aiohttp
from aiohttp.http import HttpProcessingError

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


class Answer(Protocol):
    """What of an aiohttp.ClientResponse is needed. Its owner closes it."""

    @property
    def content(self) -> aiohttp.StreamReader:
        """The body."""


class Drains:
    """All drains of one proxy."""

    def __init__(self, *, seconds: float, bytes: int, concurrent: int) -> None:  # noqa: A002 - as the config calls it
        self._seconds = seconds
        self._bytes = bytes
        self._concurrent = concurrent
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
        if not self.may_start():
            return DrainEnd.STOPPED if self._is_stopped else DrainEnd.TOO_MANY
        limit = asyncio.timeout(self._seconds)
        self._limits.add(limit)
        try:
            async with limit:
                return await self._read(answer.content, feed)
        except TimeoutError:
            return DrainEnd.STOPPED if self._is_stopped else DrainEnd.TOO_LONG
        finally:
            self._limits.discard(limit)

    async def head(self, sending: asyncio.Task[T]) -> T | None:
        """Wait within the same bounds for an answer that has not begun. None: it did not, and nobody waits any more."""
        if not self.may_start():
            sending.cancel()
            return None
        limit = asyncio.timeout(self._seconds)
        self._limits.add(limit)
        try:
            async with limit:
                return await sending  # its end is the sending's end too
        except TimeoutError:
            return None
        finally:
            self._limits.discard(limit)

    def stop(self) -> None:
        """End all drains, and begin none any more."""
        self._is_stopped = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)

    async def _read(self, body: aiohttp.StreamReader, feed: Callable[[bytes], object]) -> DrainEnd:
        left = self._bytes
        while left > 0:
            try:
                piece = await body.readany()
            except (aiohttp.ClientError, HttpProcessingError, OSError):
                # What arrived before the break is in the reader, which refuses to give it out (as in relay.py).
                feed(body._read_nowait(-1))
                return DrainEnd.BROKEN
            if not piece:
                return DrainEnd.WHOLE
            feed(piece)
            left -= len(piece)
        return DrainEnd.WHOLE if body.at_eof() else DrainEnd.TOO_LARGE
