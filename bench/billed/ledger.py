"""The ledger held against the provider's own record, request by request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from billed.prices import cost
from billed.provider import Plan, TruthfulProvider
from billed.rig import Rig
from goproxy.core.usage import Usage

CLAIMS_TO_BE_EXACT = ("exact", "drained")


@dataclass(frozen=True, slots=True)
class Entry:
    """What of a row is compared."""

    settlement: str
    usage: Usage
    cost: int
    flags: tuple[str, ...]

    @property
    def claims_to_be_exact(self) -> bool:
        """Whether the row says that its usage is the provider's last word."""
        return self.settlement in CLAIMS_TO_BE_EXACT


@dataclass
class Comparison:
    """All requests of a provider's record, and the rows that the ledger has of them."""

    record: dict[str, Plan]
    rows: dict[str, Entry] = field(default_factory=dict)
    """By the provider's id."""
    doubled: int = 0
    """Rows beyond the first of a request, and rows of requests that the provider never had."""
    charged: int = 0
    """Of all rows."""

    @property
    def missing(self) -> list[Plan]:
        """Requests without a row."""
        return [plan for id_, plan in self.record.items() if id_ not in self.rows]

    @property
    def settlements(self) -> Counter[str]:
        """How many rows were settled in which way."""
        return Counter(entry.settlement for entry in self.rows.values())

    def add(self, row: dict[str, Any]) -> None:
        """Take a row of the ledger."""
        id_ = row["upstream_request_id"]
        self.charged += row["cost_nanodollars"]
        if id_ not in self.record or id_ in self.rows:
            self.doubled += 1
            return
        usage = Usage.from_json(row["usage"])
        self.rows[id_] = Entry(row["settlement"], usage, row["cost_nanodollars"], tuple(row["flags"]))


def tokens_between(one: Usage, other: Usage) -> int:
    """The difference of two usages, summed up over the kinds of tokens."""
    theirs = other.to_json()
    return sum(abs(count - theirs[kind]) for kind, count in one.to_json().items())


def true_cost(plan: Plan) -> int:
    """What the request of a plan must cost, in nano-dollars."""
    return cost(plan.model, plan.upstream, plan.usage)


async def compare(rig: Rig, provider: TruthfulProvider) -> Comparison:
    """Wait for the last rows, and compare."""
    await rig.is_posted()
    comparison = Comparison(provider.record)
    async for row in rig.rows():
        comparison.add(row)
    return comparison
