"""What a journal says, record after record: the holds that are open, the rows that wait to be posted, the leases.

A segment of the journal begins with a checkpoint, which says all of it. One that is whole replaces what was known
before; one with damage in it adds to that, which comes to the same where the segment before is still there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from goproxy.core.journal_record import (
    Checkpoint,
    Leased,
    Opened,
    Posted,
    Progressed,
    Reader,
    Record,
    Settled,
    Started,
    Synced,
    Voided,
    encode,
)
from goproxy.core.lease import spent_by_wallet
from goproxy.core.ledger import Hold
from goproxy.core.usage import Usage


@dataclass(slots=True)  # not frozen: that makes one several times as dear, for each request
class Unposted:
    """A row that the control plane has not acknowledged, as its line: that is small, and ready to be written again."""

    line: bytes
    wallets: tuple[str, ...]
    cost: int


@dataclass(slots=True)
class Lent:
    """What the instance was lent of one wallet, and what rows that are posted spent of it, in nano-dollars."""

    granted_total: int = 0
    spent_by_posted: int = 0


class JournalState:
    """All that is true by the records that were applied."""

    def __init__(self) -> None:
        self.instance: str | None = None
        self.start = 0
        self.holds: dict[str, Hold] = {}
        self.progress: dict[str, Usage] = {}
        self.unposted: dict[str, Unposted] = {}
        """In the order of settling."""
        self.lent: dict[str, Lent] = {}

    def apply(self, record: Record, line: bytes) -> None:
        """Take in what happened. What is known already changes nothing."""
        match record:  # fields by name: by position, each match leaves a string in CPython 3.11's cache of attributes
            case Opened(hold=hold):  # this and the next are told of every request
                if hold.id not in self.unposted:
                    self.holds[hold.id] = hold
            case Settled(row=row):
                self._close(row.id)
                self.unposted.setdefault(row.id, Unposted(line, row.wallets, row.cost_nanodollars))
            case Started(instance=instance, number=number):
                if instance != self.instance:
                    self.lent = {}
                self.instance, self.start = instance, number
            case Voided(id=id_):
                self._close(id_)
            case Progressed(id=id_, usage=usage, terms=terms):
                if (open_ := self.holds.get(id_)) is not None:
                    self.progress[id_] = usage
                    if terms is not None and terms != open_.terms:
                        self.holds[id_] = replace(open_, terms=terms)
            case Posted(ids=ids):
                for id_ in ids:
                    self._posted(id_)
            case Leased(wallet=wallet, granted_total=granted_total, spent_by_posted=spent_by_posted):
                lent = self.lent.setdefault(wallet, Lent())
                lent.granted_total = granted_total
                if spent_by_posted is not None:
                    lent.spent_by_posted = spent_by_posted
            case Checkpoint() | Synced():
                pass

    def take_back(self, id: str) -> None:  # noqa: A002 - the request's id, as in a row
        """Undo an `Opened` that could not be written."""
        self._close(id)

    def spent_totals(self) -> Counter[str]:
        """What the instance spent of each wallet since it was lent anything: by posted rows, and by those that wait."""
        spent = Counter({wallet: lent.spent_by_posted for wallet, lent in self.lent.items()})
        spent.update(spent_by_wallet((row.wallets, row.cost) for row in self.unposted.values()))
        return spent

    def checkpoint(self) -> bytes:
        """The head of a segment that says all of this."""
        lines: list[bytes] = []
        if self.instance is not None:
            lines.append(encode(Started(self.instance, self.start)))
        lines += [
            encode(Leased(wallet, lent.granted_total, lent.spent_by_posted)) for wallet, lent in self.lent.items()
        ]
        lines += [encode(Opened(hold)) for hold in self.holds.values()]
        lines += [encode(Progressed(id_, usage)) for id_, usage in self.progress.items()]
        lines += [row.line for row in self.unposted.values()]
        return b"".join([encode(Checkpoint(len(lines))), *lines])

    def _close(self, id_: str) -> None:
        self.holds.pop(id_, None)
        self.progress.pop(id_, None)

    def _posted(self, id_: str) -> None:
        self._close(id_)  # still open only if its row was hit by damage
        row = self.unposted.pop(id_, None)
        if row is not None:
            for wallet in row.wallets:
                self.lent.setdefault(wallet, Lent()).spent_by_posted += row.cost


def replay(segments: Iterable[Reader]) -> JournalState:
    """What the segments of a journal say, the newest first. Those before one that is whole are not asked for.

    Only what is live is kept of what is read: a segment may be long.
    """
    state = JournalState()
    damaged: list[Reader] = []
    for segment in segments:
        alone = _applied(JournalState(), segment)
        if not segment.damaged:
            state = alone
            break
        damaged.append(segment)
    for segment in reversed(damaged):
        _applied(state, segment)
    return state


def _applied(state: JournalState, segment: Reader) -> JournalState:
    for record, line in segment:
        state.apply(record, line)
    return state
