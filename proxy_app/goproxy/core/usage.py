"""Tokens by kind, and searches, as they are priced: what the protocols' own usage objects are brought to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MAX_TOKENS = 20_000_000
"""No count of one request is above this, twice the longest context that is sold: what is, is no count.

A provider is believed up to it, also where that is far above the hold."""


@dataclass  # not frozen, and without slots, as a row is (ledger.py)
class Usage:
    """What one request used. The kinds of tokens do not overlap, except that `reasoning` is a part of `output`."""

    input: int = 0
    """Neither written to a cache nor read from one."""

    cache_write_5m: int = 0
    """Written to a cache for five minutes, or to one of a provider that has only one kind."""

    cache_write_1h: int = 0
    cache_read: int = 0

    output: int = 0
    """All that was generated, reasoning too."""

    reasoning: int = 0

    web_search: int = 0
    """Searches of the web that the provider made: no tokens."""

    @property
    def prompt(self) -> int:
        """The whole prompt, which is what price tiers look at."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read

    def to_json(self) -> dict[str, int]:
        """The counts by name."""
        return {
            "input": self.input,
            "cache_write_5m": self.cache_write_5m,
            "cache_write_1h": self.cache_write_1h,
            "cache_read": self.cache_read,
            "output": self.output,
            "reasoning": self.reasoning,
            "web_search": self.web_search,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Usage:
        """The other way round; a kind that is not there is 0.

        Raises:
            ValueError: something in it is no count.
        """
        counts = {kind: document.get(kind, 0) for kind in KINDS}
        for name, count in counts.items():
            if type(count) is not int or count < 0:
                raise ValueError(f"{name}: {count!r} is no count.")
        return cls(**counts)


KINDS = tuple(field.name for field in fields(Usage))
"""What is counted. Each has a price of its own; that of `output` is for the output that is not reasoning."""

TOKENS = tuple(kind for kind in KINDS if kind != "web_search")
"""Those of tokens."""


def is_count(value: object) -> bool:
    """Whether a value from JSON is a count: an integer (true is none) from 0 to MAX_TOKENS."""
    return type(value) is int and 0 <= value <= MAX_TOKENS


def cache_writes(total: int | None, for_5m: int | None, for_1h: int | None, flags: set[str]) -> tuple[int, int]:
    """Tokens written for five minutes and for an hour, of what was told of the total and its parts.

    The total is what is billed. What it is above its parts is priced at five minutes; when it is below them, the
    hour's part stands as far as it fits.
    """
    short, long = for_5m or 0, for_1h or 0
    if total is None or total == short + long:
        return short, long
    if total < short + long:
        flags.add("total_mismatch")
        long = min(long, total)
    else:
        flags.add("cache_write_split_assumed")
    return total - long, long
