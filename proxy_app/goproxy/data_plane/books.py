"""The books of this proxy: what requests hold and cost, from before they are sent until the control plane knows.

This is all that serving a request needs of billing. It relies on this proxy's own disk; the control plane may be away
for as long as leases and keys last. A process that ends in the middle of requests leaves their holds in the journal,
and the next one makes one `interrupted` row of each.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path

import aiohttp

from goproxy.config import Config
from goproxy.core.journal_state import Unposted
from goproxy.core.key_snapshot import KeySnapshot
from goproxy.core.lease import Lease, spent_by_wallet
from goproxy.core.ledger import Hold, Row, interrupted
from goproxy.core.pricing import REQUIRED_PRICES, PriceVersion, Tier
from goproxy.core.usage import Usage
from goproxy.data_plane.control_client import ControlClient, ControlPlaneAway, ControlPlaneRefuses
from goproxy.data_plane.journal import Journal, JournalUnwritable, Told
from goproxy.data_plane.key_poll import KeyPoll
from goproxy.data_plane.lease_desk import InsufficientFunds, LeaseDesk, LeaseUnavailable
from goproxy.data_plane.row_post import RowPost
from goproxy.data_plane.statements import Statements
from goproxy.observe import exception_fields, log
from goproxy.timestamps import now, seconds_since

__all__ = ["Books", "InsufficientFunds", "JournalUnwritable", "LeaseUnavailable", "NotHeld", "Standing", "books_for"]

_LEASE_WAIT = 5.0
"""Seconds that a request waits for a bigger lease."""

_IDLE_AFTER = 30.0
"""Seconds after which an unused lease is given back."""

_BACKLOG_BYTES = 64 * 1024 * 1024
"""Rows that may wait in memory for the control plane: tens of thousands. More are not begun."""

_KEYS = "keys.json"

_LAST_CALLS = 3.0
"""Seconds for the last rows and the leases to reach the control plane when the proxy leaves."""

NotHeld = InsufficientFunds | LeaseUnavailable | JournalUnwritable
"""Why the worst case of a request could not be set aside."""

Interrupt = Callable[[Hold, Usage | None], Row]
"""The row of a request that a former process left open, from what it had used as far as that was noted."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How the books stand. Money is in nano-dollars."""

    open_requests: int
    held: int
    free: int
    """Leased and not held, over all accounts' wallets."""
    unposted_rows: int
    unposted_bytes: int
    unposted_age: float
    """Seconds since the oldest of them was settled; 0 if there is none."""
    unsettled_rows: int
    """Rows that the disk does not have yet."""
    unsettled_age: float
    journal_problem: str | None
    journal_syncs: int
    journal_damaged: int
    control_problem: str | None
    keys_age: float


