"""What is left of the limited keys' minutes, where several processes count together: a table in shared memory.

Whoever counts holds the table's lock for as long. A key's entry stands near where its digest points to; one that is
full again says nothing that a new one would not, and its place may be taken. Only if all of the many places near by are
in use is one given up that is not, the fullest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager

from goproxy.core.rate import Bucket, KeyRate

_ENTRY = struct.Struct("=16sdddddd")
"""The key's digest; the limit of requests, what is left of it and when that was; the same of tokens. Limit 0: none."""

_ENTRIES = 16_384
_NEAR = 64
"""Places that a key's entry may have."""

RATES_BYTES = _ENTRIES * _ENTRY.size

_NOBODY = bytes(16)


class SharedRates:
    """The rates of the keys, counted by all processes of an upstream."""

    def __init__(self, memory: memoryview[int], locked: Callable[[], AbstractContextManager[None]]) -> None:
        self._memory = memory
        self._locked = locked
        self._limits: dict[str, tuple[int | None, int | None]] = {}
        """Of the keys that were let in here: of no other one is anything counted."""

    def admit(self, key_id: str, limits: tuple[int | None, int | None], now: float) -> tuple[str, float] | None:
        """Count a request of a key; or which limit is reached, and the seconds until it is not."""
        self._limits[key_id] = limits
        digest = _digest(key_id)
        with self._locked():
            place, former = self._find(digest, now)
            rate = KeyRate.after(
                former, *limits, now
            )  # other ones: changed, and another process may not have heard yet
            reached = rate.admit(now)
            self._write(place, digest, rate, now)
        return reached

    def used(self, key_id: str, tokens: int, now: float) -> None:
        """Count what an answer used."""
        limits = self._limits.get(key_id)
        if limits is None:
            return
        digest = _digest(key_id)
        with self._locked():
            place, rate = self._find(digest, now)
            if rate is None:
                rate = KeyRate(*limits, now)
            rate.used(tokens, now)
            self._write(place, digest, rate, now)

    def _find(self, digest: bytes, now: float) -> tuple[int, KeyRate | None]:
        """The place of a key's entry, and what stands there of it."""
        first = int.from_bytes(digest[:8], "little")
        best, most = 0, -1.0
        for step in range(_NEAR):
            place = (first + step) % _ENTRIES * _ENTRY.size
            owner, *numbers = _ENTRY.unpack_from(self._memory, place)
            if owner == digest:
                return place, _rate(numbers)
            if owner == _NOBODY:  # nothing was ever put behind it: entries are replaced, and not taken away
                return (place if most < 1 else best), None
            if most < 1 and (left := _share_left(_rate(numbers), now)) > most:
                best, most = place, left
        return best, None

    def _write(self, place: int, digest: bytes, rate: KeyRate, now: float) -> None:
        numbers: list[float] = []
        for bucket in (rate.requests, rate.tokens):
            numbers += (0.0, 0.0, 0.0) if bucket is None else (bucket.limit, bucket.level(now), now)
        _ENTRY.pack_into(self._memory, place, digest, *numbers)


def _digest(key_id: str) -> bytes:
    return hashlib.blake2b(key_id.encode(), digest_size=16).digest()


def _rate(numbers: list[float]) -> KeyRate:
    buckets = [Bucket(int(limit), at, level) if limit else None for limit, level, at in (numbers[:3], numbers[3:])]
    return KeyRate.of(*buckets)


def _share_left(rate: KeyRate, now: float) -> float:
    """Of its emptier limit; 1: it is full."""
    shares = [bucket.level(now) / bucket.limit for bucket in (rate.requests, rate.tokens) if bucket is not None]
    return min(shares, default=1.0)
