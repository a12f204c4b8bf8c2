"""API keys: how one is made, how a mistyped one is told, and how a presented one is found among the digests.

A key of ours is `tg-`, 43 base62 characters (256 random bits) and 6 base62 characters: the CRC32 of all that stands
before. The prefix lets secret scanners find it, the checksum lets a typing error be refused without a look-up. A
plain SHA-256 is a fit digest for a secret of 256 random bits; a slow hash would only give an attacker our CPU.
Operators may bring keys of their own making: the digest decides, and only `tg-` keys have a checksum.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PREFIX = "tg-"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_BYTES = 32
_SECRET_CHARACTERS = 43  # 62**43 > 2**256
_CHECKSUM_CHARACTERS = 6  # 62**6 > 2**32
_OURS = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_SECRET_CHARACTERS + _CHECKSUM_CHARACTERS}}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def new_key(random: bytes | None = None) -> str:
    """Make a key, from 32 random bytes of the system unless others are given."""
    number = int.from_bytes(secrets.token_bytes(_SECRET_BYTES) if random is None else random)
    stem = PREFIX + _base62(number, _SECRET_CHARACTERS)
    return stem + _checksum(stem)


def is_well_formed(key: str) -> bool:
    """Whether `key` could be one of ours, or does not claim to be."""
    if not key.startswith(PREFIX):
        return bool(key)
    stem, checksum = key[:-_CHECKSUM_CHARACTERS], key[-_CHECKSUM_CHARACTERS:]
    return _OURS.fullmatch(key) is not None and checksum == _checksum(stem)


def digest(key: str) -> str:
    """What is stored of a key: the SHA-256 of the whole key, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _checksum(stem: str) -> str:
    return _base62(zlib.crc32(stem.encode()), _CHECKSUM_CHARACTERS)


def _base62(number: int, width: int) -> str:
    characters = []
    for _ in range(width):
        number, index = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[index])
    return "".join(reversed(characters))


class InvalidKeyFile(Exception):
    """keys.json is not what it must be; the text says where, and quotes no digest."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A live key: whose it is, and its digest."""

    account: str
    sha256: str


class KeySet:
    """The live keys, found by digest."""

    def __init__(self, entries: Iterable[KeyEntry] = ()) -> None:
        # The first half of a digest only picks a shelf; whether a key is on it is compared in constant time. (That
        # much timing tells nothing: nobody can choose a key so that its SHA-256 begins as wanted and learn the rest.)
        self._shelves: defaultdict[str, list[KeyEntry]] = defaultdict(list)
        for entry in entries:
            self._shelves[entry.sha256[:32]].append(entry)

    def __len__(self) -> int:
        return sum(map(len, self._shelves.values()))

    def account_of(self, key: str) -> str | None:
        """Whose key this is, if it is anybody's."""
        if not is_well_formed(key):
            return None
        presented = digest(key)
        account = None
        for entry in self._shelves.get(presented[:32], ()):
            if hmac.compare_digest(entry.sha256, presented):
                account = entry.account
        return account


def read_key_file(data: bytes) -> KeySet:
    """Read keys.json: `{"keys": [{"account": "alice", "prefix": "tg-AbCd1234", "sha256": "<64 hex digits>"}]}`.

    Raises:
        InvalidKeyFile: it cannot be read; no part of it is used then.
    """
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidKeyFile("it is not valid JSON (torn, or being written)") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise InvalidKeyFile('it must be an object with a list "keys"')
    return KeySet(_entry(item, index) for index, item in enumerate(keys))


def _entry(item: Any, index: int) -> KeyEntry:
    if not isinstance(item, dict):
        raise InvalidKeyFile(f"keys[{index}] must be an object")
    account, sha256 = item.get("account"), item.get("sha256")
    if not isinstance(account, str) or not account:
        raise InvalidKeyFile(f"keys[{index}].account must be the name of an account")
    if not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256):
        raise InvalidKeyFile(f"keys[{index}].sha256 must be 64 lower-case hexadecimal digits")
    return KeyEntry(account, sha256)