class Books:
    """Holds, rows, leases and keys of one proxy."""

    def __init__(
        self,
        journal: Journal,
        control: ControlClient,
        interrupt: Interrupt,
        keys_path: Path,
        *,
        keys_beside: Iterable[Path] = (),
        lease_wait: float = _LEASE_WAIT,
        idle_after: float = _IDLE_AFTER,
        backlog_bytes: int = _BACKLOG_BYTES,
    ) -> None:
        self._journal = journal
        self._control = control
        self._interrupt = interrupt
        self._keys_path = keys_path
        self._keys_beside = keys_beside
        self._lease_wait = lease_wait
        self._idle_after = idle_after
        self._backlog_bytes = backlog_bytes
        self.statements = Statements(control.statement)
        self.interrupted: Sequence[Row] = ()
        """Requests that a former process left open."""
        self.has_told_all = False
        """After `close`: whether the control plane has all rows that it takes, and what this instance was lent."""
        self._open: dict[str, Hold] = {}
        self._unsettled: dict[str, tuple[Row, asyncio.Future[bytes]]] = {}
        """Rows that are on their way to the disk."""
        self._was_damaged = False
        self._tasks: list[asyncio.Task[None]] = []
        self._desk: LeaseDesk
        self._post: RowPost
        self._poll: KeyPoll

    async def start(self) -> None:
        """Read the journal, end what a former process left open, and begin to talk to the control plane.

        Raises:
            JournalInUse: another process has the journal.
            JournalUnwritable: its directory can be neither read nor made.
        """
        recovered = await self._journal.start()
        spent = Counter(recovered.spent_totals)
        left_open = [self._interrupt(hold, progress) for hold, progress in recovered.holds]
        self.interrupted = left_open
        spent.update(spent_by_wallet((row.wallets, row.cost_nanodollars) for row in left_open))
        leases = [
            Lease(wallet, granted_total=recovered.granted_totals.get(wallet, 0), spent_total=spent[wallet])
            for wallet in recovered.granted_totals.keys() | spent.keys()
        ]
        self._desk = LeaseDesk(
            self._journal,
            self._control,
            leases,
            start=recovered.start,
            lease_wait=self._lease_wait,
            idle_after=self._idle_after,
            is_disowned=recovered.is_disowned,
        )
        self._was_damaged = recovered.is_disowned
        self._post = RowPost(self._journal, self._control, recovered.unposted)
        self._poll = KeyPoll(self._journal, self._control, self._keys_path, self._keys_beside, self._desk.recall)
        try:
            await self._poll.start()
        except BaseException:  # who is cancelled leaves the journal to others
            await self._journal.close()
            raise
        for row in left_open:
            self._write(row)
            log(
                "request",
                request_id=row.id,
                upstream=row.upstream,
                protocol=row.protocol,
                account=row.account,
                model=row.model,
                stream=row.stream,
                outcome=row.outcome,
                settlement=row.settlement,
                cost_nanodollars=row.cost_nanodollars,
            )
        log(
            "journal read",
            instance=recovered.instance,
            start=recovered.start,
            interrupted=len(left_open),
            unposted=len(recovered.unposted),
        )
        for work in (partial(self._desk.run, self._renew), self._post.run, self._poll.run):
            self._tasks.append(asyncio.create_task(_keep_up(work)))

    async def close(self) -> None:
        """Post the last rows, give the leases back, and close the journal. No request may be open any more."""
        self.statements.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_LAST_CALLS):
                await asyncio.gather(*(written for _, written in self._unsettled.values()))
                while await self._post.post():
                    pass
                if self._journal.problem is None:
                    await self._desk.give_all_back()
                    self.has_told_all = not self._desk.untold
        except (TimeoutError, ControlPlaneAway, ControlPlaneRefuses) as error:
            log("leaving without the control plane's last word", problem=str(error), unposted=len(self._post))
        await self._journal.close()

    async def open(self, hold: Hold) -> None:
        """On return the worst case of a request is held and on the disk: it may be sent to the upstream.

        Whoever is cancelled in here holds nothing.

        Raises:
            InsufficientFunds: a wallet does not have it.
            LeaseUnavailable: the control plane is away, and the lease does not cover it.
            JournalUnwritable: the disk does not take it.
        """
        if self._post.bytes > self._backlog_bytes:
            raise LeaseUnavailable("The control plane is away, and too many rows wait for it.")
        if (problem := self._journal.problem) is not None:
            raise JournalUnwritable(f"The journal cannot be written: {problem}")
        await self._desk.hold(hold)
        try:
            await self._journal.open(hold)
        except BaseException:
            self._desk.release(hold)
            raise
        self._open[hold.id] = hold

    def void(self, id: str) -> None:  # noqa: A002 - the request's id, as in a row
        """The request of a hold was not sent to the upstream after all: there will be no row."""
        self._desk.release(self._open.pop(id))
        self._journal.void(id)

    def progress(self, id: str, usage: Usage, terms: str) -> None:  # noqa: A002
        """Note what an open request has used so far, on which terms: what is charged should this process end now."""
        if id in self._open:
            self._journal.progress(id, usage, terms)

    def settle(self, row: Row, told: Told | None = None) -> asyncio.Future[bytes]:
        """Spend what a request cost, and release the rest of its hold. Done when the row is on the disk.

        It is settled once even if this is called twice. A disk that does not take the row is tried until it does; the
        row is in memory until then. Whoever waits and may be cancelled must shield this.
        """
        if self._open.pop(row.id, None) is None:
            log("request is settled already, or was never opened", level=logging.ERROR, request_id=row.id)
            nothing: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            nothing.set_result(b"")
            if told is not None:
                nothing.add_done_callback(told)
            return nothing
        self._desk.settle(row)
        return self._write(row, told)

    async def prepare_for_another_start(self) -> None:
        """Have it read no more of the journal than what is live now, and what comes after it."""
        await self._journal.begin_segment()

    @property
    def keys(self) -> KeySnapshot:
        """The keys that are let in."""
        return self._poll.snapshot

    @property
    def keys_age(self) -> float:
        """Seconds since the control plane said so; infinite if it never did."""
        return self._poll.age

    @property
    def is_settled(self) -> bool:
        """Whether the control plane has all rows that it takes, and has answered what it knows of the leases."""
        return not (self._unsettled or self._post.postable or self._desk.untold)

    @property
    def left(self) -> tuple[int, str | None]:
        """Rows that the control plane does not have, and when the first of them was settled."""
        return len(self._post), self._post.oldest

    @property
    def standing(self) -> Standing:
        """For metrics and readiness."""
        return Standing(
            open_requests=len(self._open),
            held=sum(hold.amount for hold in self._open.values()),
            free=self._desk.free,
            unposted_rows=len(self._post),
            unposted_bytes=self._post.bytes,
            unposted_age=_age(self._post.oldest),
            unsettled_rows=len(self._unsettled),
            unsettled_age=_age(next((row.settled_at for row, _ in self._unsettled.values()), None)),
            journal_problem=self._journal.problem,
            journal_syncs=self._journal.syncs,
            journal_damaged=self._journal.damaged,
            control_problem=self._desk.problem or self._post.problem or self._poll.problem,
            keys_age=self.keys_age,
        )

    def _write(self, row: Row, told: Told | None = None) -> asyncio.Future[bytes]:
        def pass_on(done: asyncio.Future[bytes]) -> None:
            if done.exception() is None:
                del self._unsettled[row.id]
                self._post.add(row.id, Unposted(done.result(), row.wallets, row.cost_nanodollars))
            if told is not None:
                told(done)

        written = self._journal.settle(row, pass_on)
        self._unsettled[row.id] = row, written
        return written

    async def _renew(self) -> dict[str, int]:
        """Become another instance, between two posts: rows are spent by the instance that posts them.

        The former one posts its rows before. Should the control plane have some of them already (their answer was
        lost, or our journal is of a backup, or is damaged where it said so), nobody would spend them there, and another
        instance here.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses: they cannot be posted now; the instance is the former one.
        """
        if self._was_damaged and self._unsettled:  # what was left open may be settled there
            await asyncio.wait([written for _, written in self._unsettled.values()])
        try:
            await self._post.post_all()
        except ControlPlaneRefuses as refusal:
            if not refusal.is_conflict:  # else it is another upstream's instance there, and has posted nothing of ours
                raise
        async with self._post.posting:
            log("this proxy begins a new instance", level=logging.ERROR, former_instance=self._journal.instance)
            self._journal.renew()
            self._was_damaged = False
            spent = self._post.spent()
            spent.update(spent_by_wallet((row.wallets, row.cost_nanodollars) for row, _ in self._unsettled.values()))
            return spent


