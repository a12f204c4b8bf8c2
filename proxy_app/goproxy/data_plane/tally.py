"""What is counted, as numbers with names: in this process's own memory, or in a piece that its siblings read, too.

A number is changed by its index, as often as need be; its name is looked up once. In shared memory a number outlives
the process that counted it, and the next one in its place goes on counting.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Protocol

from goproxy.observe import log

_NAME = 128
"""Bytes of a name and of its length, which comes first."""

_NUMBER = 8

_MOST = 1024
"""Names that there is room for in shared memory; what comes after them is counted under the last one."""

_OTHER = "other"

TALLY_BYTES = _MOST * (_NAME + _NUMBER)


class Numbers(Protocol):
    """What is changed by index."""

    def __getitem__(self, index: int, /) -> float: ...
    def __setitem__(self, index: int, value: float, /) -> None: ...


class Tally(Protocol):
    """Numbers with names."""

    @property
    def numbers(self) -> Numbers: ...

    def index(self, name: str) -> int:
        """Where the number of this name is; it is 0 if it is new."""

    def items(self) -> Iterator[tuple[str, float]]:
        """All of them."""


class OwnTally:
    """Numbers in this process's memory."""

    def __init__(self) -> None:
        self.numbers: list[float] = []
        self._indexes: dict[str, int] = {}

    def index(self, name: str) -> int:
        if name not in self._indexes:
            self._indexes[name] = len(self.numbers)
            self.numbers.append(0.0)
        return self._indexes[name]

    def items(self) -> Iterator[tuple[str, float]]:
        for name, index in self._indexes.items():
            yield name, self.numbers[index]


class SharedTally:
    """Numbers in shared memory, of which one process at a time writes, and all read."""

    def __init__(self, memory: memoryview[int]) -> None:
        self._names = memory[: _MOST * _NAME]
        self.numbers: memoryview[float] = memory[_MOST * _NAME : TALLY_BYTES].cast("d")
        self._indexes: dict[str, int] = {}
        self._read_names()

    def index(self, name: str) -> int:
        if name not in self._indexes:
            self._read_names()  # of the process before, which added some after this object was made
        if name not in self._indexes:
            self._indexes[name] = self._add(name)
        return self._indexes[name]

    def items(self) -> Iterator[tuple[str, float]]:
        self._read_names()
        for name, index in self._indexes.items():
            yield name, self.numbers[index]

    def clear(self) -> None:
        """Make all of them 0; nobody counts at the moment."""
        self._read_names()
        for index in range(len(self._indexes)):
            self.numbers[index] = 0.0

    def _read_names(self) -> None:
        for index in range(len(self._indexes), _MOST):
            at = index * _NAME
            if not (length := self._names[at]):
                return
            self._indexes[bytes(self._names[at + 1 : at + 1 + length]).decode()] = index

    def _add(self, name: str) -> int:
        index, written = len(self._indexes), name.encode()
        if index >= _MOST - 1:
            log("there is no room to count more", level=logging.ERROR, name=name)
            name, index, written = _OTHER, _MOST - 1, _OTHER.encode()
        if len(written) >= _NAME:
            raise ValueError(f"{name!r} is longer than {_NAME - 1} bytes")
        at = index * _NAME
        self._names[at + 1 : at + 1 + len(written)] = written
        self._names[at] = len(written)  # last: a name that has a length is whole
        return index
