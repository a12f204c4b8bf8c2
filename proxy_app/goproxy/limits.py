"""What the system lets this process have: open files and memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container reads its own, with cgroups of version 2 and 1."""


def raise_file_limit() -> None:
    """Let this process have as many files and sockets open as it may allow itself.

    Docker 29 gives a container 1,024 of them until it asks for more: 500 streams.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a kernel that allows less than that by now
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def memory_limit(limits: Sequence[Path] = _MEMORY_LIMITS) -> int:
    """Bytes of memory that this process and those beside it in its container may take: else, what the machine has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        with suppress(OSError, ValueError):  # there is none, or it says `max`
            found.append(int(path.read_text()))
    return min(found)
