"""A value of the inventory together with where it stands, so that whatever is wrong with it can be said precisely.

Knows nothing of upstreams or sites. A problem is collected, never raised: the operator gets all of them at once.
A secret's value is in no message.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN = 80  # characters of a wrong value that are repeated


@dataclass(frozen=True)
class Unresolved:
    """Stands for a value that could not be had: why, and what would help. It names the variable, and never a value."""

    what: str
    right: str


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong. Sorts by where it is: the site's variables first, then the upstreams."""

    of_upstream: bool
    subject: str  # an upstream's name, or a variable's
    path: str  # below the subject: models.claude-opus-4-5.multiplier
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.subject, self.path, self.message) if part)


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def listed(words: Iterable[str]) -> str:
    """a, b or c"""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


KINDS: list[tuple[type | tuple[type, ...], str]] = [
    (type(None), "nothing"),
    (bool, "a boolean"),  # before the numbers, of which Python thinks it is one
    ((int, float), "a number"),
    (str, "text"),
    (Mapping, "a mapping"),
    (datetime.date, "a date"),
    (Sequence, "a list"),
]


def kind(value: Any) -> str:
    """What an operator calls the type."""
    return next((name for types, name in KINDS if isinstance(value, types)), f"a {type(value).__name__}")


def shown(value: Any) -> str:
    """A scalar as it stands in the file; of anything larger, only what it is."""
    if value is None or isinstance(value, Mapping | list | tuple):
        return kind(value)
    if isinstance(value, bool | int | float):
        text = json.dumps(value)
    elif isinstance(value, str):
        text = json.dumps(str(value), ensure_ascii=False)
    else:
        text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@dataclass(frozen=True)
class Field:
    """A value and its place. What reads it returns None when something was wrong, and has reported it then."""

    value: Any
    subject: str
    problems: list[Problem]
    path: str = ""
    of_upstream: bool = False
    secret: bool = False

    def report(self, what: str, right: str) -> None:
        """`what` is wrong with it, `right` is what to do."""
        self.problems.append(Problem(self.of_upstream, self.subject, self.path, f"{what}; {right}"))

    def refuse(self, right: str) -> None:
        """The value has the wrong type."""
        if isinstance(self.value, Unresolved):
            self.report(self.value.what, self.value.right)
        elif self.secret or self.value is None or isinstance(self.value, Mapping | list | tuple):
            self.report(f"is {kind(self.value)}", right)
        else:
            self.report(f"is {shown(self.value)}, {kind(self.value)}", right)

    def report_slip(self, known: Iterable[str], given: Collection[str]) -> None:
        """Of a variable of nobody's: it is the operator's own business, unless it looks like a slip of the pen."""
        near = nearest(self.subject, known, cutoff=0.9)
        if near is not None and near not in given:
            self.report("is not a known variable", f"did you mean {near}?")

    def child(self, key: str, value: Any, secret: bool = False) -> Field:
        path = f"{self.path}.{key}" if self.path else key
        return Field(value, self.subject, self.problems, path, self.of_upstream, self.secret or secret)

    def text(self, right: str) -> str | None:
        if not isinstance(self.value, str):
            self.refuse(right)
            return None
        if not self.value.strip():
            self.report("is empty", right)
            return None
        return str(self.value)

    def integer(self, low: int, high: int, right: str) -> int | None:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.refuse(unquoted(self.value) or right)
            return None
        if not low <= self.value <= high:
            self.report(f"is {self.value}", right)
            return None
        return int(self.value)

    def boolean(self, right: str) -> bool | None:
        if not isinstance(self.value, bool):
            self.refuse(right)
            return None
        return self.value

    def number(self, right: str) -> int | float | None:
        """A finite number. Integers stay integers, so that a price is written out as the operator wrote it."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.refuse(unquoted(self.value) or right)
            return None
        if not math.isfinite(self.value):
            self.report(f"is {self.value}", right)
            return None
        return int(self.value) if isinstance(self.value, int) else float(self.value)

    def items(self, right: str) -> list[Field] | None:
        if isinstance(self.value, str) or not isinstance(self.value, Sequence):
            self.refuse(right)
            return None
        places = [f"{self.path}[{number}]" for number in range(len(self.value))]
        return [
            Field(value, self.subject, self.problems, place, self.of_upstream, self.secret)
            for place, value in zip(places, self.value, strict=True)
        ]

    def mapping(self, right: str) -> dict[str, Field] | None:
        """Any keys, as long as they are text."""
        if not isinstance(self.value, Mapping):
            # In the place of a mapping anything may stand, a secret too: it is not repeated.
            Field(self.value, self.subject, self.problems, self.path, self.of_upstream, secret=True).refuse(right)
            return None
        children = {}
        for key, value in self.value.items():
            if isinstance(key, str):
                children[str(key)] = self.child(str(key), value)
            else:
                self.report(f"has the key {shown(key)}, {kind(key)}", "write the key as text, in quotes")
        return children

    def record(
        self, required: Mapping[str, str], optional: Collection[str] = (), secret: Collection[str] = (), form: str = ""
    ) -> dict[str, Field] | None:
        """Known keys only. `required` gives, for each key, an example of what to write, `form` one of the whole."""
        known = [*required, *optional]
        fields = self.mapping(f"give a mapping like {form}" if form else f"give a mapping of {listed(known)}")
        if fields is None:
            return None
        for key in fields.keys() - set(known):
            near = nearest(key, known)
            hint = f"did you mean {near}?" if near and near not in fields else f"known here: {', '.join(known)}"
            fields[key].report("is not a known key", hint)
        for key in [key for key in required if key not in fields]:
            self.child(key, None).report("is missing", required[key])
        return {
            key: self.child(key, field.value, secret=key in secret) for key, field in fields.items() if key in known
        }


def unquoted(value: Any) -> str | None:
    """The remedy for a number that was written as text."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return f"write it without quotes: {value}"
    return None
