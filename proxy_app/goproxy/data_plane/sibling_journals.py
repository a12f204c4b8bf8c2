"""The journals of an upstream's processes: each has one in a directory of its own, below the one that they share.

One has that directory itself. One that starts beside it (a rollout, or several processes behind one port) takes a
folder in it. What one leaves in its journal is adopted by one that runs, or by the one that follows it: requests in
whose middle it ended get their rows, rows are posted, and what it was lent is given back. To the control plane each is
an instance of its own, and leases are the instance's, so that two of them never spend the same money.
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
from goproxy.data_plane.journal_directory import InUse, JournalDirectory
from goproxy.observe import log, told

MOST_JOURNALS = 40
"""The most processes of one upstream that share a directory: two instances of 16, and what they left."""

_KEYS = "keys.json"

_LOOK_EVERY = 3.0
"""Seconds between two looks for journals that were left."""

_SETTLED_EVERY = 0.2

BooksOf = Callable[[Path], AbstractAsyncContextManager[Books]]
"""The books of the journal in a directory."""


@dataclass(frozen=True, slots=True)
class OwnDirectory:
    """Where an instance keeps its journal."""

    path: Path
    is_beside: bool
    """Whether another instance has one, too."""


def free_directory(shared: Path, preferred: str | None = None) -> OwnDirectory:
    """A directory for a journal that is free, the preferred one or the first; it is still to be locked.

    Raises:
        JournalInUse: none is.
    """
    free, is_beside = None, False
    for path in _directories(shared):
        if _is_in_use(path):
            is_beside = True
        elif free is None or name_of(path, shared) == preferred:
            free = path
    if free is None:
        raise JournalInUse(f"{shared}: {MOST_JOURNALS} other processes write journals here")
    _share_keys(shared, free)
    return OwnDirectory(free, is_beside)


def name_of(own: Path, shared: Path) -> str:
    """What the directory of one journal is called among those in the shared one."""
    return str(own.relative_to(shared))


def has_company(shared: Path) -> bool:
    """Whether any process has a journal here."""
    return any(map(_is_in_use, _directories(shared)))


async def adopt(shared: Path, own: Path, books_of: BooksOf, adopted: Callable[[Books], object]) -> None:
    """Bring to an end, for ever, what other instances left in their journals.

    `adopted`: is given the books of each, to count what nobody else has: their open requests, and damage.
    """
    ended: set[Path] = set()
    problems: dict[Path, str] = {}
    while True:
        for path in _directories(shared):
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


def _directories(shared: Path) -> Iterator[Path]:
    yield shared
    for number in range(2, MOST_JOURNALS + 1):
        yield shared / f"beside-{number}"


def _is_in_use(path: Path) -> bool:
    if not path.is_dir():
        return False
    directory = JournalDirectory(path)
    try:
        directory.take()
    except InUse:
        return True
    except OSError:
        return False  # who takes it will say what is wrong with it
    directory.release()
    return False


def _share_keys(shared: Path, own: Path) -> None:
    """Begin with the keys that any instance heard last: the control plane may be away."""
    with suppress(OSError):
        kept = [path / _KEYS for path in _directories(shared) if (path / _KEYS).is_file()]
        newest = max(kept, key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None and newest.parent != own:
            own.mkdir(mode=0o700, exist_ok=True)
            shutil.copy2(newest, own / _KEYS)  # with its time: keys get too old
