"""A small file that somebody else rewrites: its new content within a second of the change.

Directory watching (inotify) would miss what happens behind a bind mount's back in half of the ways that files are
replaced; looking four times a second misses nothing. The content is read only when the file's identity, size or times
changed, and once more while the change is so fresh that the writer may still be at it.
"""

from __future__ import annotations

import time
from pathlib import Path

LOOK_EVERY = 0.25
"""Seconds between two looks."""

_SETTLED_AFTER = 0.1
"""A file untouched for so many seconds has its final content: the kernel's time stamps are coarser than a write."""

_Identity = tuple[int, int, int, int]


class WatchedFile:
    """One file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: _Identity | None = None

    def changed(self) -> bytes | None:
        """The content if it may differ from the one given before, else None.

        Raises:
            OSError: it cannot be read.
        """
        status = self.path.stat()
        identity = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if identity == self._seen:
            return None
        content = self.path.read_bytes()
        settled = time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_AFTER
        self._seen = identity if settled else None
        return content
