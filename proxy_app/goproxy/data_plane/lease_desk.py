"""The leases of this proxy: requests are held against them, and one conversation with the control plane keeps them up.

More is asked for ahead of need, so that a request seldom waits for it; what lies idle is given back, and at once when
another proxy wants it. A request that does not fit waits a moment: for a bigger lease, for other proxies to give back,
for one before it to be settled.

Every total goes into the journal: a higher one before a hold that relies on it, since no later record is on the disk
before an earlier one; a lower one before the control plane is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from goproxy.core.lease import WALLETS_PER_CALL, Lease
from goproxy.core.ledger import Hold, Row
from goproxy.core.wallet_name import OF_KEY
from goproxy.data_plane.control_client import (
    BackOff,
    ControlClient,
    ControlPlaneAway,
    ControlPlaneRefuses,
    LeaseAnswer,
    LeaseCall,
)
from goproxy.data_plane.journal import Journal
from goproxy.data_plane.kept_lease import KeptLease

_AGAIN = 0.1
"""Seconds between two calls for what was not to be had."""

_AHEAD_AGAIN = 1.0
"""The same for what nobody waits for yet."""

_LOOK_EVERY = 1.0
"""Seconds between two looks at all leases that are not at rest."""

_AT_ONCE = 500
"""Leases that are looked at in one turn of the event loop: a millisecond."""

_RECALL = 0.5
"""Seconds that a request waits for other proxies to give back, once the control plane had too little for it."""

_STARTS = 10**9
"""More calls than one process makes: the sequences of a later one are above its own."""

_Waiting = Mapping[str, Sequence[int]]
"""The amounts of those who wait, in the order in which they came, by wallet."""

Renew = Callable[[], Awaitable[Mapping[str, int]]]
"""Makes the journal another instance's; the result is what that one has spent, by wallet. Fails as a call does."""


class InsufficientFunds(Exception):
    """A wallet does not have what a request may cost. Amounts are in nano-dollars."""

    def __init__(self, wallet: str, needed: int, free: int) -> None:
        super().__init__(f"{wallet}: {needed} nano-dollars are needed, {free} are free")
        self.wallet = wallet
        self.needed = needed
        self.free = free
        """What is neither spent nor held for running requests, as far as this proxy knows."""


class LeaseUnavailable(Exception):
    """The lease does not cover a request, and the control plane, which might lend more, is away."""


class _Forgetful(Exception):
    """The control plane knows of rows of this instance that the instance does not know of: its journal was restored."""


