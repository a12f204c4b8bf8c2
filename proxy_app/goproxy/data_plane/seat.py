"""The seats of an upstream's processes: each has a journal of its own, below the one directory that they share.

One has the directory itself. One that starts beside it (a rollout, or several processes behind one port) takes a folder
in it. What one leaves in its seat is adopted by one that runs, or by the one that follows it: requests in whose middle
it ended get their rows, rows are posted, and what it was lent is given back. To the control plane each is an instance
of its own, and leases are the instance's, so that two of them never spend the same money.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from goproxy.data_plane.books import Books
from goproxy.data_plane.journal import JournalInUse
from goproxy.data_plane.segment import InUse, Shelf
from goproxy.observe import log, told

SEATS = 40
"""The most processes of one upstream that share a directory: two instances of 16, and what they left."""

_KEYS = "keys.json"

_LOOK_EVERY = 3.0
"""Seconds between two looks for seats that were left."""

_SETTLED_EVERY = 0.2

BooksOf = Callable[[Path], AbstractAsyncContextManager[Books]]
"""The books of the journal in a directory."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Where an instance keeps its journal."""

    path: Path
    is_beside: bool
    """Whether another instance has one, too."""


def take_seat(directory: Path, preferred: str | None = None) -> Seat:
    """A seat that is free, the preferred one or the first; its journal is still to be locked.

    Raises:
        JournalInUse: none is.
    """
    free, is_beside = None, False
    for path in _seats(directory):
        if _is_in_use(path):
            is_beside = True
        elif free is None or seat_name(directory, path) == preferred:
            free = path
    if free is None:
        raise JournalInUse(f"{directory}: {SEATS} other processes write journals here")
    _share_keys(directory, free)
    return Seat(free, is_beside)


def seat_name(directory: Path, path: Path) -> str:
    """What a seat is called among the seats of a directory."""
    return str(path.relative_to(directory))


def has_company(directory: Path) -> bool:
    """Whether any seat is taken."""
    return any(map(_is_in_use, _seats(directory)))


async def adopt(directory: Path, own: Path, books_of: BooksOf, adopted: Callable[[Books], object]) -> None:
    """Bring to an end, for ever, what other instances left in their seats.

    `adopted`: is given the books of each, to count what nobody else has: their open requests, and damage.
    """
    ended: set[Path] = set()
    problems: dict[Path, str] = {}
    while True:
        for path in _seats(directory):
            try:
                if path == own or not any(path.glob("journal-*.log")):
                    continue
                if _is_in_use(path):
                    ended.discard(path)  # to be looked at again when that one is gone
                elif path not in ended:
                    if path not in problems:
                        log("adopting the journal that another instance left", path=str(path))
                    if await _bring_to_an_end(path, books_of, adopted):
                        ended.add(path)
                    problems.pop(path, None)
            except JournalInUse:
                continue  # another one was faster
            except Exception as error:  # be it descriptors or threads that ran out: the next look may find more
                if problems.get(path) != str(error):
                    problems[path] = str(error)
                    log("a journal that was left cannot be adopted", level=logging.ERROR, path=str(path), **told(error))
        await asyncio.sleep(_LOOK_EVERY)


async def _bring_to_an_end(path: Path, books_of: BooksOf, adopted: Callable[[Books], object]) -> bool:
    """Whether the control plane has all that it takes, and what was lent. Else it is to be tried again."""
    async with books_of(path) as books:
        adopted(books)
        while not books.is_settled:  # noqa: ASYNC110 - a few looks, at what has no event
            await asyncio.sleep(_SETTLED_EVERY)
    return books.has_told_all


def _seats(directory: Path) -> Iterator[Path]:
    yield directory
    for number in range(2, SEATS + 1):
        yield directory / f"beside-{number}"


def _is_in_use(path: Path) -> bool:
    if not path.is_dir():
        return False
    shelf = Shelf(path)
    try:
        shelf.take()
    except InUse:
        return True
    except OSError:
        return False  # who takes it will say what is wrong with it
    shelf.release()
    return False


def _share_keys(directory: Path, seat: Path) -> None:
    """Begin with the keys that any instance heard last: the control plane may be away."""
    with suppress(OSError):
        kept = [path / _KEYS for path in _seats(directory) if (path / _KEYS).is_file()]
        newest = max(kept, key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None and newest.parent != seat:
            seat.mkdir(mode=0o700, exist_ok=True)
            shutil.copy2(newest, seat / _KEYS)  # with its time: keys get too old
