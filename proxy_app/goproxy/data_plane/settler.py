"""What goes on after a request's handler has ended: the rest of an answer is drained, and every exchange is settled.

A handler is cancelled when its client leaves, which is when billing must not stop. So none of this belongs to a
handler: these are tasks of their own, which `finish` waits for when the process leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from goproxy.core.ledger import Row
from goproxy.core.outcome import CLIENT_LEFT, Outcome
from goproxy.core.wire import Refusal
from goproxy.data_plane.drain import Drain, Drains
from goproxy.data_plane.exchange import Exchange
from goproxy.data_plane.journal import Told
from goproxy.data_plane.upstream_connection import Answer
from goproxy.observe import RequestRecord, exception_fields, log

_MOMENT = 0.01
"""Seconds that settling may wait for others: one alone costs several times as much, since nothing of it is in the
processor's cache. Nor need a client wait for it that has its answer and asks again at once."""

_MANY = 16
"""Exchanges that do not wait for more: together they halt everything else for a millisecond."""

_SETTLING = 3.0
"""Seconds for the last rows to be written when the process leaves."""


class Ledger(Protocol):
    """Where rows go."""

    def settle(self, row: Row, told: Told) -> asyncio.Future[bytes]:
        """Done when the row is durable; who is told hears of it then, and not before this has returned."""


class Settler:
    """Settles every exchange whose handler has ended, once what is left of its answer is drained or given up."""

    def __init__(self, ledger: Ledger, drains: Drains, told_of: Callable[[RequestRecord, Row], None]) -> None:
        self._ledger = ledger
        self._drains = drains
        self._told_of = told_of
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._over: list[Exchange] = []
        """Exchanges to be settled in a moment."""
        self._timer: asyncio.TimerHandle | None = None

    def after_answer(self, exchange: Exchange, answer: Answer) -> None:
        """The handler is done with an answer that had begun, in whatever way."""
        if exchange.record.outcome in CLIENT_LEFT and not exchange.is_whole:
            self._start(self._drain_rest(exchange, answer))
        else:
            answer.close()
            self._settle(exchange)

    def after_sending(self, exchange: Exchange, sending: asyncio.Task[Answer]) -> None:
        """The handler is done before an answer had begun, and the upstream may have the request."""
        self._start(self._await_answer(exchange, sending, exchange.record.outcome))

    def after_refusal(self, exchange: Exchange) -> None:
        """The upstream gave no answer that a client of ours should see."""
        self._settle(exchange)

    async def settled(self) -> None:
        """Wait until nothing is left to be settled."""
        while self._over or self._tasks:
            self._settle_all()
            if self._tasks:
                await asyncio.wait(set(self._tasks))

    async def finish(self, seconds: float) -> None:
        """Wait for all of it; what is drained for longer than that is settled by what was seen."""
        self._settle_all()
        if not self._tasks:
            return
        log("finishing drains and settlements", exchanges=len(self._tasks))
        await self._all_settled(seconds)
        self._drains.stop()
        await self._all_settled(_SETTLING)
        if self._tasks:  # their holds are in the journal: the next start makes rows of them
            log("leaving with requests that could not be settled", level=logging.ERROR, exchanges=len(self._tasks))

    async def _all_settled(self, seconds: float) -> None:
        """Wait for so long; what is drained is to be settled afterwards."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._over or self._tasks:
                    self._settle_all()
                    if self._tasks:
                        await asyncio.wait(self._tasks)

    async def _await_answer(self, exchange: Exchange, sending: asyncio.Task[Answer], outcome: Outcome) -> None:
        """`outcome`: why the handler is done. That of the sending may stand in the record when this begins."""
        record = exchange.record
        answer = None
        with self._drains.one(exchange.hold.account) as drain:
            try:
                if outcome in CLIENT_LEFT:
                    answer = await drain.head(sending)
                elif not sending.cancel():  # it has begun in this very moment
                    (await sending).close()
                record.outcome = outcome
            except Refusal:
                pass  # the upstream did not answer: its outcome stands in the record
            except Exception as error:
                record.outcome = outcome
                log("sending failed", level=logging.ERROR, request_id=record.request_id, **exception_fields(error))
            finally:
                del sending  # it knows its exception, which knows this frame
            if answer is None:
                self._settle(exchange)
            else:
                exchange.begin(answer)
                await self._drain(drain, exchange, answer)

    async def _drain_rest(self, exchange: Exchange, answer: Answer) -> None:
        with self._drains.one(exchange.hold.account) as drain:
            await self._drain(drain, exchange, answer)

    async def _drain(self, drain: Drain, exchange: Exchange, answer: Answer) -> None:
        try:
            ended = await drain.rest(answer, exchange.take)
            if ended.is_whole:
                exchange.end(b"")
            exchange.drained = True
        finally:
            answer.close()
            self._settle(exchange)

    def _settle(self, exchange: Exchange) -> None:
        """In a moment, and without a task: what is owed to clients, and who asks next, go first."""
        self._over.append(exchange)
        if len(self._over) == _MANY:
            self._loop.call_soon(self._settle_all)
        elif self._timer is None:
            self._timer = self._loop.call_later(_MOMENT, self._settle_all)

    def _settle_all(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        over, self._over = self._over, []
        for exchange in over:
            self._write(exchange)

    def _write(self, exchange: Exchange) -> None:
        """The row is with the ledger when this returns, and waits for nobody but the disk."""
        try:
            row = exchange.row()

            def tell(written: asyncio.Future[bytes]) -> None:
                if self._ended(written):
                    self._told_of(exchange.record, row)

            self._tasks.add(self._ledger.settle(row, tell))
        except Exception as error:
            log(
                "settling failed", level=logging.ERROR, request_id=exchange.record.request_id, **exception_fields(error)
            )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, done: asyncio.Future[Any]) -> bool:
        """Forget it; whether it went well."""
        self._tasks.discard(done)
        if done.cancelled():
            return False
        if (error := done.exception()) is not None:
            log("settling failed", level=logging.ERROR, **exception_fields(error))
        return error is None
