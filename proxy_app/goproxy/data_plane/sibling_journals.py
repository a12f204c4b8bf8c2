"""The journals of an upstream's processes: each has one in a directory of its own, below the one that they share.

One has that directory itself. One that starts beside it (a rollout, or several processes behind one port) takes a
folder in it. What one leaves in its journal is adopted by one that runs, or by the one that follows it: requests in
whose middle it ended get their rows, rows are posted, and what it was lent is given back. To the control plane each is
an instance of its own, and leases are the instance's, so that two of them never spend the same money.
"""

from __future__ import annotations

import asyncio
import logging
import math
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

_LOOK_EVERY = 3.0
"""Seconds between two looks for journals that were left."""

_SETTLED_EVERY = 0.2

_ROWS_AGAIN = 3600.0
"""Seconds until rows that the control plane did not take are offered once more."""

_ENDED = "ended"
"""A file of a journal's directory: the last segment when it had been brought to an end."""

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
    for path in directories(shared):
        if _is_in_use(path):
            is_beside = True
        elif free is None or name_of(path, shared) == preferred:
            free = path
    if free is None:
        raise JournalInUse(f"{shared}: {MOST_JOURNALS} other processes write journals here")
    return OwnDirectory(free, is_beside)


def name_of(own: Path, shared: Path) -> str:
    """What the directory of one journal is called among those in the shared one."""
    return str(own.relative_to(shared))


def has_company(shared: Path) -> bool:
    """Whether any process has a journal here."""
    return any(map(_is_in_use, directories(shared)))


@dataclass(frozen=True, slots=True)
class _End:
    """How a journal was left by who brought it to its end."""

    segment: int
    """The last one then. Whoever starts there makes another one, and may be gone at the next look."""
    look_again_at: float
    """On the loop's clock."""


async def adopt(shared: Path, own: Path, books_of: BooksOf, adopted: Callable[[Path, Books], object]) -> None:
    """Bring to an end, for ever, what other instances left in their journals.

    Each process does so once with each of them: its control plane may be of a backup, and know of loans that the one of
    before had back. Afterwards it believes the others, who do the same.

    `adopted`: is given the books of each, to count what nobody else has: their open requests, damage, and rows that
    the control plane does not take.
    """
    ends: dict[Path, _End] = {}
    problems: dict[Path, str] = {}
    now = asyncio.get_running_loop().time
    while True:
        for path in directories(shared):
            try:
                last, end = _last_segment(path), ends.get(path)
                if path == own or not last or _is_in_use(path):
                    continue
                if end is not None and now() < end.look_again_at and last in (end.segment, _ended_at(path)):
                    continue
                if path not in problems:
                    log("adopting the journal that another instance left", path=str(path))
                last, has_told_all, rows = await _bring_to_an_end(path, books_of, adopted)
                if has_told_all:
                    ends[path] = _End(last, now() + _ROWS_AGAIN if rows else math.inf)
                    _note_end(path, last)
                problems.pop(path, None)
            except JournalInUse:
                continue  # another one was faster
            except Exception as error:  # be it descriptors or threads that ran out: the next look may find more
                if problems.get(path) != str(error):
                    problems[path] = str(error)
                    log("a journal that was left cannot be adopted", level=logging.ERROR, path=str(path), **told(error))
        await asyncio.sleep(_LOOK_EVERY)


async def _bring_to_an_end(
    path: Path, books_of: BooksOf, adopted: Callable[[Path, Books], object]
) -> tuple[int, bool, int]:
    """The last segment; whether the control plane has what it takes, and what was lent; the rows it did not take."""
    async with books_of(path) as books:
        adopted(path, books)
        while not books.is_settled:  # noqa: ASYNC110 - a few looks, at what has no event
            await asyncio.sleep(_SETTLED_EVERY)
        last = _last_segment(path)
    return last, books.has_told_all, books.standing.unposted_rows


def _ended_at(path: Path) -> int:
    """What the last one noted who brought it to an end; 0: nothing."""
    try:
        return int((path / _ENDED).read_text())
    except (OSError, ValueError):
        return 0


def _note_end(path: Path, segment: int) -> None:
    """For the other processes. Should the disk not take it, they see for themselves."""
    draft = path / f"{_ENDED}.new"
    with suppress(OSError):
        draft.write_text(str(segment))
        draft.rename(path / _ENDED)


def directories(shared: Path) -> Iterator[Path]:
    """Where there may be journals."""
    yield shared
    for number in range(2, MOST_JOURNALS + 1):
        yield shared / f"beside-{number}"


def _last_segment(path: Path) -> int:
    """0: there is none."""
    return max(JournalDirectory(path).numbers(), default=0) if path.is_dir() else 0


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
