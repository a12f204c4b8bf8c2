"""API keys: how one is made, how a mistyped one is told, and what is stored of one.

A key of ours is `tg-`, 43 base62 characters (256 random bits) and 6 base62 characters: the CRC32 of all that stands
before. The prefix lets secret scanners find it, the checksum lets whoever has no list of keys tell a typing error, as
the inventory's checks do (plugins/module_utils/secret.py). A plain SHA-256 is a fit digest for a secret of 256 random
bits; a slow hash would only give an attacker our CPU.

Operators may bring keys of their own making: the digest decides, and only `tg-` keys have a checksum.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib

PREFIX = "tg-"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_BYTES = 32
_SECRET_CHARACTERS = 43  # 62**43 > 2**256
_CHECKSUM_CHARACTERS = 6  # 62**6 > 2**32
_OURS = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_SECRET_CHARACTERS + _CHECKSUM_CHARACTERS}}}")


def new_key(random: bytes | None = None) -> str:
    """Make a key, from 32 random bytes of the system unless others are given."""
    number = int.from_bytes(secrets.token_bytes(_SECRET_BYTES) if random is None else random)
    stem = PREFIX + _base62(number, _SECRET_CHARACTERS)
    return stem + _checksum(stem)


def is_well_formed(key: str) -> bool:
    """Whether `key` could be one of ours, or does not claim to be. A proxy does not ask: it looks for the digest."""
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
