"""Reading JSON that people may have got wrong: take a field, note what is wrong with it, go on.

Each taking method gives a value of the right type even when the field is bad, so that the reading goes on to the end
and every problem is told at once; `is_sound` says whether the value may be trusted in a comparison with another.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from decimal import Decimal
from typing import Any, NoReturn

_SHOWN = 80  # characters of a wrong value in a message
_MAGNITUDE = 40  # decimal places of a number, before and after the point


class Problems:
    """What is wrong with one document, in the order of finding."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.found)

    def note(self, path: str, wrong: str, right: str) -> None:
        """Note one problem: `path: what is wrong; what would be right`."""
        self.found.append(f"{path}: {wrong}; expected {right}")


def parse_json(data: bytes, problems: Problems) -> Any:
    """The document in `data`: numbers are int and Decimal, a name that stands twice in an object is a problem."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                problems.note(name, f"the name stands {times} times in one object", "each name once")
        return dict(pairs)

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is not a JSON number")

    try:
        return json.loads(
            data.decode(),
            parse_float=Decimal,
            parse_constant=no_number,
            object_pairs_hook=unique,
        )
    except ArithmeticError:
        problems.note("the document", "has a number with an exponent that is out of all bounds", "numbers that can be")
        return None
    except (ValueError, RecursionError) as error:
        problems.note("the document", f"is not valid JSON ({error})", "one JSON object")
        return None


class Fields:
    """The fields of one object while they are read.

    A value that is no object is complained of once, here; nothing is then said of the fields that it lacks.
    """

    def __init__(self, value: Any, path: str, problems: Problems, *, missing: bool = False) -> None:
        self._path = path
        self._problems = problems
        self._unsound: set[str] = set()
        self._taken: set[str] = set()
        self._is_object = isinstance(value, dict)
        self._values: dict[str, Any] = value if isinstance(value, dict) else {}
        if not self._is_object and not missing:
            problems.note(path or "the document", f"{_show(value)} is not an object", "an object")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def has(self, name: str) -> bool:
        """Whether the field, which is optional, is there. From now on it is known."""
        self._taken.add(name)
        return name in self

    def is_sound(self, name: str) -> bool:
        """Whether the field was there and nothing was wrong with it so far."""
        return name not in self._unsound

    def complain(self, name: str, wrong: str, right: str) -> None:
        """Note a problem of the field `name`."""
        self._unsound.add(name)
        if self._is_object:
            self._problems.note(self._path_of(name), wrong, right)

    def nothing_else(self) -> None:
        """Complain about the fields that nobody took."""
        for name in self._values.keys() - self._taken:
            self.complain(name, "is not known", f"only {', '.join(sorted(self._taken))}")

    def text(self, name: str, pattern: re.Pattern[str], right: str) -> str:
        """A string of the form of `pattern`."""
        value = self._take(name, right)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self._complain_of(name, value, right)
        return ""

    def texts(self, name: str, pattern: re.Pattern[str], right: str) -> list[str]:
        """A list of strings of the form of `pattern`; it may be empty."""
        value = self._take(name, f"a list: {right}")
        if not isinstance(value, list):
            self._complain_of(name, value, f"a list: {right}")
            return []
        for item in value:
            if not (isinstance(item, str) and pattern.fullmatch(item)):
                self._complain_of(name, item, right)
        return value if self.is_sound(name) else []

    def one_of(self, name: str, choices: Collection[str]) -> str:
        """One of the `choices`."""
        right = " or ".join(sorted(choices))
        value = self._take(name, right)
        if isinstance(value, str) and value in choices:
            return value
        self._complain_of(name, value, right)
        return next(iter(choices))

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        right = f"a whole number from {low} to {high}"
        value = self._take(name, right)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._complain_of(name, value, right)
        return low

    def whole_or_null(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`, or null."""
        if name in self and self._values[name] is None:
            self._taken.add(name)
            return None
        return self.whole(name, low, high)

    def truth(self, name: str) -> bool:
        """true or false."""
        value = self._take(name, "true or false")
        if isinstance(value, bool):
            return value
        self._complain_of(name, value, "true or false")
        return False

    def number(self, name: str) -> Decimal:
        """A number, exactly as it stands there."""
        value = self._take(name, "a number")
        if _is_number(value):
            return Decimal(value)
        self._complain_of(name, value, "a number")
        return Decimal(0)

    def numbers(self, name: str) -> list[Decimal]:
        """A list of numbers."""
        value = self._take(name, "a list of numbers")
        if isinstance(value, list) and all(map(_is_number, value)):
            return [Decimal(item) for item in value]
        self._complain_of(name, value, "a list of numbers")
        return []

    def object(self, name: str) -> Fields:
        """An object, to be read in turn."""
        value = self._take(name, "an object")
        path = self._path_of(name)
        return Fields(value, path, self._problems, missing=name not in self)

    def objects(self, name: str) -> Iterator[Fields]:
        """The objects of a list that must have at least one."""
        value = self._take(name, "a list of objects")
        if not isinstance(value, list) or not value:
            self._complain_of(name, value, "a list with at least one object")
            return
        for index, item in enumerate(value):
            known = len(self._problems.found)
            yield Fields(item, f"{self._path_of(name)}[{index}]", self._problems)
            if len(self._problems.found) > known:
                self._unsound.add(name)

    def _take(self, name: str, right: str) -> Any:
        self._taken.add(name)
        if name not in self._values:
            self.complain(name, "is missing", right)
        return self._values.get(name)

    def _complain_of(self, name: str, value: Any, right: str) -> None:
        if name in self._values:
            self.complain(name, f"{_show(value)} will not do", right)

    def _path_of(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _is_number(value: Any) -> bool:
    """A number that can be written out: 1e999999999 is valid JSON, and fills the memory of who computes with it."""
    if isinstance(value, Decimal):
        return abs(value.adjusted()) <= _MAGNITUDE and len(value.as_tuple().digits) <= _MAGNITUDE
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_MAGNITUDE


def _show(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
