"""The provider's own usage object, merged over the events of a stream.

Counts are cumulative in all protocols, so that the later value replaces the earlier one, field by field, and nothing
is ever added up. Null says nothing and replaces nothing; an explicit 0 is a value like any other. But no prompt
is empty: what tells of none, after one was told, says nothing of it. Some upstreams do so in their last event.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, Self, cast

from goproxy.core.usage import MAX_TOKENS, is_count

MAX_BYTES = 64 * 1024
"""Of the merged object as JSON: a hundred iterations of a server tool fit in twice."""

MAX_DEPTH = 8
"""Objects and lists within one another; the providers need four."""

Path = tuple[str, ...]

CACHE_READ = ("cache_read_input_tokens",)
CACHE_WRITE = ("cache_creation_input_tokens",)
CACHE_WRITE_5M = ("cache_creation", "ephemeral_5m_input_tokens")
CACHE_WRITE_1H = ("cache_creation", "ephemeral_1h_input_tokens")
SEARCHES = ("server_tool_use", "web_search_requests")
"""Anthropic's names, which gateways use in the usage of other protocols, too."""

_WITHOUT_FEE = frozenset({"web_search_requests", "web_fetch_requests"})
"""Tools that have a price here, or cost the tokens alone."""


class Counts(tuple[Path, ...]):
    """Where in a protocol's usage object the fields stand that are counts."""

    prompt: Collection[Path]
    """Those of the prompt."""

    searches: Collection[Path]
    """Those of searches, and what stands beside all others: whether they are counts says nothing of the others."""

    def __new__(cls, tokens: Iterable[Path], *, prompt: Collection[Path], searches: Collection[Path]) -> Self:
        """All of them, and which of them are the prompt's."""
        counts = super().__new__(cls, (*tokens, *searches))
        counts.prompt, counts.searches = prompt, searches
        return counts

    @cached_property
    def usual(self) -> Mapping[str, Any]:
        """What usual objects have in them, with the path of each of these counts in its place."""
        return self._usual(_USUAL, ())

    def _usual(self, usual: Mapping[str, Any], within: Path) -> Mapping[str, Any]:
        return {
            name: self._usual(kind, path) if isinstance(kind, dict) else path if path in self else kind
            for name, kind in usual.items()
            for path in [(*within, name)]
        }


