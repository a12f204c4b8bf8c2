"""What a measurement found: figures, and whether they are what they must be."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_SHOWN = 20


@dataclass
class Findings:
    """Figures by name, in order, and all that is wrong."""

    figures: dict[str, int | float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """What stands beside the figures in the file."""
    problems: list[str] = field(default_factory=list)

    def count(self, name: str, value: int | float) -> None:
        """A figure that says how much was done, or how long it took."""
        self.figures[name] = value

    def must_be_zero(self, name: str, value: int) -> None:
        """A figure that is wrong if it is anything else."""
        self.figures[name] = value
        if value:
            self.problems.append(f"{name} is {value} and must be 0")

    def note(self, name: str, value: Any) -> None:
        """Something worth knowing."""
        self.notes[name] = value

    def wrong(self, problem: str) -> None:
        """Something that must not be, and is no figure."""
        self.problems.append(problem)

    def add(self, other: Findings) -> None:
        """Take in what another measurement found."""
        self.figures |= other.figures
        self.notes |= other.notes
        self.problems += other.problems


def lines(findings: Findings) -> Iterable[str]:
    """The figures, one a line."""
    return (f"figure {name} {value}" for name, value in findings.figures.items())


def shown(problems: list[str]) -> Iterable[str]:
    """The first problems, and how many more there are."""
    yield from problems[:_SHOWN]
    if len(problems) > _SHOWN:
        yield f"and {len(problems) - _SHOWN} more"


def document(findings: Findings, size: float, seconds: Mapping[str, float], commit: str | None) -> dict[str, Any]:
    """The figures, and where, when and of what they were taken."""
    return {
        "figures": findings.figures,
        "notes": findings.notes,
        "problems": list(shown(findings.problems)),
        "size": size,
        "seconds": dict(seconds),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write it for people and programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def checked_out() -> str | None:
    """The commit that is checked out; `-dirty` if files differ from it. None: this is no checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
