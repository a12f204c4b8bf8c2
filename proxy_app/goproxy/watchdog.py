"""A process whose event loop stands still ends, and says where it stood.

Its health check would find it ill, and nobody would begin it again: Docker restarts what has ended, and nothing else.
The next process finds in the journal what was open.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

STANDSTILL = 60.0
"""Seconds. What takes longest is the reading of the largest bodies, a few seconds on a slow machine. A process that was
frozen for so long (docker pause) ends, too, as it goes on."""

_BEATS = 6
"""In that time, while the event loop runs."""


async def watched(work: Awaitable[T], standstill: float = STANDSTILL) -> T:
    """Do `work`. Should the event loop not run for so many seconds meanwhile, the process ends with exit code 1.

    The stacks of its threads are written to standard error then, by a thread that needs no interpreter: so it ends as
    well where a call of C keeps the interpreter to itself.
    """
    faulthandler.dump_traceback_later(standstill, exit=True)
    beating = asyncio.create_task(_beat(standstill))
    try:
        return await work
    finally:
        beating.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _beat(standstill: float) -> None:
    while True:
        await asyncio.sleep(standstill / _BEATS)
        faulthandler.dump_traceback_later(standstill, exit=True)
