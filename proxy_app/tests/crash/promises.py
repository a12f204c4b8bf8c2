"""What the child was promised, by what it said, and whether a journal keeps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from goproxy.core.journal_record import Reader
from goproxy.core.journal_state import JournalState, replay
from goproxy.data_plane.journal_directory import JournalDirectory


@dataclass
class Broken:
    """Promises that were not kept."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    leases: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """Records that cannot be read, though no crash is damage."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.leases or self.damaged)

    def __iadd__(self, other: Broken) -> Broken:
        self.lost += other.lost
        self.doubled += other.doubled
        self.leases += other.leases
        self.damaged += other.damaged
        return self


class Promises:
    """All that was said by the processes that had one journal, one after the other."""

    def __init__(self) -> None:
        self.opened: set[str] = set()
        self.refused: set[str] = set()
        self._voided: set[str] = set()
        self._asked_cost: dict[str, int] = {}
        self._settled: dict[str, int] = {}
        self._posted: dict[str, set[int]] = {}
        self._totals = [0]
        self._sure = 0
        """The total at this place of `_totals`, or a later one, is in the journal."""
        self._instances: set[str] = set()
        self._starts: list[int] = []
        self._start = "", 0
        self._total_at_opening = 0

    def hear(self, said: Iterable[str]) -> None:
        """Take in what a process said; its last line may be missing."""
        for line in said:
            self.hear_line(line)

    def hear_line(self, line: str) -> None:
        """Take in one line."""
        match line.split():
            case ["started", instance, start]:
                self._start = instance, int(start)
            case ["opened", id_]:
                self.opened.add(id_)
                self._keep_start()
                self._sure = max(self._sure, self._total_at_opening)
            case ["opening", _]:
                self._total_at_opening = len(self._totals) - 1
            case ["refused", id_]:
                self.refused.add(id_)
            case ["voiding", id_]:
                self._voided.add(id_)
            case ["settling", id_, cost]:
                self._asked_cost[id_] = int(cost)
            case ["settled", id_, cost]:
                self._settled[id_] = int(cost)
                self._keep_start()
            case ["posted", id_, cost]:
                self._posted.setdefault(id_, set()).add(int(cost))
            case ["lent" | "returning", total]:
                self._totals.append(int(total))
            case ["returned", _]:
                self._sure = len(self._totals) - 1

    def _keep_start(self) -> None:
        """A start is sure when something is that came after it."""
        instance, number = self._start
        self._instances.add(instance)
        if number not in self._starts[-1:]:
            self._starts.append(number)

    def broken_by(self, told: Told) -> Broken:
        """Compare with what a journal says after all that was heard."""
        state, broken = told.state, Broken(damaged=list(told.damaged))
        kept = state.holds.keys() | state.unposted.keys() | self._posted.keys()
        rows = state.unposted.keys() | self._posted.keys()
        broken.lost += [f"hold of {id_}" for id_ in self.opened - self._voided - kept]
        broken.lost += [f"row of {id_}" for id_ in self._settled.keys() - rows]
        broken.doubled += [
            f"{id_} is open again" for id_ in state.holds.keys() & (self._settled.keys() | self._posted.keys())
        ]
        broken.doubled += [f"{id_} has two rows" for id_, costs in self._posted.items() if len(costs) > 1]
        broken.doubled += [f"{id_} was refused" for id_ in self.refused & rows - self._asked_cost.keys()]
        for id_, row in state.unposted.items():
            if {row.cost} | self._posted.get(id_, set()) | {self._settled.get(id_, row.cost)} != {row.cost}:
                broken.doubled.append(f"{id_} has another cost")
        self._compare_leases(state, broken)
        return broken

    def _compare_leases(self, state: JournalState, broken: Broken) -> None:
        lent = state.lent.get("alice")
        granted = lent.granted_total if lent else 0
        possible = self._totals[self._sure :]
        if granted not in possible:
            broken.leases.append(f"{granted} is lent, told was {possible}")
        spent = state.spent_totals().get("alice", 0)
        if not sum(self._settled.values()) <= spent <= sum(self._asked_cost.values()):
            broken.leases.append(f"{spent} is spent, by rows {sum(self._settled.values())}")
        if self._instances and {state.instance} != self._instances:
            broken.leases.append(f"instances {self._instances}, now {state.instance}")
        if self._starts != sorted(set(self._starts)) or state.start < max(self._starts, default=0):
            broken.leases.append(f"starts {self._starts}, now {state.start}")

    def balance(self, told: Told) -> Broken:
        """The same, and what must be besides when the last process ended in peace."""
        state, broken = told.state, self.broken_by(told)
        rows = Counter([*state.holds, *state.unposted, *(self._posted.keys() - state.unposted.keys())])
        broken.lost += [f"{id_} has no row" for id_ in self.opened - self._voided - rows.keys()]
        broken.doubled += [f"{id_} {n} times" for id_, n in rows.items() if n > 1]
        return broken


@dataclass
class Told:
    """What a journal says."""

    state: JournalState
    damaged: list[str]


def read(directory: Path) -> Told:
    """What the journal in `directory` says, to somebody who does not touch it."""
    files = JournalDirectory(directory)
    return _replay([files.read(number) for number in reversed(files.numbers())] if directory.exists() else [])


def read_contents(segments: tuple[bytes, ...]) -> Told:
    """The same of segments that are in no directory, the oldest first."""
    return _replay([Reader(segment) for segment in reversed(segments)])


def _replay(readers: list[Reader]) -> Told:
    state = replay(readers)
    for reader in readers:
        list(reader)  # those, too, that a start does not ask for
    return Told(state, [str(place) for reader in readers for place in reader.damaged])
