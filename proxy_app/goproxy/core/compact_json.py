"""JSON without spaces, as bytes: what is written for every request, so that its cost counts."""

from __future__ import annotations

import json
from typing import Any

import orjson

_ENCODER = json.JSONEncoder(
    separators=(",", ":"), default=lambda record: {name: getattr(record, name) for name in record.__dataclass_fields__}
)


def compact(document: Any) -> bytes:
    """A document of str, int, float, bool, None, lists, tuples, dicts with str as keys and dataclasses of such things
    (an object with a member for each field), as JSON in ASCII.
    """
    try:
        written = orjson.dumps(document)
    except TypeError:  # an integer of more than 64 bits, half a surrogate pair: rare, and no reason to fail
        written = b"\xff"
    return written if written.isascii() else _ENCODER.encode(document).encode()
