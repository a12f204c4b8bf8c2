"""The results of a run: every sample as it was taken, the figures made of them, and where and when and of what."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billed.report import write


@dataclass
class Results:
    """As they stand in figures/relay.json."""

    size: str
    machine: dict[str, Any]
    commit: str | None
    versions: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    measured: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By measure: each sample, with what it is of."""
    ledger: dict[str, int] = field(default_factory=dict)
    """What all ledgers together have, and how far that is from what they should have."""
    losses: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Of the measuring."""
    missed: list[str] = field(default_factory=list)
    """What was measured, or should have been, and is not as it must be."""
    elsewhere: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Figures that another run has measured: of which commit, and when."""
    seconds: dict[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write them for people and programs."""
        document = asdict(self)
        measured = document.pop("measured")
        write(path, document | {"date": datetime.now(UTC).isoformat(timespec="seconds"), "measured": measured})
