"""Times as they are written down, by both planes alike: RFC 3339 in UTC with milliseconds.

Such texts are compared as texts: the earlier one is the lesser one.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache


def now() -> str:
    """The time, such as 2026-11-23T10:00:00.123Z."""
    return f"{unzoned(time.time_ns())}Z"


def text_of(moment: datetime) -> str:
    """Another time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(text: str) -> float:
    """How long ago that was; 0 if it was not yet."""
    return max(0.0, time.time() - datetime.fromisoformat(text).timestamp())


def unzoned(nanoseconds: int) -> str:
    """A time without its zone, which the log writes otherwise; `nanoseconds`: since the epoch."""
    return _millisecond(nanoseconds // 1_000_000)


@lru_cache(maxsize=4)
def _millisecond(number: int) -> str:
    return f"{_second(number // 1000)}.{number % 1000:03d}"


@lru_cache(maxsize=4)
def _second(number: int) -> str:
    return datetime.fromtimestamp(number, UTC).strftime("%Y-%m-%dT%H:%M:%S")
