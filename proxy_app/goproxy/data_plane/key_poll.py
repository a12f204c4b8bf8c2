"""The keys as the control plane tells them, and as it told them last, on our disk, for a start while it is away."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from goproxy.core import key_snapshot
from goproxy.core.key_snapshot import InvalidSnapshot, KeySnapshot, ToldKeys
from goproxy.data_plane.control_client import BackOff, ControlClient, ControlPlaneAway, ControlPlaneRefuses, in_turns
from goproxy.data_plane.journal import Journal
from goproxy.observe import log

_WAIT = 25
"""Seconds that the control plane keeps a question for which it has no news."""

_PAUSE = 0.05
"""Seconds between two questions; the control plane may have much to tell."""

_PAUSE_PER_BYTE = 2e-7
_LONGEST_PAUSE = 0.5
"""The same after a document with other keys: a tenth of the time for them, where they change all the time. What is
revoked meanwhile is let in for as long, and who wants idle money back waits."""


class KeyPoll:
    """The last good set of keys."""

    def __init__(
        self,
        journal: Journal,
        control: ControlClient,
        path: Path,
        beside: Iterable[Path],
        recall: Callable[[Iterable[str]], None],
    ):
        """`path`: where they are kept; `beside`: where other instances keep what they hear."""
        self._journal = journal
        self._control = control
        self._path = path
        self._recall = recall
        self._back_off = BackOff("keys")
        self._is_certain = False
        """Whether the control plane that answers is the one that told what we have: a restored one may be behind it."""
        self._confirmed: float | None = None
        self._kept: bytes | None = None
        """The keys on our disk, as they were told."""
        self._paths = {path, *beside}
        self.snapshot = KeySnapshot()

    @property
    def age(self) -> float:
        """Seconds since the control plane last said that this is how it is; infinite if it never did."""
        return float("inf") if self._confirmed is None else time.monotonic() - self._confirmed

    @property
    def problem(self) -> str | None:
        """Why the control plane gives no answer at the moment."""
        return self._back_off.problem

    async def start(self) -> None:
        """Begin with what any instance heard last: the control plane may be away."""
        for confirmed, path in await asyncio.to_thread(_newest_first, self._paths):
            try:
                content = await asyncio.to_thread(path.read_bytes)
                self.snapshot = (await in_turns(key_snapshot.read(content, self.snapshot))).snapshot
            except (OSError, InvalidSnapshot) as error:
                log("kept keys cannot be read", level=logging.ERROR, path=str(path), problem=type(error).__name__)
            else:
                self._begin_with(path, confirmed)
                return

    async def run(self) -> None:
        """Listen for ever."""
        while True:
            try:
                pause = await self._ask()
            except (ControlPlaneAway, ControlPlaneRefuses) as error:
                self._is_certain = False
                await asyncio.sleep(self._back_off.failed(error))
            else:
                self._back_off.succeeded()
                await asyncio.sleep(pause)

    async def _ask(self) -> float:
        """Ask once; how many seconds not to ask again."""
        former = self.snapshot
        if self._is_certain:
            answer = await self._control.keys(self._journal.instance, former.version, _WAIT, former)
        else:
            answer = await self._control.keys(self._journal.instance, 0, 0, former)
            answer = answer or ToldKeys(KeySnapshot())  # there never was a key
        is_first, self._confirmed = self._confirmed is None, time.monotonic()
        self._is_certain = True
        if answer is not None:
            self.snapshot = answer.snapshot
            self._recall(answer.recall)
            if is_first or answer.snapshot.version != former.version:
                log("keys read", version=answer.snapshot.version, keys=len(answer.snapshot))
        if self._kept != self.snapshot.told:  # not its version: an older control plane told other upstreams' keys, too
            await asyncio.to_thread(self._write, self.snapshot)
        else:
            await asyncio.to_thread(self._touch)
        if self.snapshot is former:
            return _PAUSE
        return min(max(_PAUSE, len(self.snapshot.told) * _PAUSE_PER_BYTE), _LONGEST_PAUSE)

    def _begin_with(self, path: Path, confirmed: float) -> None:
        if path == self._path:
            self._kept = self.snapshot.told
        # The wall clock is all that two processes share. One that was set back makes the keys look fresher than they
        # are, at most as fresh as those of a moment ago.
        self._confirmed = time.monotonic() - max(0.0, time.time() - confirmed)

    def _write(self, snapshot: KeySnapshot) -> None:
        beside = self._path.with_suffix(".new")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(snapshot.document)
                file.flush()
                os.fsync(descriptor)
            beside.rename(self._path)
            self._kept = snapshot.told
        except OSError as error:  # it is tried again; until then what is there must not look fresher than it is
            log("keys cannot be kept", level=logging.ERROR, path=str(self._path), problem=error.strerror)

    def _touch(self) -> None:
        try:
            os.utime(self._path)
        except OSError as error:
            log("keys cannot be kept", level=logging.ERROR, path=str(self._path), problem=error.strerror)


def _newest_first(paths: Iterable[Path]) -> list[tuple[float, Path]]:
    """Those that are there, each with when it was confirmed."""
    kept = []
    for path in paths:
        with suppress(OSError):
            kept.append((path.stat().st_mtime, path))
    return sorted(kept, reverse=True)
