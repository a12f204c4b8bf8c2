"""The machine that was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from relayed.process import CannotMeasure, interpreter

QUIET = 0.5
"""The load average up to which nothing else was at work."""

_SYNCS = 300
_BLOCK = 4096
_PACKAGES = ("aiohttp", "uvloop", "httptools")


def describe(directory: Path) -> dict[str, Any]:
    """Processor, kernel, Python, and how long the disk of `directory` takes for a sync."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": _python(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
        "file_system": _file_system(directory),
        "fdatasync_us": _sync_us(directory),
    }


def refuse_memory_disk(directory: Path) -> None:
    """A journal in memory would be synced in no time.

    Raises:
        CannotMeasure: it would be in memory.
    """
    kind = _file_system(directory)
    if kind in ("tmpfs", "ramfs"):
        raise CannotMeasure(f"{directory} is in memory ({kind}): name a directory on a disk with --scratch")


def _python() -> str:
    """The version of the one that runs what is measured."""
    command = [interpreter(), "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _file_system(directory: Path) -> str:
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, type_, *_ = line.split()
        if directory.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, type_
    return kind


def _sync_us(directory: Path) -> dict[str, float]:
    """One block more in a file whose room is there, and synced: what the goproxy's journal does."""
    file = os.open(directory / "sync", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(file, 0, _SYNCS * _BLOCK)
        times = []
        for block in range(_SYNCS):
            began = time.perf_counter()
            os.pwrite(file, b"x" * _BLOCK, block * _BLOCK)
            os.fdatasync(file)
            times.append(1e6 * (time.perf_counter() - began))
    finally:
        os.close(file)
        (directory / "sync").unlink()
    times.sort()
    return {"p50": round(times[_SYNCS // 2], 1), "p99": round(times[_SYNCS * 99 // 100], 1)}
