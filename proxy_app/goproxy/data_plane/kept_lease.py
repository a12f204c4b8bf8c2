"""One lease as lease_desk.py keeps it up: what is needed of it, what lies idle, what the control plane said last."""

from __future__ import annotations

from goproxy.core.lease import Lease

_LATELY = 10.0
"""Seconds; the most that was held at once is that of the last one to two of these."""

_LASTS = 2.0
"""Seconds that a lease should last at the pace at which it is spent, so that requests need not wait for the next."""

_PACE_EVERY = 0.5
_PACE_FADES = 0.7
"""The pace is looked at so often, in seconds; a slower one replaces a faster one step by step, a faster one at once."""

_MANY = 5
"""Requests in that time, of which it can be said that they have a pace."""


class KeptLease:
    """The lease of one wallet. Points in time are on the event loop's clock."""

    def __init__(self, lease: Lease, now: float) -> None:
        self.lease = lease
        self.balance: int | None = None
        """What was left to lend when the control plane last said so."""
        self.is_told = False
        """Whether the control plane knows what this proxy knows of the lease: not after a call without an answer."""
        self.is_recalled = False
        self.asked = 0
        self.asked_at = now
        self.was_short = False
        """Whether the last answer was not all that was asked for."""
        self._used_at = now
        self._since = now
        self._ahead_from = now
        self._peak = self._peak_before = 0
        self._paced_at = now
        self._paced_from = lease.spent_total
        self._uses = 0
        self._pace = 0
        """What is spent in the time that the lease should last."""
        self._turns_at = now

    def use(self, now: float) -> None:
        """Note that something is held now."""
        if now >= self._turns_at:
            self._turn(now)
        if (held := self.lease.held) > self._peak:
            self._peak = held
        self._uses += 1
        self._used_at = now

    def need(self, now: float) -> int:
        """The most that was held at once of late, and what is spent while more is asked for."""
        if now >= self._turns_at:
            self._turn(now)
        return max(self._peak, self._peak_before) + self._pace

    def is_low(self, now: float) -> bool:
        """Whether less than half of the need is free, so that it is time to ask ahead."""
        return now >= self._ahead_from and self.lease.free < self.need(now) // 2

    def give_back(self, now: float) -> int:
        """Give back what is free, and ask for nothing ahead for a while: others shall have it. The new total."""
        self._ahead_from = now + _LATELY
        return self.lease.give_back(self.lease.free)

    def has_idle(self, used_before: float) -> bool:
        """Whether something is free that is to be given back."""
        is_idle = self._used_at <= used_before and not self.lease.held
        return self.lease.free > 0 and (is_idle or self.is_recalled)

    def is_at_rest(self, now: float) -> bool:
        """Whether there is nothing to do for it until it is used again."""
        lease = self.lease
        return self.is_told and not (self.is_recalled or lease.free or lease.held or self.need(now))

    def _turn(self, now: float) -> None:
        """Look at pace and peak; it is time to."""
        if (elapsed := now - self._paced_at) >= _PACE_EVERY:
            spent = self.lease.spent_total - self._paced_from if self._uses >= _MANY else 0
            faded = _PACE_FADES ** (elapsed / _PACE_EVERY)
            self._pace = max(int(spent * _LASTS / elapsed), int(self._pace * faded))
            self._paced_at, self._paced_from, self._uses = now, self.lease.spent_total, 0
        while now - self._since >= _LATELY and (self._peak or self._peak_before):
            self._peak_before, self._peak = self._peak, self.lease.held
            self._since += _LATELY
        if now - self._since >= _LATELY:
            self._since = now
        self._turns_at = min(self._paced_at + _PACE_EVERY, self._since + _LATELY)
