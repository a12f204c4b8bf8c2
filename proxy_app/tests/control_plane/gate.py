"""Work that a test holds back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Gate:
    """Where somebody waits until the test has seen what it wants to see."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._reached.set()
        until = time.monotonic() + 10
        while not self._open.wait(0.001) and time.monotonic() < until:
            meanwhile()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """From when somebody waits here until the end of the block."""
        assert await asyncio.to_thread(self._reached.wait, 10)
        try:
            yield
        finally:
            self._open.set()
