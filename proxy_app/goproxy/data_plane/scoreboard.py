"""The scoreboard: shared memory in which the processes of one upstream let each other know how they stand.

Each has a place on it: what it counts, what it would say of itself now, and that it lives. A place outlives the process
that has it, so that nothing that was counted is lost and no counter goes backwards. One lock guards what several of
them change; the kernel takes it from whoever dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum

from goproxy.data_plane.shared_rates import RATES_BYTES, SharedRates
from goproxy.data_plane.tally import TALLY_BYTES, SharedTally
from goproxy.hosting import Readiness

BEAT_EVERY = 0.25
"""Seconds between two signs of life."""

_SILENT = 10.0
"""Seconds without a sign of life after which a process is taken for stuck."""

_GO_EVERY = 0.01

_HEAD = 64
"""Bytes of the scoreboard before its places; the first one says whether processes may listen."""

# A place: its state, whether it is ready, its last sign of life, its drains, its connections, its journal's directory;
# why it is not ready; its tallies.
_STATE, _READY, _BEAT, _DRAINS, _CONNECTIONS = 0, 1, 8, 16, 24
_DIRECTORY, _DIRECTORY_BYTES = 32, 32
_DETAIL, _DETAIL_BYTES = 64, 448
_GAUGES = _DETAIL + _DETAIL_BYTES
_COUNTS = _GAUGES + TALLY_BYTES
_PLACE = _COUNTS + TALLY_BYTES


class State(IntEnum):
    """How far the process of a place has come."""

    ABSENT = 0
    STARTING = 1
    PREPARED = 2  # it could listen
    SERVING = 3


class Scoreboard:
    """The shared memory. It is made before the processes are, which inherit it."""

    def __init__(self, processes: int, *, is_beside: bool = False) -> None:
        """`is_beside`: another instance serves already."""
        self.is_beside = is_beside
        self.size = _HEAD + processes * _PLACE + RATES_BYTES
        self._file = os.memfd_create("goproxy-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(self._file, self.size)
        self._memory = memoryview(mmap.mmap(self._file, self.size))
        self.rates = SharedRates(self._memory[-RATES_BYTES:], self.locked)
        starts = range(_HEAD, _HEAD + processes * _PLACE, _PLACE)
        self.places = [Place(self, number, self._memory[at : at + _PLACE]) for number, at in enumerate(starts, 1)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Change what others change, too: for microseconds, and without waiting for anything."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1)

    @property
    def may_listen(self) -> bool:
        return bool(self._memory[0])

    def let_listen(self) -> None:
        """All processes could listen: they may."""
        self._memory[0] = 1


class Place:
    """What one process has on the scoreboard."""

    def __init__(self, scoreboard: Scoreboard, number: int, memory: memoryview[int]) -> None:
        self._scoreboard = scoreboard
        self.number = number
        self._memory = memory
        self._doubles = memory[:_DIRECTORY].cast("d")
        self.gauges = SharedTally(memory[_GAUGES:_COUNTS])
        self.counts = SharedTally(memory[_COUNTS:])

    @property
    def processes(self) -> int:
        """How many there are to be."""
        return len(self._scoreboard.places)

    @property
    def is_beside(self) -> bool:
        return self._scoreboard.is_beside and not self._scoreboard.may_listen

    @property
    def others(self) -> Sequence[Place]:
        return [place for place in self._scoreboard.places if place is not self]

    @property
    def rates(self) -> SharedRates:
        return self._scoreboard.rates

    # Of the process itself.

    @property
    def state(self) -> State:
        return State(self._memory[_STATE])

    @state.setter
    def state(self, state: State) -> None:
        self._memory[_STATE] = state

    @property
    def directory(self) -> str | None:
        """The name of the directory that the last process here took for its journal."""
        return bytes(self._memory[_DIRECTORY : _DIRECTORY + _DIRECTORY_BYTES]).rstrip(b"\0").decode() or None

    @directory.setter
    def directory(self, name: str) -> None:
        self._memory[_DIRECTORY : _DIRECTORY + _DIRECTORY_BYTES] = name.encode().ljust(_DIRECTORY_BYTES, b"\0")

    @property
    def connections(self) -> int:
        """How many clients are connected, when it was last said."""
        return int(self._doubles[_CONNECTIONS // 8])

    @connections.setter
    def connections(self, number: int) -> None:
        self._doubles[_CONNECTIONS // 8] = number

    @property
    def has_more_connections(self) -> bool:
        """Than another process that serves."""
        own = self.connections
        return any(other.connections < own for other in self.others if other.state is State.SERVING)

    def beat(self, readiness: Readiness, gauges: Mapping[str, float]) -> None:
        """Say how this process stands."""
        detail = readiness.detail.encode()[:_DETAIL_BYTES]
        self._memory[_DETAIL:_GAUGES] = detail.ljust(_DETAIL_BYTES, b"\0")
        self._memory[_READY] = readiness.ready
        for name, value in gauges.items():
            self.gauges.numbers[self.gauges.index(name)] = value
        self._doubles[_BEAT // 8] = time.monotonic()

    def vacate(self) -> None:
        """Its process has ended: only what it counted stays."""
        with self._scoreboard.locked():
            self._doubles[_DRAINS // 8] = 0
        self.state = State.ABSENT
        self.connections = 0
        self._memory[_READY] = 0
        self.gauges.clear()

    async def until_it_may_listen(self) -> None:
        """Wait for the other processes of a first start: clients come when all can serve."""
        self.state = State.PREPARED
        while not self._scoreboard.may_listen:  # noqa: ASYNC110 - shared memory has no event
            await asyncio.sleep(_GO_EVERY)
        self.state = State.SERVING

    def begin_drain(self, most: int) -> bool:
        """Begin one more drain, unless all processes together have as many as may be."""
        with self._scoreboard.locked():
            running = sum(place._doubles[_DRAINS // 8] for place in self._scoreboard.places)
            if running < most:
                self._doubles[_DRAINS // 8] += 1
            return running < most

    def end_drain(self) -> None:
        with self._scoreboard.locked():
            self._doubles[_DRAINS // 8] -= 1

    # Of all together.

    def readiness(self, own: Readiness) -> Readiness:
        """Ready is an upstream of which every process is."""
        if not own.ready:
            return own
        for place in self.others:
            if place.state is not State.SERVING:
                return Readiness(False, f"process {place.number} of {self.processes} is being started")
            if not place._memory[_READY]:
                detail = bytes(place._memory[_DETAIL:_GAUGES]).rstrip(b"\0").decode(errors="replace")
                return Readiness(False, f"process {place.number} of {self.processes}: {detail}")
        return own

    def illness(self) -> str | None:
        """Which process gives no sign of life, if one does not. One that ended is started anew, and is no illness."""
        for place in self.others:
            silent = time.monotonic() - place._doubles[_BEAT // 8]
            if place.state is State.SERVING and silent > _SILENT:
                return f"process {place.number} of {self.processes} has been stuck for {silent:.0f} s"
        return None
