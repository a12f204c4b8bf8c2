"""What can be told of a secret without knowing it: a forgotten placeholder, a stray line break, a mistyped API key."""

from __future__ import annotations

import re
import zlib

PREFIX = "tg-"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM = 43  # base62 characters that hold 256 random bits
CHECKSUM = 6  # base62 characters that hold a CRC32
OURS = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{RANDOM + CHECKSUM}}}")

# Words count where they stand alone, so that no random key is taken for a placeholder.
PLACEHOLDER = re.compile(
    r"""
      change[-_ ]?me | replace[-_ ] | ^replace | example | placeholder | insert[-_ ]
    | ^<.*>$ | ^\{\{.*\}\}$ | ^\[.*\]$ | ^\.{2,}$ | ^\*+$
    | ^x{3,}$ | x{5,} | (^|[-_ ])x{3,}([-_ ]|$)
    | (^|[^a-z0-9])(todo|fixme|tbd)([^a-z0-9]|$)
    | (^|[^a-z0-9])your[-_ ]
    | ^(secret|password|api[-_ ]?key|key|token|none|null|test)$
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_placeholder(value: str) -> bool:
    return not value.strip() or PLACEHOLDER.search(value.strip()) is not None


def is_sendable(value: str) -> bool:
    """Whether it can stand in an HTTP header: printable ASCII, no white space (a line break at the end is common)."""
    return re.fullmatch(r"[!-~]+", value) is not None


def checksum(stem: str) -> str:
    """The CRC32 of what stands before, in base62. proxy_app/goproxy/core/keys.py makes the same."""
    number = zlib.crc32(stem.encode())
    digits = ""
    for _ in range(CHECKSUM):
        number, index = divmod(number, len(ALPHABET))
        digits = ALPHABET[index] + digits
    return digits


def is_mistyped(key: str) -> bool:
    """A key that claims to be ours by its prefix, and is not. Keys of other makes carry no checksum."""
    if not key.startswith(PREFIX):
        return False
    return OURS.fullmatch(key) is None or checksum(key[:-CHECKSUM]) != key[-CHECKSUM:]
