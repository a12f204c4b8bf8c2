"""The workers: several processes that serve one upstream on one port, and the parent that starts and watches them.

They share the listening sockets, and not a port with a socket each (SO_REUSEPORT): a connection waits for whichever
process is free, so that none is lost with a process that dies and none waits for one that is stuck, and a single filter
refuses new ones to all when they leave. The parent serves nothing and has no event loop: it can be forked at any time.

A process that ends is followed by another one, at once, and later and later if that ends, too; the streams of the
others do not notice. One that leaves by itself gives its memory back (recycling.py). A process that ends before it
could serve, while no other one serves, is a start that failed.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from goproxy.data_plane.scoreboard import Place, Scoreboard, State
from goproxy.hosting import ENDING
from goproxy.listening import refuse_new_connections
from goproxy.observe import flush_log, log

Work = Callable[[Place, Sequence[socket.socket]], int]
"""What a process does in its place, on the sockets of all; the result is its exit code."""

_SIGNALS = (signal.SIGCHLD, *ENDING)
_LOOK_EVERY = 0.02
"""Seconds between two looks at processes that start."""

_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
"""Seconds before another process follows one that followed another: at first, and at most."""

_SOON = 60.0
"""Seconds that a process has to live for the one after it to follow at once."""

_PR_SET_PDEATHSIG = 1


class WorkersFailed(Exception):
    """There is nobody who serves; the text says why."""


class Workers:
    """The processes."""

    def __init__(self, scoreboard: Scoreboard, sockets: Sequence[socket.socket], work: Work) -> None:
        self._scoreboard = scoreboard
        self._sockets = sockets
        self._work = work
        self._places: dict[int, Place] = {}
        """By id of the process that runs there."""
        self._started: dict[int, float] = {}
        """When the last process of a place began, by number."""
        self._pauses: dict[int, float] = {}
        """Seconds before another process follows the next one that ends soon, by number."""
        self._due: dict[int, float] = {}
        """When another process begins in a place whose last one ended, by number."""
        self._is_leaving = False
        self._is_clean = True
        self._failed: str | None = None

    def run(self) -> int:
        """Serve until SIGTERM; the result is the exit code.

        Raises:
            WorkersFailed: nobody can serve.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        gc.collect()
        gc.freeze()  # what is there stays in memory that the processes share
        for place in self._scoreboard.places:
            if not self._is_leaving:
                self._start(place)
        while self._places or self._due:
            self._wait()
            self._start_due()
            if not self._scoreboard.may_listen and self._all_prepared():
                log("all processes are prepared", processes=len(self._places))
                self._scoreboard.let_listen()
        if self._failed is not None:
            raise WorkersFailed(self._failed)
        return 0 if self._is_clean else 1

    def _all_prepared(self) -> bool:
        return all(place.state is State.PREPARED for place in self._scoreboard.places)

    def _start(self, place: Place) -> None:
        place.state = State.STARTING
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:  # too many processes and threads, or no memory: that passes, or not
            self._started[place.number] = time.monotonic()
            self._pauses[place.number] = _LONGEST_PAUSE
            self._ended(place, f"{error.strerror} as it was to be started")
            return
        if pid == 0:
            self._become(place, parent)
        self._places[pid] = place
        self._started[place.number] = time.monotonic()
        self._due.pop(place.number, None)

    def _become(self, place: Place, parent: int) -> None:
        """Be the process of a place, and end."""
        code = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            if os.getppid() == parent:  # it has not ended before it could tell us
                code = self._work(place, self._sockets)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            flush_log()
            sys.stderr.flush()
            os._exit(code)

    def _wait(self) -> None:
        """Wait for a signal, or until there is something to do."""
        if not self._scoreboard.may_listen:
            patience = _LOOK_EVERY
        elif self._due:
            patience = max(0.0, min(self._due.values()) - time.monotonic())
        else:
            patience = 3600.0
        came = signal.sigtimedwait(_SIGNALS, patience)
        if came is not None and came.si_signo != signal.SIGCHLD:
            self._leave(signal.Signals(came.si_signo))
        self._bury()

    def _bury(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if (place := self._places.pop(pid, None)) is not None:
                code = os.waitstatus_to_exitcode(status)
                if self._is_leaving:
                    is_clean = code == 0 or (-code in ENDING and place.state < State.SERVING)
                    self._is_clean = self._is_clean and is_clean
                self._ended(place, f"signal {-code}" if code < 0 else f"exit code {code}", has_left=code == 0)

    def _ended(self, place: Place, how: str, *, has_left: bool = False) -> None:
        """`has_left`: in good order."""
        reached = place.state
        place.vacate()
        if self._is_leaving:
            return
        which = f"process {place.number} of {place.processes}"
        if reached is State.SERVING and has_left:
            self._due[place.number] = time.monotonic()
            log(f"{which} left; another one begins anew in its place")
            return
        serving = [other for other in place.others if other.state is State.SERVING]
        if reached < State.SERVING and not serving:
            self._failed = f"{which} ended with {how} before it could serve, and no other one serves"
            self._leave()
            return
        lived = time.monotonic() - self._started[place.number]
        pause = 0.0 if lived > _SOON else self._pauses.get(place.number, 0.0)
        self._pauses[place.number] = min(_LONGEST_PAUSE, max(_PAUSE, 2 * pause))
        self._due[place.number] = time.monotonic() + pause
        log(f"{which} ended; another one follows it", level=logging.ERROR, how=how, pause_seconds=pause)

    def _start_due(self) -> None:
        for place in self._scoreboard.places:
            if self._due.get(place.number, float("inf")) <= time.monotonic():
                self._start(place)

    def _leave(self, told: signal.Signals = signal.SIGTERM) -> None:
        """Have no new connection made, and let every process leave in the good order that it is told."""
        if not self._is_leaving:
            self._is_leaving = True
            self._due.clear()
            for each in self._sockets:
                refuse_new_connections(each)
                each.close()  # what is asked after the last process has closed its own is refused at once
        for pid in self._places:
            os.kill(pid, told)