class RawUsage:
    """What the provider has told by now."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.document: dict[str, Any] = {}
        """The merged object. Numbers with a fraction are kept as their text (see meter.py)."""
        self.tokens: dict[Path, int] = {}
        """The counts of the merged object that are counts; each the last good one."""
        self.invalid: set[Path] = set()
        """The counts of tokens whose last value is none."""
        self.was_invalid = False
        self.was_trimmed = False
        self.had_no_prompt = False
        """A prompt of nothing was told after one was."""
        self._is_usual = True
        """Nothing but usual objects was told."""

    def merge_usual(self, told: object) -> bool:
        """Take over what is told if it is what providers tell nearly always, which costs the least; whether it is."""
        if not self._is_usual or told.__class__ is not dict:
            return False
        tokens = self.tokens.copy()
        merged = _merged(self.document, cast("dict[str, Any]", told), self._counts.usual, tokens)
        if merged is None:
            return False
        self.document, self.tokens = merged, tokens
        return True

    def merge(self, told: object) -> None:
        """Take over what one event, or one body, tells."""
        if told is None:
            return
        if not isinstance(told, dict):
            self.was_invalid = True
            return
        tokens, self._is_usual = dict(self.tokens), False
        untold = self._counts.prompt if self._lacks_prompt(told) else ()
        for path in self._counts:
            if path not in untold:
                self._count(tokens, path, value_at(told, path))
        self.document, self.tokens = _replaced(self.document, told), tokens
        if untold:
            self.had_no_prompt = True
            self._put(path for path in untold if path in tokens)
        self._trim()

    def get(self, path: Path) -> int:
        """A count, 0 if it was not told."""
        return self.tokens.get(path, 0)

    def _lacks_prompt(self, told: Mapping[str, Any]) -> bool:
        counts = [value_at(told, path) for path in self._counts.prompt]
        return 0 in counts and not any(counts) and any(map(self.get, self._counts.prompt))

    def _count(self, tokens: dict[Path, int], path: Path, value: object) -> None:
        if value is None:
            return
        if is_count(value):
            assert isinstance(value, int)
            tokens[path] = value
            self.invalid.discard(path)
        else:
            self.was_invalid = True
            if path not in self._counts.searches:
                self.invalid.add(path)

    def _trim(self) -> None:
        """Keep the counts only of an object that no store would like: very long or deep, or not ASCII."""
        if is_shallow(self.document, MAX_DEPTH):
            text = json.dumps(self.document)
            if len(text) <= MAX_BYTES and "\\u" not in text:
                return
        self.was_trimmed = True
        self.document = {}
        self._put(self.tokens)

    def _put(self, paths: Iterable[Path]) -> None:
        """Have these counts in the document."""
        for path in paths:
            inner = self.document
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            inner[path[-1]] = self.tokens[path]


def value_at(document: Any, path: Path) -> Any:
    """What stands at a path of names; None if nothing does."""
    value: Any = document
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


_USUAL: Mapping[str, Any] = {
    "input_tokens": int,
    "output_tokens": int,
    "cache_creation_input_tokens": int,
    "cache_read_input_tokens": int,
    "cache_creation": {"ephemeral_5m_input_tokens": int, "ephemeral_1h_input_tokens": int},
    "output_tokens_details": {"thinking_tokens": int, "reasoning_tokens": int},
    "input_tokens_details": {"cached_tokens": int, "cache_write_tokens": int},
    "server_tool_use": {"web_search_requests": int, "web_fetch_requests": int},
    "service_tier": frozenset({"standard", "default"}),
    "inference_geo": frozenset({"global", "not_available"}),
    "speed": frozenset({"standard"}),
    "prompt_tokens": int,
    "completion_tokens": int,
    "total_tokens": int,
    "cached_tokens": int,
    "prompt_cache_hit_tokens": int,
    "prompt_cache_miss_tokens": int,
    "prompt_tokens_details": {"cached_tokens": int, "audio_tokens": int, "cache_write_tokens": int},
    "completion_tokens_details": {
        "reasoning_tokens": int,
        "audio_tokens": int,
        "image_tokens": int,
        "accepted_prediction_tokens": int,
        "rejected_prediction_tokens": int,
    },
}
"""What usual objects have in them: counts, words, and objects of such. Other objects cost more, and that is all."""


def _merged(
    document: Mapping[str, Any], told: Mapping[str, Any], usual: Mapping[str, Any], tokens: dict[Path, int]
) -> dict[str, Any] | None:
    """`document` with what is told, as `_replaced` has it, and the counts of it in `tokens`; None if it is not usual.

    All in one walk: it is made for every request, and most of them have two.
    """
    merged = {**document}
    for name, value in told.items():
        kind, expected = value.__class__, usual.get(name)
        if kind is int:
            if not 0 <= value <= MAX_TOKENS:
                return None
            if expected.__class__ is tuple:
                if not value and tokens.get(expected):
                    return None
                tokens[expected] = value
            elif expected is not int:
                return None
            merged[name] = value
        elif kind is dict:
            if expected.__class__ is not dict:
                return None
            inner = _merged(document.get(name, _NOTHING), value, expected, tokens)
            if inner is None:
                return None
            merged[name] = inner
        elif kind is str:
            if expected.__class__ is not frozenset or value not in expected:
                return None
            merged[name] = value
        elif value is not None:
            return None
    return merged


_NOTHING: Mapping[str, Any] = {}


def is_shallow(value: object, depth: int) -> bool:
    """Whether no more than `depth` objects and lists of JSON are within one another."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(is_shallow(each, depth - 1) for each in inner)


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


def used_other_tools(told: RawUsage) -> bool:
    """Whether the provider ran tools whose fee by use, if they have one, is not known here."""
    tools = told.document.get("server_tool_use")
    if not isinstance(tools, dict):
        return bool(tools)
    return any(uses != 0 for name, uses in tools.items() if name not in _WITHOUT_FEE)
