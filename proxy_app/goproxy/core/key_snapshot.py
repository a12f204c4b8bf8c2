"""The keys as the control plane tells them to the proxies: all of them at once, by version, with what each may do."""

from __future__ import annotations

import hmac
import json
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import orjson

from goproxy.core.compact_json import compact
from goproxy.core.keys import digest

_SLICE = 32 * 1024
"""Bytes that are read in one go: some hundred keys, in half a millisecond."""

_KEYS = b'"keys":['
_NEXT = b'},{"'
_RECALL = b'],"recall":'
"""Where a document without spaces can be cut. None stands within a string, where a quote has a backslash; should one
end in `},{`, the slice is no JSON, and the document is read as a whole."""


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

    def __init__(self, version: int = 0, keys: Iterable[LimitedKey] = (), told: bytes | None = None) -> None:
        """`told`: see there; the keys of it may be added later."""
        self.version = version
        # The first half of a digest only picks a shelf; whether a key is on it is compared in constant time.
        self._shelves: defaultdict[str, list[LimitedKey]] = defaultdict(list)
        self._add(keys)
        self.told = compact(self.to_json()).removesuffix(b"]}") if told is None else told
        """The document that says so, up to the end of its keys: who is told the same once more need not read it."""

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

    def _add(self, keys: Iterable[LimitedKey]) -> None:
        for key in keys:
            self._shelves[key.sha256[:32]].append(key)

    @property
    def document(self) -> bytes:
        """What `read` reads."""
        return self.told + b"]}"

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


class ToldKeys(NamedTuple):
    """What the control plane has told."""

    snapshot: KeySnapshot
    recall: tuple[str, ...] = ()
    """Wallets of which other proxies want what this one has idle."""


def read(content: bytes, former: KeySnapshot | None = None) -> Generator[None, None, ToldKeys]:
    """Read such a document, which may have a list `recall` too, in slices: an event loop has something else to do.

    Keys that are told as they were before are the former object.

    Raises:
        InvalidSnapshot: it is none.
    """
    if former is not None and content.startswith(former.told) and content.startswith(_RECALL, len(former.told)):
        envelope = _loads(b'{"recall":' + content[len(former.told) + len(_RECALL) :])
        return ToldKeys(former, _recall(envelope))
    try:
        return (yield from _read_in_slices(content))
    except ValueError:  # it may be written in another way
        document = _loads(content)
        return ToldKeys(KeySnapshot.from_json(document), _recall(document))


def _read_in_slices(content: bytes) -> Generator[None, None, ToldKeys]:
    start, end = content.index(_KEYS) + len(_KEYS), content.rfind(_RECALL)
    if end < 0:
        end = len(content) - len(b"]}")
    envelope = orjson.loads(content[:start] + content[end:])
    match envelope:
        case {"version": int(version), "keys": []}:
            snapshot = KeySnapshot(version, told=content[:end])
        case _:
            raise ValueError
    while start < end:
        stop = content.find(_NEXT, start + _SLICE, end) + 1 or end
        keys = orjson.loads(b"[" + content[start:stop] + b"]")
        snapshot._add([_key(key, index) for index, key in enumerate(keys)])
        start = stop + len(b",")
        yield
    return ToldKeys(snapshot, _recall(envelope))


def _loads(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidSnapshot("it is no JSON") from None


def _recall(document: Any) -> tuple[str, ...]:
    recall = document.get("recall")
    return tuple(map(str, recall)) if isinstance(recall, list) else ()


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
