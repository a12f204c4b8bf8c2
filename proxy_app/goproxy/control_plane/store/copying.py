"""A copy of a SQLite database as it is at one moment, made beside the work that changes it.

SQLite copies a database page by page, and begins again when somebody else writes to it. Not so when the writing is done
on the very connection that is copied from: it then writes each page that it changes to the copy too. So the copy is
made on the connection that writes, in its thread, some pages at a time, with the work that waits in between. The copy
is of the moment when its last page is done.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

PAGES = 256
"""At a time: a megabyte, which takes a few milliseconds."""

_TIMES = 5
"""How often a copy may begin again, because another process writes to the database, before it is given up."""


class Disturbed(Exception):
    """Another process writes to the database all the time."""


def make_sure_of_room(file: Path) -> None:
    """Let nobody begin to copy a database on a disk that the copy would fill up: the database is on it, too.

    Raises:
        OSError: there is no room.
    """
    need, free = 2 * file.stat().st_size, shutil.disk_usage(file.parent).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need} bytes are needed, and {free} are free", os.fspath(file.parent))


def copy(source: sqlite3.Connection, target: Path, in_between: Callable[[], None]) -> None:
    """Copy a database to a new file, and call `in_between` again and again; that may use `source`, and may raise.

    Raises:
        sqlite3.Error: it cannot be copied.
        Disturbed: see there.
    """
    beginnings = 0

    def after_some_pages(status: int, remaining: int, total: int) -> None:
        nonlocal beginnings
        if status == sqlite3.SQLITE_OK and remaining + PAGES >= total:  # these were the first pages
            beginnings += 1
            if beginnings > _TIMES:
                raise Disturbed("another process writes to it all the time")
        in_between()

    copied = sqlite3.connect(target, isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF"):  # who would need it after a crash?
            copied.execute(f"PRAGMA {pragma}").close()
        source.backup(copied, pages=PAGES, progress=after_some_pages, sleep=0.01)
    finally:
        copied.close()


def clear(directory: Path, prefix: str) -> None:
    """Remove the copies that a process left that was killed."""
    for left in directory.glob(f"{prefix}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
