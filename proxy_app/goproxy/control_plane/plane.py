"""The parts of the control plane that its two APIs share, and how they are kept up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from aiohttp import web
from sqlalchemy import Connection

from goproxy.control_plane.catalogue import Catalogue
from goproxy.control_plane.credentials import ProxyTokens, TokenFile
from goproxy.control_plane.declared import DeclaredFile, apply
from goproxy.control_plane.key_feed import KeyFeed
from goproxy.control_plane.metrics import Metrics
from goproxy.control_plane.store import keys, leases, renewals
from goproxy.control_plane.store.database import Database, StoreUnavailable
from goproxy.control_plane.store.totals import Totals, totals
from goproxy.hosting import Stay
from goproxy.observe import exception_fields, log
from goproxy.timestamps import now
from goproxy.watched_file import LOOK_EVERY

T = TypeVar("T")

_COUNT_EVERY = 5.0
_SUMS_REST = 20
"""Times what they took: the sums over all leases are not made sooner again, for nobody writes to SQLite meanwhile."""

_NOTE_EVERY = 60.0
_RENEW_EVERY = 5.0


class ControlPlane:
    """All that the control plane has: store, keys, credentials, metrics."""

    def __init__(
        self,
        catalogue: Catalogue,
        database: Database,
        operator: TokenFile,
        proxies: ProxyTokens,
        declared: DeclaredFile,
        metrics: Metrics,
    ) -> None:
        """Begin with the keys that are stored; the store must have its tables.

        Raises:
            StoreUnavailable: it cannot be.
        """
        self.catalogue = catalogue
        self.database = database
        self.operator = operator
        self.proxies = proxies
        self.metrics = metrics
        metrics.store_is_available(lambda: database.problem is None)  # a full disk can still be read
        self._declared = declared
        self.listening_since = now()
        self.feed = KeyFeed(database.transact("read keys", keys.snapshot))
        self._sums_due = 0.0
        """When the sums over the whole store are made again, on time.monotonic's clock."""
        self._changes: set[asyncio.Task[object]] = set()

    @property
    def problems(self) -> list[str]:
        """What an operator should know."""
        store = [] if self.database.problem is None else [f"the store cannot be had now: {self.database.problem}"]
        declared = (
            [] if self._declared.problem is None else [f"declared keys stay as they were: {self._declared.problem}"]
        )
        return store + declared

    async def see_through(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something to its end, even when the one who asked for it is gone."""
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            await asyncio.wait([task])  # which leaves it alone when it is cancelled itself
        except asyncio.CancelledError:
            task.add_done_callback(_tell_of_failure)
            raise
        return task.result()

    async def change_keys(self, name: str, change: Callable[[Connection], T], *, is_long: bool = False) -> T:
        """Change something that the set of live keys depends on, and tell every proxy; to the end (`see_through`).

        Raises:
            StoreUnavailable: it cannot be done now.
        """

        def work(connection: Connection) -> tuple[T, keys.Snapshot]:
            return change(connection), keys.changed(connection)

        async def both() -> T:
            result, snapshot = await self.database.run(name, work, is_long=is_long)
            self.feed.publish(snapshot)
            return result

        return await self.see_through(both())

    async def restore(self, put_back: Callable[[Connection], None]) -> None:
        """Put another store in the place of what is stored, bring it to what is declared, and tell every proxy.

        Raises:
            StoreUnavailable: it cannot be done now.
        """

        def change(connection: Connection) -> None:
            put_back(connection)
            if self._declared.last is not None:  # whatever is declared later waits behind this
                apply(connection, self._declared.last)

        await self.change_keys("restore", change, is_long=True)

    async def look(self) -> None:
        """Take in what is declared, if it has changed."""
        declaration = self._declared.changed()
        if declaration is None:
            return
        try:
            snapshot = await self.database.run(
                "take in declared keys", lambda connection: apply(connection, declaration)
            )
        except StoreUnavailable:
            self._declared.read_again()
            return
        if snapshot is not None:
            self.feed.publish(snapshot)

    async def note_heard(self) -> None:
        """Let the store know which instances live of those that it is not told of: polls are answered without it.

        Raises:
            StoreUnavailable: it cannot be told now.
        """
        heard = self.feed.heard
        if heard:
            await self.database.run("note who was heard", lambda connection: leases.heard(connection, heard))
            self.feed.noted(heard)

    async def renew(self) -> None:
        """Fill up the wallets whose next period has begun.

        Raises:
            StoreUnavailable: not all could be.
        """
        while await self.database.read("look for renewals", renewals.is_any_due):
            done = await self.database.run("renew credit", renewals.renew)
            log("credit renewed", wallets=done.wallets - len(done.refused))
            for wallet, reason in done.refused.items():
                log("credit not renewed", level=logging.ERROR, wallet=wallet, reason=reason)

    async def count(self) -> None:
        """Bring the metrics up to date; and the keys, should another process have changed them."""

        def work(connection: Connection) -> keys.Snapshot | None:
            return None if keys.version(connection) == known else keys.snapshot(connection)

        def sums(connection: Connection) -> tuple[Totals, float]:
            began = time.monotonic()
            return totals(connection), time.monotonic() - began

        known = self.feed.version
        try:
            if time.monotonic() >= self._sums_due:
                found, taken = await self.database.read("count", sums)
                self._sums_due = time.monotonic() + _SUMS_REST * taken
                self.metrics.stands(found)
            snapshot = await self.database.read("look for keys", work)
        except StoreUnavailable:
            return
        if snapshot is not None and self.feed.version == known:  # else it may be older than what is told by now
            self.feed.publish(snapshot)

    def keep_up(self, stay: Stay) -> Callable[[web.Application], AsyncIterator[None]]:
        """A `cleanup_ctx`: looks and counts while the application runs, and closes what is here at its end."""

        async def repeat(act: Callable[[], Awaitable[None]], seconds: float) -> None:
            while True:
                try:
                    await act()
                except Exception as error:  # the next one must come
                    log("keeping up failed", level=logging.ERROR, **exception_fields(error))
                await asyncio.sleep(seconds)

        async def read_configurations() -> None:
            self.catalogue.look()

        async def note() -> None:
            with suppress(StoreUnavailable):
                await self.note_heard()

        async def renew() -> None:
            with suppress(StoreUnavailable):
                await self.renew()

        async def leave() -> None:
            await stay.until_asked_to_leave()
            self.feed.close()  # or its polls would hold up the leaving

        async def context(_: web.Application) -> AsyncIterator[None]:
            tasks = [
                asyncio.create_task(repeat(read_configurations, LOOK_EVERY)),
                asyncio.create_task(repeat(self.look, LOOK_EVERY)),
                asyncio.create_task(repeat(self.count, _COUNT_EVERY)),
                asyncio.create_task(repeat(note, _NOTE_EVERY)),
                asyncio.create_task(repeat(renew, _RENEW_EVERY)),
                asyncio.create_task(leave()),
            ]
            yield
            self.feed.close()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await asyncio.gather(*self._changes, return_exceptions=True)
            await asyncio.to_thread(self.database.close)

        return context


def _tell_of_failure(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or isinstance(error := task.exception(), StoreUnavailable):
        return  # that the store is away is told once, and not by each post that its proxy gave up
    if error is not None:
        log("what nobody waited for any more failed", level=logging.ERROR, **exception_fields(error))