def interruption(config: Config) -> Interrupt:
    """How requests of this configuration are charged that a former process left open."""

    def interrupt(hold: Hold, progress: Usage | None) -> Row:
        model = config.models_by_name.get(hold.model)
        if model is not None:
            versions, multiplier = model.prices, model.billing_multiplier
            return interrupted(hold, progress=progress, settled_at=now(), versions=versions, multiplier=multiplier)
        # The model has left the configuration since. The row says what was used, and can be rated by whoever knows.
        gratis = Tier(None, dict.fromkeys(REQUIRED_PRICES, Decimal(0)))
        versions = (PriceVersion(date.fromisoformat(hold.opened_at[:10]), (gratis,)),)
        row = interrupted(hold, progress=progress, settled_at=now(), versions=versions, multiplier=Decimal(1))
        return dataclasses.replace(row, flags=tuple(sorted({*row.flags, "unpriced"})))

    return interrupt


@asynccontextmanager
async def books_for(
    config: Config, directory: Path, backend_url: str, token: str, beside: Iterable[Path] = ()
) -> AsyncIterator[Books]:
    """The books of the upstream of `config`, with their journal in `directory`.

    `beside`: the directories of other instances, which may have heard of keys later.

    Raises:
        JournalInUse, JournalUnwritable: see `Books.start`.
    """
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        control = ControlClient(session, backend_url, token, config.upstream)
        keys_beside = [path / _KEYS for path in beside]
        books = Books(Journal(directory), control, interruption(config), directory / _KEYS, keys_beside=keys_beside)
        await books.start()
        try:
            yield books
        finally:
            await books.close()


def _age(settled_at: str | None) -> float:
    if settled_at is None:
        return 0.0
    return seconds_since(settled_at)


async def _keep_up(work: Callable[[], Awaitable[None]]) -> None:
    """Do what is never done; a fault in it must not be the end of it."""
    while True:
        try:
            await work()
        except Exception as error:
            log("keeping the books failed; it goes on", level=logging.CRITICAL, **exception_fields(error))
            await asyncio.sleep(1)
