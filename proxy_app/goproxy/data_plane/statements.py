"""What is in a wallet, as the control plane knows it: asked when a client wants to see it, and told again for a while.

Clients may ask as often as they like. A process asks the control plane once for all who want to know the same within
KEPT_SECONDS, and AT_ONCE times at a time, so that nobody's leases wait for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from goproxy.data_plane.control_client import ControlPlaneAway, Statement

KEPT_SECONDS = 2.0
AT_ONCE = 4
_TURN_PATIENCE = 5.0
"""Seconds until there is a turn: while the control plane hangs, there is none."""

_MOST_KEPT = 1_000
"""Wallets; beyond that, those that nobody waits for are forgotten."""

Ask = Callable[[str], Awaitable[Statement]]


@dataclass(slots=True)
class _Asked:
    task: asyncio.Task[Statement]
    at: float


def _be_read(task: asyncio.Task[Statement]) -> None:
    """Everybody who waited for a failure may have left: asyncio would complain that nobody has seen it."""
    if not task.cancelled():
        task.exception()


class Statements:
    """The wallets that were asked for lately."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[str, _Asked] = {}

    async def of(self, wallet: str) -> Statement:
        """What is in a wallet.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses
        """
        asked = self._asked.get(wallet)
        if asked is None or (asked.task.done() and time.monotonic() - asked.at > KEPT_SECONDS):
            self._forget()
            asked = self._asked[wallet] = _Asked(asyncio.create_task(self._in_turn(wallet)), time.monotonic())
            asked.task.add_done_callback(_be_read)
        return await asyncio.shield(asked.task)  # others may wait for it, too

    def close(self) -> None:
        """Ask no more."""
        for asked in self._asked.values():
            asked.task.cancel()

    async def _in_turn(self, wallet: str) -> Statement:
        try:
            async with asyncio.timeout(_TURN_PATIENCE):
                await self._turn.acquire()
        except TimeoutError:
            raise ControlPlaneAway("too many wait for an answer") from None
        try:
            return await self._ask(wallet)
        finally:
            self._turn.release()

    def _forget(self) -> None:
        if len(self._asked) >= _MOST_KEPT:
            self._asked = {wallet: asked for wallet, asked in self._asked.items() if not asked.task.done()}
