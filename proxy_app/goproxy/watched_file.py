"""A small file that somebody else rewrites: its new content within a second of the change.

Directory watching (inotify) would miss what happens behind a bind mount's back in half of the ways that files are
replaced; looking four times a second misses nothing. The content is read only when the file's identity, size or times
changed, and once more when the change was so fresh that the writer might still have been at it.
"""

from __future__ import annotations

import time
from pathlib import Path

LOOK_EVERY = 0.25
"""Seconds between two looks."""

_SETTLED_AFTER = 0.1
"""A file untouched for so many seconds has its final content: the kernel's time stamps are coarser than a write. They
may lie in the future, too; so it counts as well since when we see it untouched."""

_Identity = tuple[int, int, int, int]


class WatchedFile:
    """One file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: _Identity | None = None
        self._seen_at = 0.0
        self._is_settled = False

    def changed(self) -> bytes | None:
        """The content if it may differ from the one given before, else None.

        Raises:
            OSError: it cannot be read.
        """
        status = self.path.stat()
        identity = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        now = time.monotonic()
        if identity != self._seen:
            self._seen, self._seen_at, self._is_settled = identity, now, False
        if self._is_settled:
            return None
        content = self.path.read_bytes()
        untouched = max(time.time() - max(status.st_mtime, status.st_ctime), now - self._seen_at)
        self._is_settled = untouched > _SETTLED_AFTER
        return content
