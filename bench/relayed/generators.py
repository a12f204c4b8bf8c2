"""The provider and the clients: C programs, compiled here, on the core that nothing is measured on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayed.process import CannotMeasure, Process, pinned, running
from relayed.web import get

_SOURCES = Path(__file__).parent
_TICK_US = 1000
"""A paced event is sent with those that are due in the same millisecond."""

_PATIENCE_MS = 30_000


Sample = dict[str, Any]
"""What the clients counted and timed in one go."""


@dataclass(frozen=True)
class Load:
    """What the clients ask for, and for how long it is measured."""

    connections: int
    seconds: float
    warmup: float
    is_stream: bool = True
    pace_ms: float = 0
    """Between two events of a stream; 0: all come at once."""
    ramp: float = 0
    """Seconds within which the connections begin, one after the other."""


class Provider:
    """It answers all that is asked, and counts it."""

    def __init__(self, port: int, process: Process) -> None:
        self.port = port
        self.process = process

    def counts(self) -> dict[str, int]:
        """What it has sent since it began."""
        counts: dict[str, int] = get(self.port, "/")
        return counts


class Generators:
    """Both, compiled into a directory, on a core."""

    def __init__(self, directory: Path, core: int) -> None:
        self.core = core
        self._directory = directory
        for name in ("provider", "client"):
            _compile(_SOURCES / f"{name}.c", directory / name)

    @contextmanager
    def provider(self) -> Iterator[Provider]:
        """Run the provider."""
        with running("provider", [str(self._directory / "provider"), str(_TICK_US)], self.core) as process:
            yield Provider(int(process.first_line()), process)

    def start_clients(
        self, port: int, load: Load, keys: Path, watched: Mapping[str, Sequence[int]], host: str = "127.0.0.1"
    ) -> subprocess.Popen[str]:
        """Start the clients; `watched`: processes whose CPU time is to be told, by name."""
        command = [
            str(self._directory / "client"),
            *("--port", str(port), "--host", host, "--keys", str(keys), "--connections", str(load.connections)),
            *("--ms", str(round(1000 * load.seconds)), "--warmup-ms", str(round(1000 * load.warmup))),
            *("--ramp-ms", str(round(1000 * load.ramp)), "--pace-us", str(round(1000 * load.pace_ms))),
            *("--patience-ms", str(_PATIENCE_MS)),
            *(f"--watch={name}={','.join(map(str, pids))}" for name, pids in watched.items() if pids),
            *([] if load.is_stream else ["--json"]),
        ]
        return subprocess.Popen(pinned(self.core, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @staticmethod
    def result(clients: subprocess.Popen[str]) -> Sample:
        """Wait for what they found.

        Raises:
            CannotMeasure: they broke down.
        """
        output, errors = clients.communicate()
        if clients.returncode:
            raise CannotMeasure(f"the clients ended with code {clients.returncode}: {errors.strip()}")
        sample: Sample = json.loads(output)
        if errors:
            sample["said"] = errors[:500]
        return sample


def faults(sample: Sample) -> dict[str, int]:
    """What the clients found wrong, by kind; lost events are counted for themselves."""
    found = sample["all"]
    return {kind: found[kind] for kind in ("disordered", "broken", "refused", "wrong", "unfinished") if found[kind]}


def _compile(source: Path, program: Path) -> None:
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Wno-unused-function", "-o", str(program), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotMeasure("there is no gcc; `make bench` installs it") from None
    if done.returncode:
        raise CannotMeasure(f"{source.name} does not compile: {done.stderr}")
