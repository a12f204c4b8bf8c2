"""The journal's files: how a segment is begun, written to, read again and put away.

A segment is made under another name, allocated in full, headed by a checkpoint, synced, and renamed only then: one
that has its name is whole. Its space is taken beforehand so that a disk that fills up later leaves room for what is
already running. A file is never synced again after a failed sync: the kernel may have dropped what it could not write
and would report success (see PostgreSQL's "fsyncgate"), so that the caller has to begin another one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import suppress
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

from goproxy.core.journal_record import Reader

_SEGMENT = re.compile(r"journal-(\d{8})\.log")
_DRAFT = "journal.new"


class InUse(Exception):
    """Another process has the directory."""


class Segment:
    """The segment that is written to."""

    def __init__(self, descriptor: int, end: int, size: int) -> None:
        self._descriptor = descriptor
        self._end = end
        self._size = size

    @property
    def room(self) -> int:
        """Bytes that can be appended without asking the file system for more."""
        return self._size - self._end

    def append(self, data: bytes) -> None:
        """Write `data`; it is on the disk on return.

        Raises:
            OSError: it may be there or not. The segment must not be used again.
        """
        _write(self._descriptor, data, self._end)
        os.fdatasync(self._descriptor)
        self._end += len(data)

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._descriptor)


class JournalDirectory:
    """The directory of one journal. It belongs to one process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory = -1
        self._is_named = False
        """Whether the disk has the directory's own name."""

    def take(self) -> None:
        """Make the directory if it is not there, and lock it.

        Raises:
            InUse: another process has it.
            OSError: it can be neither made nor opened.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise InUse(str(self._path)) from None

    def release(self) -> None:
        """Leave the directory to others."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def numbers(self) -> list[int]:
        """The segments that there are, the oldest first."""
        return sorted(int(found[1]) for each in self._path.iterdir() if (found := _SEGMENT.fullmatch(each.name)))

    def read(self, number: int) -> Reader:
        """The records of a segment."""
        with self._named(number).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return Reader(b"")
            content = mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS)  # not of the heap, which would keep as much for good
            if file.readinto(content) < size:
                raise OSError(errno.EIO, "it is shorter than it was", file.name)
        return Reader(content)

    def draft(self, head: bytes, size: int) -> Segment:
        """A segment without a name, which begins with `head` and has room for `size` bytes in all.

        Raises:
            OSError: it could not be made; nothing has changed.
        """
        descriptor = os.open(self._path / _DRAFT, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            _write(descriptor, head, 0)
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            with suppress(OSError):
                (self._path / _DRAFT).unlink()
            raise
        return Segment(descriptor, len(head), size)

    def publish(self) -> None:
        """Give the draft its name: from here on it is what a later start reads.

        Raises:
            OSError: it has its name or not, so that neither it nor the one before may be written to.
        """
        number = max(self.numbers(), default=0) + 1
        (self._path / _DRAFT).rename(self._named(number))
        os.fsync(self._directory)
        if not self._is_named:
            self._sync_name()
            self._is_named = True

    def tidy(self) -> None:
        """Remove the segments that no start needs: all but the last, and the one before in case that gets damaged."""
        for number in self.numbers()[:-2]:
            with suppress(OSError):
                self._named(number).unlink()

    def set_aside(self, number: int) -> None:
        """Keep a damaged segment for people to look at, under a name that no start reads."""
        with suppress(OSError):
            self._named(number).rename(self._path / f"damaged-{number:08}.log")

    def _sync_name(self) -> None:
        """Or the power fails, and a directory that was new is not there, with all that is synced in it."""
        with suppress(PermissionError):  # of whoever may not look there, others have made it
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
            try:
                if os.fstat(above).st_dev == os.fstat(self._directory).st_dev:  # else it is mounted there
                    os.fsync(above)
            finally:
                os.close(above)

    def _named(self, number: int) -> Path:
        return self._path / f"journal-{number:08}.log"


def _write(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
