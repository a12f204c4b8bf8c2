"""Giving memory back: a process that had a rush begins anew, once nobody has asked for anything for a while.

CPython frees memory in arenas of 1 MiB, and only those in which nothing lives on. After 2,000 streams at once a few
objects are left in each of them, and the process would keep twice the memory that it began with. So it leaves in good
order, as it does at its end, and executes itself. Its listening sockets stay open meanwhile: who connects waits for a
second. One of several workers just leaves: the workers' parent forks another one, which has nothing to load.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from goproxy.data_plane.books import Books
from goproxy.data_plane.observer import Observer
from goproxy.hosting import Stay, pass_on_signals
from goproxy.observe import flush_log, log

GROWN = 16 * 1024 * 1024
"""Bytes more than at the start, from which on it is worth a second in which nobody is served."""

_LOOKS = 10
"""At the process, one after the other, that find nobody who asks."""

_ROOM = 64 * 1024 * 1024
"""Bytes of disk that must be free: the journal begins another segment, and so does the next start."""

_LISTENERS = "GOPROXY_LISTENERS"
"""The environment variable that tells who begins anew its process id, and which descriptors it listens on."""


@dataclass(frozen=True, slots=True)
class Recycling:
    """When a process begins anew."""

    after: float
    """Seconds without a request; 0: never."""

    is_as_started: Callable[[], bool]
    """Whether its files say what they said when it started. What they say now is for a rollout, which can go back."""

    journal: Path
    """Where there must be room for another segment."""

    async def watch(self, stay: Stay, books: Books, observer: Observer) -> None:
        """Ask the process to begin anew whenever it is time to. Returns at once if that is never.

        Looks are counted, and not seconds: a process that stood still was not idle, and has many who wait.
        """
        if not self.after:
            return
        at_start = own_bytes()
        begun = quiet = 0
        while True:
            await asyncio.sleep(self.after / _LOOKS)
            quiet = quiet + 1 if observer.begun == begun and not observer.in_flight else 0
            begun = observer.begun
            is_quiet = begun and quiet >= _LOOKS and stay.may_begin_anew
            if is_quiet and self._is_worth_it(at_start, books, observer):
                log("beginning anew, to give memory back", bytes=own_bytes(), bytes_at_start=at_start)
                await books.prepare_for_another_start()
                stay.ask_to_begin_anew()  # which looks again
                quiet = 0

    def _is_worth_it(self, at_start: int, books: Books, observer: Observer) -> bool:
        """And does no harm: the next one needs keys from the backend and room, and knows of no damage before it."""
        if own_bytes() < at_start + GROWN or not books.is_settled:
            return False
        standing = books.standing
        return (
            not standing.unposted_rows
            and standing.journal_problem is None
            and standing.control_problem is None
            and not observer.gauges()["journal_damaged"]  # of adopted journals, too
            and self._has_room()
            and self.is_as_started()
        )

    def _has_room(self) -> bool:
        try:
            return shutil.disk_usage(self.journal).free >= _ROOM
        except OSError:
            return False


def own_bytes() -> int:
    """The resident memory of this process that is no file's, with what it had of its parent's."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def begin_anew(listeners: Sequence[socket.socket], stay: Stay) -> NoReturn:
    """Execute this process's own command line once more; who connects to `listeners` waits meanwhile.

    If it was told to leave, the next one hears of that when it listens, and has served who waited when it leaves.

    Raises:
        OSError: it cannot be executed.
    """
    for each in listeners:
        os.set_inheritable(each.fileno(), True)
    descriptors = ",".join(str(each.fileno()) for each in listeners)
    sys.stdout.flush()
    sys.stderr.flush()
    flush_log()
    environment = os.environ | {_LISTENERS: f"{os.getpid()}:{descriptors}"}
    pass_on_signals(stay)
    os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 - itself, as it was started


def listeners_of(environment: Mapping[str, str], port: int) -> list[socket.socket]:
    """The sockets on which this process listened on this port before it began anew; none, if it did not."""
    process, _, descriptors = environment.get(_LISTENERS, "").partition(":")
    listeners: list[socket.socket] = []
    if process == str(os.getpid()):  # else it is our parent's
        with suppress(OSError, ValueError):
            for descriptor in descriptors.split(","):
                listener = socket.socket(fileno=int(descriptor))
                if listener.getsockname()[1] == port:
                    listeners.append(listener)
                    os.set_inheritable(listener.fileno(), False)
                else:
                    listener.close()
    return listeners
