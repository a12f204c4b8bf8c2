"""Lending parts of a wallet: what a proxy may hold without asking, and what the control plane has left to lend.

A wallet's credits are in three places: the balance, which nobody may use but the control plane; what is held, by a
proxy that was lent it; and what is spent. `credits = balance + held + spent` at every moment, seen from the control
plane. A lease is told as one ascending total since the beginning of its proxy, never as an amount to add: an answer
that was lost, or that comes twice, then changes nothing.

Amounts are integer nano-dollars. Nothing here waits, asks or stores: the callers do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MOST = 2**62
"""Nano-dollars that a wallet can have been credited, and a proxy can name: the databases' integers have 64 bits."""

WALLETS_PER_CALL = 200
"""For so many a proxy asks at once, and of so many the control plane lends at once: one transaction locks them all."""


def spent_by_wallet(paid: Iterable[tuple[Iterable[str], int]]) -> Counter[str]:
    """What requests cost, by wallet; given are each one's wallets and its cost, which is spent of all of them."""
    spent: Counter[str] = Counter()
    for wallets, cost in paid:
        for wallet in wallets:
            spent[wallet] += cost
    return spent


class Lease:
    """The proxy's side: what one proxy was lent of one wallet, and what it does with it.

    Never more is held than was lent. A cost above its hold is spent all the same (the upstream has sent its answer),
    and `free` shows it by falling below 0.
    """

    __slots__ = ("_holds", "granted_total", "held", "spent_total", "wallet")

    def __init__(
        self,
        wallet: str,
        *,
        granted_total: int = 0,
        spent_total: int = 0,
        holds: Mapping[str, int] | Iterable[tuple[str, int]] = (),
    ) -> None:
        self.wallet = wallet
        self.granted_total = granted_total
        """All that this proxy was ever lent, less what it gave back: as the control plane told it last."""
        self.spent_total = spent_total
        self._holds = dict(holds)
        self.held = sum(self._holds.values())
        """Set aside for requests that are on their way."""

    @property
    def free(self) -> int:
        """What can be held; below 0 where requests cost more than their holds."""
        return self.granted_total - self.spent_total - self.held

    def hold(self, id: str, amount: int) -> bool:  # noqa: A002 - the request's id, as in a row
        """Set the worst case of a request aside, if it is free.

        Raises:
            ValueError: the request has a hold already.
        """
        if id in self._holds:
            raise ValueError(f"{id} is held already")
        if amount > self.granted_total - self.spent_total - self.held:
            return False
        self._holds[id] = amount
        self.held += amount
        return True

    def settle(self, id: str, cost: int) -> None:  # noqa: A002
        """Spend the actual cost of a request; what is left of its hold is free again.

        Raises:
            KeyError: nothing is held for it. It was settled before, and a request is settled once.
        """
        self.held -= self._holds.pop(id)
        self.spent_total += cost

    def wanted(self, amount: int) -> int:
        """What must be lent on top before `amount` can be held."""
        return max(0, amount - self.free)

    def grant(self, total: int) -> None:
        """Take the total that the control plane answered.

        Only the answer to the last call counts: one to an earlier call that comes late may be undone already, and must
        be dropped by the caller. In the journal, the total stands before the first hold that uses it.
        """
        self.granted_total = total

    def give_back(self, amount: int) -> int:
        """Stop using a part of what is free; the new total, to be told to the control plane as `known_total`.

        It must be on disk before it is told: a proxy that forgot it in a crash would use what others were lent since.

        Raises:
            ValueError: that much is not free.
        """
        if not 0 <= amount <= max(0, self.free):
            raise ValueError(f"{amount} of {self.wallet} cannot be given back: {self.free} is free")
        self.granted_total -= amount
        return self.granted_total


@dataclass(slots=True)
class Loan:
    """What one proxy instance was lent of a wallet, and what of it is known to be spent."""

    granted_total: int = 0
    spent_total: int = 0

    @property
    def held(self) -> int:
        """With the proxy, and not known to be spent."""
        return self.granted_total - self.spent_total


class Wallet:
    """The control plane's side: the credits of one wallet, and what each proxy instance was lent of them."""

    __slots__ = ("credits", "loans")

    def __init__(self, credits: int = 0, loans: Mapping[str, Loan] | None = None) -> None:  # noqa: A002
        self.credits = credits
        self.loans = dict(loans or {})
        """By instance."""

    @property
    def balance(self) -> int:
        """What can be lent; below 0 where requests cost more than their holds."""
        return self.credits - sum(loan.granted_total for loan in self.loans.values())

    @property
    def held(self) -> int:
        """What the proxies have, and did not report as spent."""
        return sum(loan.held for loan in self.loans.values())

    @property
    def spent(self) -> int:
        """By all rows that came."""
        return sum(loan.spent_total for loan in self.loans.values())

    def credit(self, amount: int) -> None:
        """Add to the credits, or take from them (below 0).

        Raises:
            ValueError: more would be taken than the balance has.
        """
        if amount < 0 and -amount > self.balance:
            raise ValueError(f"{-amount} cannot be taken: the balance is {self.balance}")
        self.credits += amount

    def is_exceeded(self, instance: str, known_total: int) -> bool:
        """Whether an instance knows of more than it was lent, so that its journal, or what is here, is of a backup.

        What it gave back since may be another's. One that nothing is known of is believed.
        """
        loan = self.loans.get(instance)
        return loan is not None and known_total > loan.granted_total

    def lend(self, instance: str, known_total: int, want: int, chunk: int) -> int:
        """Lend `want` more to an instance that knows of `known_total`; its new total.

        What the instance says it knows comes first: a loan whose answer it never got is undone, a lower total than it
        had is a return. Then `want` is lent whole or not at all, for a part of a hold is of no use. Up to `chunk` is
        lent on top so that the next requests need not ask, but never more than a quarter of what is left, so that the
        other proxies find something too.
        """
        loan = self.loans.setdefault(instance, Loan())
        loan.granted_total = max(known_total, loan.spent_total)
        if 0 < want <= self.balance:
            loan.granted_total += want
            loan.granted_total += min(chunk, self.balance // 4)
        return loan.granted_total

    def spend(self, instance: str, cost: int) -> None:
        """Count the cost of a row. A cost above its hold is taken from the balance, be it below 0 then."""
        loan = self.loans.setdefault(instance, Loan())
        loan.spent_total += cost
        loan.granted_total = max(loan.granted_total, loan.spent_total)

    def retire(self, instance: str) -> int:
        """Take back what an instance that is gone for good did not spend; how much that was."""
        loan = self.loans.get(instance, Loan())
        left = loan.held
        loan.granted_total = loan.spent_total
        return left
