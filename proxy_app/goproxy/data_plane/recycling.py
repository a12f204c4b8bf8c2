"""Giving memory back: a process that had a rush begins anew, once nobody has asked for anything for a while.

CPython frees memory in arenas of 1 MiB, and only those in which nothing lives on. After 2,000 streams at once a few
objects are left in each of them, and the process would keep twice the memory that it began with. So it leaves in good
order, as it does at its end, and executes itself. Its listening sockets stay open meanwhile: who connects waits for a
second. One of several workers just leaves: the workers' parent forks another one, which has nothing to load.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from goproxy.data_plane.books import Books
from goproxy.data_plane.observer import Observer
from goproxy.hosting import ENDING, Stay
from goproxy.observe import flush_log, log

GROWN = 1.25
"""Times the memory that a process began with, from which on it is worth a second in which nobody is served."""

_LOOKS = 10
"""At the process, while nobody asks for anything."""

_LISTENERS = "GOPROXY_LISTENERS"
"""The environment variable that tells who begins anew which descriptors are its listening sockets."""


@dataclass(frozen=True, slots=True)
class Recycling:
    """When a process begins anew."""

    after: float
    """Seconds without a request; 0: never."""

    is_as_started: Callable[[], bool]
    """Whether its files say what they said when it started. What they say now is for a rollout, which can go back."""

    async def watch(self, stay: Stay, books: Books, observer: Observer) -> None:
        """Ask the process to begin anew when it is time to. Returns at once if that is never."""
        if not self.after:
            return
        began_with = resident_bytes()
        begun, quiet_since = observer.begun, time.monotonic()
        while True:
            await asyncio.sleep(self.after / _LOOKS)
            if observer.begun != begun or observer.in_flight or not books.is_settled:
                begun, quiet_since = observer.begun, time.monotonic()
            elif time.monotonic() - quiet_since >= self.after and self._is_worth_it(began_with, books):
                log("beginning anew, to give memory back", resident_bytes=resident_bytes(), began_with_bytes=began_with)
                books.prepare_for_another_start()
                stay.ask_to_begin_anew()
                return

    def _is_worth_it(self, began_with: int, books: Books) -> bool:
        """Not while the backend is away: the next one could not ask it for keys."""
        return resident_bytes() > GROWN * began_with and books.standing.control_problem is None and self.is_as_started()


def resident_bytes() -> int:
    """The memory of this process that is in use, and shared or not."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def begin_anew(listeners: Sequence[socket.socket]) -> NoReturn:
    """Execute this process's own command line once more; who connects to `listeners` waits meanwhile.

    Raises:
        OSError: it cannot be executed.
    """
    for each in listeners:
        os.set_inheritable(each.fileno(), True)
    handed_over = {_LISTENERS: ",".join(str(each.fileno()) for each in listeners)}
    sys.stdout.flush()
    sys.stderr.flush()
    flush_log()
    os.execve(sys.executable, sys.orig_argv, os.environ | handed_over)  # noqa: S606 - itself, as it was started


def listeners_of(environment: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that the process had before it began anew; none, if it did not, or they are not there."""
    listeners = []
    try:
        for descriptor in filter(None, environment.get(_LISTENERS, "").split(",")):
            listeners.append(socket.socket(fileno=int(descriptor)))
            os.set_inheritable(listeners[-1].fileno(), False)
    except (OSError, ValueError):
        return []
    return listeners


def hold_signals(stay: Stay) -> None:
    """Let a signal that would end this process wait for the one that begins anew, which takes it in `host`.

    One that has come since is sent once more: who waits to be served is served before the process ends.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    if stay.is_told_to_leave:
        os.kill(os.getpid(), signal.SIGTERM)
