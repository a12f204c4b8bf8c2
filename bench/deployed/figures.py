"""The figures of what a run of site.yml costs, and what of them is not what it must be."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

MOST = 1.5
"""Times as long a run may take."""


def compute(measured: Mapping[int, Any], sizes: Sequence[int]) -> tuple[dict[str, float], list[str]]:
    """Ratios between the largest and the smallest size, and those that are too large.

    Of each kind of run the quickest counts: what else the machine did meanwhile only ever adds.
    """
    small, large = min(sizes), max(sizes)

    def undisturbed(size: int, kind: str) -> float:
        return min(float(run["seconds"]) for run in measured[size][kind])

    figures = {
        f"deploy.nochange_{large}_vs_{small}": round(
            undisturbed(large, "nochange") / undisturbed(small, "nochange"), 2
        ),
        f"deploy.one_changed_{large}_vs_nochange_{large}": round(
            undisturbed(large, "one_changed") / undisturbed(large, "nochange"), 2
        ),
    }
    return figures, [f"{name} is {value} and may be {MOST} at most" for name, value in figures.items() if value > MOST]


def document(
    figures: Mapping[str, float], measured: Mapping[int, Any], problems: list[str], repeat: int, commit: str | None
) -> dict[str, Any]:
    """The figures, and where, when and of what they were taken."""
    return {
        "figures": dict(figures),
        "problems": problems,
        "repeat": repeat,
        "runs": {str(size): runs for size, runs in measured.items()},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
    }
