"""The journals of an upstream's processes: each has one in a directory of its own, below the one that they share.

One has that directory itself. One that starts beside it (a rollout, or several processes behind one port) takes a
folder in it. What one leaves in its journal is adopted by one that runs, or by the one that follows it: requests in
whose middle it ended get their rows, rows are posted, and what it was lent is given back. To the control plane each is
an instance of its own, and leases are the instance's, so that two of them never spend the same money.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from goproxy.data_plane.books import Books
from goproxy.data_plane.journal import JournalInUse
from goproxy.data_plane.journal_directory import InUse, JournalDirectory
from goproxy.observe import exception_fields, log

MOST_JOURNALS = 96
"""The most processes of one upstream that share a directory: five instances of 16 (a rollout lets two finish in their
time, and hurries a third), and what they left."""

_LOOK_EVERY = 3.0
"""Seconds between two looks for journals that were left."""

_SETTLED_EVERY = 0.2

_ROWS_AGAIN = 3600.0
"""Seconds until rows that the control plane did not take are offered once more."""

_ENDED = "ended"
"""A file of a journal's directory, with what others need to know of how it was brought to an end."""

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


class Heir(Protocol):
    """Who tells what was found in the journals of instances that are no more."""

    def adopted(self, books: Books) -> None:
        """One is being brought to its end: its open requests and its damage are nobody else's."""

    def left(self, path: Path, rows: int, since: str | None) -> None:
        """So many rows are left in this one that the control plane does not take; `since`: when the first was settled.

        None are where somebody has that journal, and tells of them.
        """


class _End(NamedTuple):
    """How a journal was left by who brought it to its end."""

    segment: int
    """The last one then. Whoever starts there makes another one, and may be gone at the next look."""
    rows: int
    since: str | None
    """See `Heir.left`."""


async def adopt(shared: Path, own: Path, books_of: BooksOf, heir: Heir) -> None:
    """Bring to an end, for ever, what other instances left in their journals.

    Each process does so once with each of them: its control plane may be of a backup, and know of loans that the one of
    before had back. Afterwards it believes what the others note, who do the same.
    """
    ends: dict[Path, _End] = {}
    again_at: dict[Path, float] = {}
    problems: dict[Path, str] = {}
    now = asyncio.get_running_loop().time
    while True:
        for path in directories(shared):
            try:
                if path == own or not (last := _last_segment(path)):
                    continue
                if _is_in_use(path):
                    heir.left(path, 0, None)
                    continue
                known = ends.get(path)
                end = known if known is None or known.segment == last else _noted_end(path)
                if end is None or end.segment != last or now() >= again_at.get(path, math.inf):
                    if path not in problems:
                        log("adopting the journal that another instance left", path=str(path))
                    end = await _bring_to_an_end(path, books_of, heir)
                if end is not None and end != known:
                    ends[path] = end
                    again_at[path] = now() + _ROWS_AGAIN if end.rows else math.inf
                if end is not None:  # each time: another one that only looked was in the way
                    heir.left(path, end.rows, end.since)
                problems.pop(path, None)
            except JournalInUse:
                continue  # another one was faster
            except Exception as error:  # be it descriptors or threads that ran out: the next look may find more
                if problems.get(path) != str(error):
                    problems[path] = str(error)
                    log(
                        "a journal that was left cannot be adopted",
                        level=logging.ERROR,
                        path=str(path),
                        **exception_fields(error),
                    )
        await asyncio.sleep(_LOOK_EVERY)


async def _bring_to_an_end(path: Path, books_of: BooksOf, heir: Heir) -> _End | None:
    """None: the control plane has not heard all that it takes, or what was lent. It is to be tried again."""
    async with books_of(path) as books:
        heir.adopted(books)
        while not books.is_settled:  # noqa: ASYNC110 - a few looks, at what has no event
            await asyncio.sleep(_SETTLED_EVERY)
        last = _last_segment(path)
    if not books.has_told_all:
        return None
    end = _End(last, *books.left)
    with suppress(OSError):  # the other processes see for themselves then
        draft = path / f"{_ENDED}.new"
        draft.write_text(json.dumps(end))
        draft.rename(path / _ENDED)
    return end


def _noted_end(path: Path) -> _End | None:
    """What the last one noted who brought it to an end."""
    try:
        return _End(*json.loads((path / _ENDED).read_text()))
    except (OSError, ValueError, TypeError):
        return None


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