class LeaseDesk:
    """Holds and settles against the leases."""

    def __init__(
        self,
        journal: Journal,
        control: ControlClient,
        leases: Iterable[Lease],
        *,
        start: int,
        lease_wait: float,
        idle_after: float,
        is_disowned: bool = False,
    ) -> None:
        self._journal = journal
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._kept = {lease.wallet: KeptLease(lease, self._loop.time()) for lease in leases}
        self._sequence = start * _STARTS
        self._lease_wait = lease_wait
        self._idle_after = idle_after
        self._waiters: list[_Waiter] = []
        self._wake = asyncio.Event()
        self._active = set(self._kept)
        """Wallets whose lease is not at rest, as far as is known: with tens of thousands, most are."""
        self._low: set[str] = set()
        """Wallets to look at soon. All active ones are looked at every second."""
        self._looked_at = -_LOOK_EVERY
        self._is_leaving = False
        self._is_disowned = is_disowned
        """Whether this proxy must become another instance before it is lent anything."""
        self._back_off = BackOff("leases")

    @property
    def free(self) -> int:
        """Leased and not held, over all accounts' wallets, in nano-dollars. (Of a lease at rest nothing is.)"""
        return sum(self._kept[wallet].lease.free for wallet in self._active if not wallet.startswith(OF_KEY))

    @property
    def problem(self) -> str | None:
        """Why the control plane gives no answer at the moment."""
        return self._back_off.problem

    @property
    def untold(self) -> int:
        """Wallets of which the control plane may not know what is known here."""
        return sum(not self._kept[wallet].is_told for wallet in self._active)

    async def hold(self, hold: Hold) -> None:
        """Set the worst case of a request aside in each of its wallets, or in none.

        Raises:
            InsufficientFunds: one of them does not have it.
            LeaseUnavailable: the control plane could not be asked.
        """
        if self._place(hold):
            return
        waiter = _Waiter(hold)
        self._waiters.append(waiter)
        self._wake.set()
        try:
            async with asyncio.timeout(self._lease_wait):
                await waiter.placed
        except TimeoutError:
            if waiter.is_placed:
                return
            if waiter.short_since is not None:
                raise self._insufficient(hold) from None
            raise LeaseUnavailable(f"The control plane is away: {self.problem}.") from None
        except asyncio.CancelledError:
            if waiter.is_placed:
                self.release(hold)
            raise
        finally:
            self._waiters.remove(waiter)

    def settle(self, row: Row) -> None:
        """Spend what a request cost; what is left of its hold is free again."""
        for wallet in row.wallets:
            self._of(wallet).lease.settle(row.id, row.cost_nanodollars)
        if self._waiters:
            self._serve()

    def release(self, hold: Hold) -> None:
        """The request of a hold is not sent: all of it is free again."""
        for wallet in hold.wallets:
            self._of(wallet).lease.settle(hold.id, 0)
        self._serve()

    def recall(self, wallets: Iterable[str]) -> None:
        """Other proxies want what is free in these wallets."""
        for wallet in wallets:
            if wallet in self._kept and self._kept[wallet].lease.free > 0:
                self._kept[wallet].is_recalled = True
                self._mark(wallet)

    async def run(self, renew: Renew) -> None:
        """Keep the leases up for ever."""
        while True:
            self._wake.clear()
            try:
                said = False
                if self._journal.problem is None:
                    if self._is_disowned:
                        await self._begin_anew(renew)
                    said = await self._converse()
            except _Forgetful as error:
                self._disown()
                await self._rest(error)  # it may say so of the next one, too
            except (ControlPlaneAway, ControlPlaneRefuses) as error:
                if isinstance(error, ControlPlaneRefuses) and error.is_conflict:
                    self._disown()
                await self._rest(error)
            else:
                if not said:
                    await self._nap(_AGAIN if self._waiters else _LOOK_EVERY)
            self._dismiss()

    async def give_all_back(self) -> None:
        """The proxy leaves: what is free is for others.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses: they will hear of it when it is back.
        """
        self._is_leaving = True
        for wallet in self._active:
            self._kept[wallet].is_recalled = True
        self._low.update(self._active)
        with suppress(_Forgetful):  # what it was lent is not known then; the next process begins anew
            while await self._converse():
                self._low.update(self._active)

    async def _converse(self) -> bool:
        """Make one call, if there is something to say."""
        due = await self._due()
        if not due:
            return False
        now = self._loop.time()
        self._active.update(kept.lease.wallet for kept in due)
        lowered = []
        for kept in due:
            if kept.has_idle(now - self._idle_after):
                total = kept.give_back(now)
                lowered.append(self._journal.lease(kept.lease.wallet, total))
            kept.is_recalled = kept.is_told = False
        await asyncio.gather(*lowered)
        calls, waiting = [], self._waiting()
        for kept in due:
            kept.asked, kept.asked_at = self._wanted(kept, waiting), now
            calls.append(LeaseCall(kept.lease.wallet, kept.lease.granted_total, kept.asked))
        self._sequence += 1
        answers = await self._control.lease(self._journal.instance, self._sequence, calls)
        self._take(calls, answers)
        self._back_off.succeeded()
        return True

    def _take(self, calls: Sequence[LeaseCall], answers: Sequence[LeaseAnswer]) -> None:
        by_wallet = {answer.wallet: answer for answer in answers}
        for call in calls:
            kept, answer = self._kept[call.wallet], by_wallet.get(call.wallet)
            if answer is None:
                raise ControlPlaneAway("its answer leaves out what was asked")
            if answer.spent_total > kept.lease.spent_total:
                # What is settled here is posted later: it is never told more than we know of.
                raise _Forgetful("it knows of rows of this proxy that the proxy does not know of")
            kept.is_told, kept.balance = True, answer.balance
            kept.was_short = answer.granted_total < call.known_total + call.want
            if answer.granted_total != kept.lease.granted_total:
                self._journal.lease(call.wallet, answer.granted_total)
                kept.lease.grant(answer.granted_total)
        self._serve()
        for waiter in self._waiters:
            hold = waiter.hold
            if waiter.short_since is None and any(self._is_short(wallet, hold) for wallet in hold.wallets):
                waiter.short_since = self._loop.time()

    async def _due(self) -> list[KeptLease]:
        """Those of which there is something to say, the most urgent first, and no more than one call has room for."""
        now, waiting = self._loop.time(), self._waiting()
        low, self._low = self._low, set()
        soon = dict.fromkeys([*waiting, *low])
        due = [kept for kept in map(self._of, soon) if self._is_due(kept, waiting, now)]
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            for number, wallet in enumerate(list(self._active), 1):
                if len(due) >= WALLETS_PER_CALL:
                    break
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                kept = self._kept[wallet]
                if kept.is_at_rest(now):
                    self._active.discard(wallet)
                elif wallet not in soon and self._is_due(kept, waiting, now):
                    due.append(kept)
        return due[:WALLETS_PER_CALL]

    def _is_due(self, kept: KeptLease, waiting: _Waiting, now: float) -> bool:
        if not kept.is_told or kept.has_idle(now - self._idle_after):
            return True
        wanted = self._wanted(kept, waiting)
        if not wanted:
            return False
        again = _AGAIN if kept.lease.wallet in waiting else _AHEAD_AGAIN
        return not kept.was_short or wanted < kept.asked or now - kept.asked_at >= again

    def _wanted(self, kept: KeptLease, waiting: _Waiting) -> int:
        """How much more is needed of a wallet, in nano-dollars.

        The control plane lends all that is wanted or nothing. So no more is wanted than it had left when it was last
        heard: for as many of those who wait as that is enough for. Is it enough for none, the first one asks on.
        """
        lease, balance = kept.lease, kept.balance
        amounts = waiting.get(lease.wallet)
        if not amounts:
            is_low = kept.is_low(self._loop.time()) and not self._is_leaving
            ahead = lease.wanted(kept.need(self._loop.time())) if is_low else 0
            return ahead if balance is None else min(ahead, max(0, balance))
        total = 0
        for amount in amounts:
            if balance is None or lease.wanted(total + amount) <= balance:
                total += amount
        return lease.wanted(total or amounts[0])

    def _waiting(self) -> _Waiting:
        waiting: dict[str, list[int]] = {}
        for waiter in self._waiters:
            if waiter.is_waiting:
                for wallet in waiter.hold.wallets:
                    waiting.setdefault(wallet, []).append(waiter.hold.amount)
        return waiting

    def _mark(self, wallet: str) -> None:
        self._low.add(wallet)
        self._wake.set()

    def _place(self, hold: Hold) -> bool:
        amount, touched = hold.amount, [self._kept.get(wallet) or self._of(wallet) for wallet in hold.wallets]
        for kept in touched:
            if kept.lease.free < amount:
                return False
        now = self._loop.time()
        for kept in touched:
            kept.lease.hold(hold.id, amount)
            kept.use(now)
            self._active.add(kept.lease.wallet)
            if kept.is_low(now):
                self._mark(kept.lease.wallet)
        return True

    def _serve(self) -> None:
        """Place those who wait and fit now, in the order in which they came."""
        for waiter in self._waiters:
            if waiter.is_waiting and self._place(waiter.hold):
                waiter.placed.set_result(None)

    def _dismiss(self) -> None:
        """Tell those for whom nobody gave anything back that there is not enough."""
        now = self._loop.time()
        for waiter in self._waiters:
            if waiter.is_waiting and waiter.short_since is not None and now - waiter.short_since >= _RECALL:
                waiter.placed.set_exception(self._insufficient(waiter.hold))

    def _is_short(self, wallet: str, hold: Hold) -> bool:
        kept = self._of(wallet)
        return kept.was_short and kept.lease.wanted(hold.amount) > 0

    def _insufficient(self, hold: Hold) -> InsufficientFunds:
        wallet = next((each for each in hold.wallets if self._is_short(each, hold)), hold.wallets[0])
        kept = self._of(wallet)
        return InsufficientFunds(wallet, hold.amount, max(0, kept.lease.free) + max(0, kept.balance or 0))

    def _disown(self) -> None:
        """The control plane knows of later calls or of more rows of this instance: our journal was restored, or there
        are two of it. Or it has given the instance up.

        What this instance was lent is not known to us then, so that we go on as another, which was lent nothing yet.
        """
        self._is_disowned = True
        for kept in self._kept.values():
            kept.lease.granted_total = 0

    async def _begin_anew(self, renew: Renew) -> None:
        spent = await renew()
        self._is_disowned = False
        for kept in self._kept.values():
            kept.lease.spent_total = spent.get(kept.lease.wallet, 0)
        self._active.update(self._kept)

    def _of(self, wallet: str) -> KeptLease:
        kept = self._kept.get(wallet)
        if kept is None:
            kept = self._kept[wallet] = KeptLease(Lease(wallet), self._loop.time())
        return kept

    async def _rest(self, error: Exception) -> None:
        """The control plane is away. Who comes now has it asked sooner, but not before a first pause."""
        pause = self._back_off.failed(error)
        self._looked_at = -_LOOK_EVERY
        await asyncio.sleep(min(pause, _AGAIN))
        await self._nap(pause - _AGAIN)

    async def _nap(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()


class _Waiter:
    """A request that does not fit yet."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.placed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.short_since: float | None = None
        """Since when the control plane is known to have too little for it."""

    @property
    def is_waiting(self) -> bool:
        return not self.placed.done()

    @property
    def is_placed(self) -> bool:
        return self.placed.done() and not self.placed.cancelled() and self.placed.exception() is None
