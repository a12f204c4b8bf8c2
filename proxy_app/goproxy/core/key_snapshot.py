"""The keys as the control plane tells them to the proxies: all of them at once, by version, with what each may do."""

from __future__ import annotations

import hmac
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from goproxy.core.keys import digest


class InvalidSnapshot(ValueError):
    """A document is no snapshot; the text says where, and quotes no digest."""


@dataclass(frozen=True, slots=True)
class LimitedKey:
    """A live key: whose it is, its digest, and its limits. None: there is no such limit."""

    id: str
    account: str
    sha256: str
    wallets_limit: bool
    """Whether it has a wallet of its own, `key:<id>`, whose credit is its spending limit."""
    expires_at: str | None
    """RFC 3339, UTC."""
    upstreams: tuple[str, ...] | None
    models: tuple[str, ...] | None
    requests_per_minute: int | None
    tokens_per_minute: int | None


class KeySnapshot:
    """The keys of one version, found by digest."""

    def __init__(self, version: int = 0, keys: Iterable[LimitedKey] = ()) -> None:
        self.version = version
        # The first half of a digest only picks a shelf; whether a key is on it is compared in constant time.
        self._shelves: defaultdict[str, list[LimitedKey]] = defaultdict(list)
        for key in keys:
            self._shelves[key.sha256[:32]].append(key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySnapshot) and (self.version, self._shelves) == (other.version, other._shelves)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return sum(map(len, self._shelves.values()))

    def find(self, presented: str) -> LimitedKey | None:
        """The live key that somebody shows, if it is one."""
        return self.find_digest(digest(presented)) if presented else None

    def find_digest(self, sha256: str) -> LimitedKey | None:
        """The live key with this digest."""
        found = None
        for key in self._shelves.get(sha256[:32], ()):
            if hmac.compare_digest(key.sha256, sha256):
                found = key
        return found

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        keys = [asdict(key) for shelf in self._shelves.values() for key in shelf]
        return {"version": self.version, "keys": keys}

    @classmethod
    def from_json(cls, document: Any) -> KeySnapshot:
        """Read `{"version": 3, "keys": [{"id": ..., ...}]}`; what else there is in it is left out.

        Raises:
            InvalidSnapshot: it is none.
        """
        match document:
            case {"version": int(version), "keys": list(keys)}:
                return cls(version, [_key(key, index) for index, key in enumerate(keys)])
        raise InvalidSnapshot('it must be an object with an integer "version" and a list "keys"')


def _key(document: Any, index: int) -> LimitedKey:
    match document:
        case {
            "id": str(),
            "account": str(),
            "sha256": str(),
            "wallets_limit": bool(),
            "expires_at": None | str(),
            "upstreams": None | list(),
            "models": None | list(),
            "requests_per_minute": None | int(),
            "tokens_per_minute": None | int(),
        }:
            return LimitedKey(
                id=document["id"],
                account=document["account"],
                sha256=document["sha256"],
                wallets_limit=document["wallets_limit"],
                expires_at=document["expires_at"],
                upstreams=_names(document["upstreams"]),
                models=_names(document["models"]),
                requests_per_minute=document["requests_per_minute"],
                tokens_per_minute=document["tokens_per_minute"],
            )
    raise InvalidSnapshot(f"keys[{index}] is no key")


def _names(names: list[Any] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(map(str, names))
