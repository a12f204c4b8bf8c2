"""The provider's own usage object, merged over the events of a stream.

Counts are cumulative in both protocols, so that the later value replaces the earlier one, field by field, and nothing
is ever added up. Null says nothing and replaces nothing; an explicit 0 is a value like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from goproxy.core.usage import is_count

MAX_BYTES = 64 * 1024
"""Of the merged object as JSON: a hundred iterations of a server tool fit in twice."""

_FEW = 16
_SHORT = 64
"""Fields of an object, and characters of a name or a word, that are surely within MAX_BYTES with all the others."""

MAX_DEPTH = 8
"""Objects and lists within one another; the providers need four."""

Path = tuple[str, ...]


class RawUsage:
    """What the provider has told by now."""

    def __init__(self, counts: Sequence[Path]) -> None:
        """`counts`: where the fields stand that are counts of tokens."""
        self._counts = counts
        self.document: dict[str, Any] = {}
        """The merged object. Numbers with a fraction are kept as their text (see meter.py)."""
        self.tokens: dict[Path, int] = {}
        """The counts of it that are counts; each the last good one."""
        self.invalid: set[Path] = set()
        """The counts whose last value is none."""
        self.was_invalid = False
        self.was_trimmed = False
        self._is_plain = True
        """All that was told is so small that the merged object need not be measured."""

    def merge(self, told: object) -> bool:
        """Take over what one event, or one body, tells; whether it told anything."""
        if told is None:
            return False
        if not isinstance(told, dict):
            self.was_invalid = True
            return False
        for path in self._counts:
            if (value := told.get(path[0])) is not None:
                self._count(path, value if len(path) == 1 else value_at(value, path[1:]))
        document = self.document = _replaced(self.document, told)
        if self._is_plain:
            self._is_plain = len(document) <= _FEW and _is_plain({name: document.get(name) for name in told})
        if not self._is_plain:
            self._trim()
        return bool(told)

    def get(self, path: Path) -> int:
        """A count, 0 if it was not told."""
        return self.tokens.get(path, 0)

    def _count(self, path: Path, value: object) -> None:
        if value is None:
            return
        if is_count(value):
            assert isinstance(value, int)
            self.tokens[path] = value
            if self.invalid:
                self.invalid.discard(path)
        else:
            self.invalid.add(path)
            self.was_invalid = True

    def _trim(self) -> None:
        """Keep the counts only of an object that no store would like: very long or deep, or not ASCII."""
        if _is_shallow(self.document, MAX_DEPTH):
            text = json.dumps(self.document)
            if len(text) <= MAX_BYTES and "\\u" not in text:
                return
        self.was_trimmed = True
        self.document = {}
        for path, count in self.tokens.items():
            inner = self.document
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            inner[path[-1]] = count


def value_at(document: Any, path: Path) -> Any:
    """What stands at a path of names; None if nothing does."""
    value: Any = document
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _is_plain(document: Mapping[str, Any], depth: int = 2) -> bool:
    """Whether this is so small that it need not be measured: a few counts and words, and objects of such."""
    for name, value in document.items():
        if name not in _USUAL and not _is_short(name):
            return False
        kind = value.__class__
        if kind is dict:
            if depth == 0 or len(value) > _FEW or not _is_plain(value, depth - 1):
                return False
        elif (kind is str and value not in _USUAL and not _is_short(value)) or kind is list:
            return False
    return True


def _is_short(word: str) -> bool:
    return word.isascii() and word.isprintable() and len(word) <= _SHORT


_USUAL = frozenset(
    {
        "cache_creation",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "ephemeral_1h_input_tokens",
        "ephemeral_5m_input_tokens",
        "input_tokens",
        "output_tokens",
        "service_tier",
        "standard",
    }
)
"""Words that are short, as everybody knows."""


def _is_shallow(value: object, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in inner)


def _replaced(document: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Field by field, and so too in the objects directly inside; what is nested deeper is replaced as a whole."""
    merged = dict(document)
    for name, value in told.items():
        if isinstance(value, dict):
            inner = document.get(name)
            known = inner if isinstance(inner, dict) else {}
            merged[name] = known | {key: each for key, each in value.items() if each is not None}
        elif value is not None:
            merged[name] = value
    return merged
