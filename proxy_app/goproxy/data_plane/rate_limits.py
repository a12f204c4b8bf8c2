"""The rate limits of the keys at this proxy. Each proxy counts for itself: a limit holds per key and upstream."""

from __future__ import annotations

import math
import time
from typing import Protocol

from goproxy.core.key_snapshot import LimitedKey
from goproxy.core.rate import KeyRate
from goproxy.core.wire import Fault, Refusal


class Rates(Protocol):
    """What is left of each limited key's minute."""

    def admit(self, key_id: str, limits: tuple[int | None, int | None], now: float) -> tuple[str, float] | None:
        """Count a request of a key; or which limit is reached, and the seconds until it is not."""

    def used(self, key_id: str, tokens: int, now: float) -> None:
        """Count what an answer used."""


class OwnRates:
    """The rates of a process that is the only one of its upstream."""

    def __init__(self) -> None:
        self._rates: dict[str, KeyRate] = {}

    def admit(self, key_id: str, limits: tuple[int | None, int | None], now: float) -> tuple[str, float] | None:
        rate = self._rates[key_id] = KeyRate.after(self._rates.get(key_id), *limits, now)
        return rate.admit(now)

    def used(self, key_id: str, tokens: int, now: float) -> None:
        if (rate := self._rates.get(key_id)) is not None:
            rate.used(tokens, now)


class RateLimits:
    """Lets the requests of a limited key in, or says when to come again."""

    def __init__(self, rates: Rates | None = None) -> None:
        self._rates = rates or OwnRates()

    def admit(self, key: LimitedKey) -> None:
        """Count a request of a key.

        Raises:
            Refusal: a limit is reached; `retry-after` says for how long.
        """
        limits = key.requests_per_minute, key.tokens_per_minute
        if not any(limits):
            return
        if (reached := self._rates.admit(key.id, limits, time.monotonic())) is not None:
            name, seconds = reached
            limit = key.requests_per_minute if name == "requests" else key.tokens_per_minute
            raise Refusal(
                Fault.RATE_LIMITED,
                f"This key may use {limit} {name} per minute here, and has. Try again in {math.ceil(seconds)} s.",
                headers={"retry-after": str(math.ceil(seconds))},
            )

    def used(self, key_id: str, tokens: int) -> None:
        """Count the tokens of a settled request."""
        self._rates.used(key_id, tokens, time.monotonic())
