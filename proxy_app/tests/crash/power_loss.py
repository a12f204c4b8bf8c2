"""What would be on the disk if the power failed: every system call of a run is replayed onto a disk that forgets.

Such a disk keeps what was synced. Of the rest it may keep everything, nothing, or any sectors.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath

from tests.crash.promises import Broken, Promises, read_contents
from tests.crash.strace import Call

_SECTOR = 512


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), _SECTOR):
            self.unsynced.append((offset + at, data[at : at + _SECTOR]))

    def sync(self) -> None:
        self.synced = bytearray(self.content(lambda: True))
        self.unsynced = []

    def content(self, keeps: object) -> bytes:
        """What is there if of the sectors that are not synced those are kept for which `keeps` is true."""
        assert callable(keeps)
        content = bytearray(self.synced)
        for offset, data in self.unsynced:
            if keeps():
                content.extend(bytes(max(0, offset + len(data) - len(content))))
                content[offset : offset + len(data)] = data
        return bytes(content)


class Disk:
    """One directory that is made anew, on a disk that forgets."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._open: dict[int, _File] = {}
        self._directories: set[int] = set()
        self._above: set[int] = set()
        self._is_there = False
        """Whether its own name is synced, in the directory above."""
        self._names: dict[str, _File] = {}
        self._synced_names: dict[str, _File] = {}

    def apply(self, call: Call) -> None:
        """A system call has returned."""
        if call.result.startswith("-1"):
            return
        match call.name:
            case "openat":
                self._opened(call)
            case "close":
                self._open.pop(call.descriptor, None)
                self._directories.discard(call.descriptor)
                self._above.discard(call.descriptor)
            case "pwrite64" if call.descriptor in self._open:
                self._open[call.descriptor].write(int(call.arguments.rsplit(",")[-1]), call.data[: int(call.result)])
            case "fdatasync" | "fsync" if call.descriptor in self._open:
                self._open[call.descriptor].sync()
            case "fsync" if call.descriptor in self._directories:
                self._synced_names = dict(self._names)
            case "fsync" if call.descriptor in self._above:
                self._is_there = True
            case "rename":
                source, target = (name.decode() for name in call.strings)
                if self._is_here(source):
                    self._names[target] = self._names.pop(source)
            case "unlink":
                self._names.pop(call.data.decode(), None)

    def images(self, chance: random.Random) -> Iterator[tuple[bytes, ...]]:
        """The segments, the oldest first, as they may be after the power failed now."""
        seen: set[tuple[bytes, ...]] = set() if self._is_there else {()}
        for names in (self._synced_names, self._names):
            segments = [names[name] for name in sorted(names) if name.endswith(".log")]
            for keeps in (lambda: False, lambda: True, lambda: chance.random() < 0.5):
                seen.add(tuple(file.content(keeps) for file in segments))
        yield from seen

    def _opened(self, call: Call) -> None:
        path = call.data.decode()
        descriptor = int(call.result.split("<")[0])
        if path == self._directory:
            self._directories.add(descriptor)
        elif path == ".." and call.descriptor in self._directories:
            self._above.add(descriptor)
        elif self._is_here(path) and "O_CREAT" in call.arguments:
            self._open[descriptor] = self._names[path] = _File()

    def _is_here(self, path: str) -> bool:
        return str(PurePath(path).parent) == self._directory


_RELIED_ON = (b"opened", b"settled", b"returned")


def fail_the_power(directory: str, calls: Iterable[Call]) -> tuple[int, Broken]:
    """Whenever something was relied on: how many disks were looked at, and which promises they break."""
    disk, promises, broken, looked_at = Disk(directory), Promises(), Broken(), 0
    chance, what_it_says = random.Random(1), lru_cache(8)(read_contents)
    for call in calls:
        disk.apply(call)
        if call.name == "write" and call.descriptor == 1:
            promises.hear(call.data.decode().splitlines())
            for segments in disk.images(chance) if call.data.startswith(_RELIED_ON) else ():
                broken += promises.broken_by(what_it_says(segments))
                looked_at += 1
    return looked_at, broken


def never_said_before_synced(calls: Iterable[Call]) -> tuple[list[str], list[str]]:
    """The requests whose `opened` was said after a sync of their record had returned, and those where it was not."""
    written: dict[int, bytes] = {}
    synced = b""
    before: list[str] = []
    too_early: list[str] = []
    for call in calls:
        match call.name:
            case "pwrite64":
                written[call.descriptor] = written.get(call.descriptor, b"") + call.data
            case "fdatasync" | "fsync" if call.result == "0":
                synced += written.pop(call.descriptor, b"")
            case "write" if call.descriptor == 1 and call.data.startswith(b"opened "):
                id_ = call.data.split()[1]
                is_synced = b'{"kind":"open","hold":{"id":"' + id_ + b'"' in synced
                (before if is_synced else too_early).append(id_.decode())
    return before, too_early
