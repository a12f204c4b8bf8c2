"""What the proxies hang on for: the live keys as soon as they change, and the wallets whose idle money is wanted back.

The keys are kept here, so that a poll is answered from memory, whatever the store is doing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from goproxy.control_plane.store.keys import Snapshot
from goproxy.core.compact_json import compact

_RECALL_EVERY = 0.25
"""Seconds between two recalls of one wallet from one instance: it needs some time to give back, or has nothing."""

_RECALL_FOR = 5.0
"""Seconds after which nobody waits for the money any more."""

_HEARD = 1000
"""So many instances of one upstream, those that asked last, are remembered until they are noted. It has a few; but a
proxy's token may ask by any name."""


@dataclass(frozen=True, slots=True)
class News:
    """The answer to a poll."""

    keys: bytes
    """See `_written`: the same object for all who ask at one upstream."""
    recall: list[str]

    def to_json(self) -> bytes:
        """`version` of all keys, the `keys` that may be used at the upstream of who asked, and wallets to `recall`."""
        return self.keys.removesuffix(b"[]}") + compact(self.recall) + b"}" if self.recall else self.keys


@dataclass(slots=True)
class _Recall:
    asked_at: float
    told: bool = False


class KeyFeed:
    """The live keys, the recalls, and everyone who waits for news of them."""

    def __init__(self, keys: Snapshot) -> None:
        self._keys = keys
        self._by_upstream: dict[str, bytes] = {}
        """Of these keys, those that may be used there; written when somebody asks, and once for all who do: 50,000 keys
        are 13 MB."""
        self._recalls: defaultdict[str, dict[str, _Recall]] = defaultdict(dict)
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._heard: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """By upstream; who asked last stands last."""
        self._closed = False

    @property
    def version(self) -> int:
        """Of the keys that the proxies are told."""
        return self._keys.version

    @property
    def heard(self) -> frozenset[str]:
        """The instances that live: they are waiting for news, or have asked since they were noted."""
        return frozenset(self._waiting).union(*self._heard.values())

    def noted(self, instances: Iterable[str]) -> None:
        """That these live is written down."""
        for instance in instances:
            for heard in self._heard.values():
                heard.pop(instance, None)

    def publish(self, keys: Snapshot) -> None:
        """Tell everyone these keys, if they are not told already."""
        if keys.version != self._keys.version:
            self._keys, self._by_upstream = keys, {}
            self._wake(*self._waiting)

    def recall(self, instance: str, wallets: Iterable[str]) -> None:
        """Ask an instance for what it does not use of these wallets."""
        now = asyncio.get_running_loop().time()
        recalls = self._recalls[instance]
        for wallet in wallets:
            if wallet not in recalls or now - recalls[wallet].asked_at >= _RECALL_EVERY:
                recalls[wallet] = _Recall(now)
        self._wake(instance)

    def forget(self, instance: str) -> None:
        """Recall nothing more from an instance that is gone."""
        self._recalls.pop(instance, None)

    def close(self) -> None:
        """Keep nobody waiting any more."""
        self._closed = True
        self._wake(*self._waiting)

    async def wait(self, instance: str, upstream: str, after: int, seconds: float) -> News | None:
        """News for this instance of this upstream, as soon as there is a version of keys but `after`, or a recall.

        None: there are none after so many seconds. (A version above ours is of a time before a restored backup.)
        """
        woken = asyncio.Event()
        self._hear(instance, self._heard[upstream])
        self._waiting[instance].add(woken)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    # Who leaves has news too: to be told that there is none means, to who knows nothing, no keys.
                    while (news := self._news(instance, upstream, after)) is None and not self._closed:
                        woken.clear()
                        await woken.wait()
                    return news
            return None
        finally:
            self._waiting[instance].discard(woken)
            if not self._waiting[instance]:
                del self._waiting[instance]

    @staticmethod
    def _hear(instance: str, heard: dict[str, None]) -> None:
        heard.pop(instance, None)
        heard[instance] = None
        if len(heard) > _HEARD:
            del heard[next(iter(heard))]

    def _news(self, instance: str, upstream: str, after: int) -> News | None:
        now = asyncio.get_running_loop().time()
        recalls = self._recalls.get(instance, {})
        for wallet in [wallet for wallet, recall in recalls.items() if now - recall.asked_at > _RECALL_FOR]:
            del recalls[wallet]
        wanted = sorted(wallet for wallet, recall in recalls.items() if not recall.told)
        for wallet in wanted:
            recalls[wallet].told = True
        if not recalls:
            self._recalls.pop(instance, None)
        if wanted or self._keys.version != after:
            return News(self._written(upstream), wanted)
        return None

    def _written(self, upstream: str) -> bytes:
        """The answer to who has nothing to give back; it ends with that, so that something else can stand there."""
        if upstream not in self._by_upstream:
            keys = self._keys.at(upstream)
            self._by_upstream[upstream] = compact({"version": keys.version, "keys": keys.entries, "recall": []})
        return self._by_upstream[upstream]

    def _wake(self, *instances: str) -> None:
        for instance in instances:
            for woken in self._waiting.get(instance, ()):
                woken.set()
