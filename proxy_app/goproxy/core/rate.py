"""How often and how much: requests per minute and tokens per minute of one key, as two buckets that fill again.

Seconds come from the caller's monotonic clock; nothing here reads one. A bucket holds a minute's worth, so that a key
may use its minute at once and then waits for it to fill.
"""

from __future__ import annotations

_MINUTE = 60.0


class Bucket:
    """A limit per minute, and what is left of it."""

    __slots__ = ("_at", "_level", "limit")

    def __init__(self, limit: int, now: float, level: float | None = None) -> None:
        """A full one, or one with what was left of it at that time."""
        self.limit = limit
        self._level = float(limit) if level is None else level
        self._at = now

    def level(self, now: float) -> float:
        """What is left of it."""
        self._fill(now)
        return self._level

    def wait(self, amount: int, now: float) -> float:
        """Seconds until `amount` could be taken; 0: now."""
        self._fill(now)
        missing = min(amount, self.limit) - self._level
        return max(0.0, missing * _MINUTE / self.limit)

    def take(self, amount: int, now: float) -> None:
        """Take it, below 0 if need be: an answer's tokens are known when it is too late to refuse them."""
        self._fill(now)
        self._level -= amount

    def _fill(self, now: float) -> None:
        self._level = min(self.limit, self._level + (now - self._at) * self.limit / _MINUTE)
        self._at = now


class KeyRate:
    """The limits of one key. None: there is no such limit."""

    __slots__ = ("requests", "tokens")

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None, now: float) -> None:
        self.requests = Bucket(requests_per_minute, now) if requests_per_minute else None
        self.tokens = Bucket(tokens_per_minute, now) if tokens_per_minute else None

    @classmethod
    def of(cls, requests: Bucket | None, tokens: Bucket | None) -> KeyRate:
        """The limits with what is left of them."""
        rate = cls(None, None, 0.0)
        rate.requests, rate.tokens = requests, tokens
        return rate

    @classmethod
    def after(
        cls, former: KeyRate | None, requests_per_minute: int | None, tokens_per_minute: int | None, now: float
    ) -> KeyRate:
        """These limits, of which the same share is left as of those before; all of one that there was not."""
        if former is None:
            return cls(requests_per_minute, tokens_per_minute, now)
        if former.has(requests_per_minute, tokens_per_minute):
            return former
        return cls.of(_like(former.requests, requests_per_minute, now), _like(former.tokens, tokens_per_minute, now))

    def admit(self, now: float) -> tuple[str, float] | None:
        """Count a request; or which limit is reached, and the seconds until it is not.

        A request of unknown length is let through as long as any tokens are left: what it used is counted afterwards.
        """
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None and (seconds := bucket.wait(1, now)) > 0:
                return name, seconds
        if self.requests is not None:
            self.requests.take(1, now)
        return None

    def used(self, tokens: int, now: float) -> None:
        """Count what an answer used."""
        if self.tokens is not None:
            self.tokens.take(tokens, now)

    def has(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> bool:
        """Whether these are the limits, so that what is left of them still counts."""
        return (self.requests.limit if self.requests else None, self.tokens.limit if self.tokens else None) == (
            requests_per_minute or None,
            tokens_per_minute or None,
        )


def _like(former: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if not limit:
        return None
    return Bucket(limit, now, None if former is None else former.level(now) * limit / former.limit)
