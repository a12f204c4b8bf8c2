"""The rate limits of the keys at this proxy. Each proxy counts for itself: a limit holds per key and upstream."""

from __future__ import annotations

import math
import time

from goproxy.core.key_snapshot import LimitedKey
from goproxy.core.rate import KeyRate
from goproxy.core.wire import Fault, Refusal


class RateLimits:
    """What is left of each limited key's minute."""

    def __init__(self) -> None:
        self._rates: dict[str, KeyRate] = {}

    def admit(self, key: LimitedKey) -> None:
        """Count a request of a key.

        Raises:
            Refusal: a limit is reached; `retry-after` says for how long.
        """
        limits = key.requests_per_minute, key.tokens_per_minute
        if not any(limits):
            return
        now = time.monotonic()
        rate = self._rates.get(key.id)
        if rate is None or not rate.has(*limits):
            rate = self._rates[key.id] = KeyRate(*limits, now)
        if (reached := rate.admit(now)) is not None:
            name, seconds = reached
            limit = key.requests_per_minute if name == "requests" else key.tokens_per_minute
            raise Refusal(
                Fault.RATE_LIMITED,
                f"This key may use {limit} {name} per minute here, and has. Try again in {math.ceil(seconds)} s.",
                headers={"retry-after": str(math.ceil(seconds))},
            )

    def used(self, key_id: str, tokens: int) -> None:
        """Count the tokens of a settled request."""
        if (rate := self._rates.get(key_id)) is not None:
            rate.used(tokens, time.monotonic())
