"""figures/reliability.json: what each part found when it was last measured whole, when, where and of what.

The parts take hours together, so each is measured when there is time for it, and the others' figures stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from billed.report import Findings, document

PATH = Path(__file__).parents[1] / "figures" / "reliability.json"


def merged(
    before: Mapping[str, Any],
    findings: Findings,
    size: float,
    seconds: Mapping[str, float],
    commit: str | None,
    order: Sequence[str],
) -> dict[str, Any]:
    """The record after these findings; a part that found nothing, since it failed, keeps what it had.

    `seconds`: by part; `order`: that of all parts.
    """
    last = document(findings, size, seconds, commit)
    about = {"date": last["date"], "commit": commit, "size": size}
    found = {part_of(name) for name in findings.figures}
    kept = {name: value for name, value in before.get("figures", {}).items() if part_of(name) not in found}
    figures = kept | findings.figures
    parts = before.get("parts", {}) | {part: about | {"seconds": seconds[part]} for part in found}
    return {
        "figures": dict(sorted(figures.items(), key=lambda item: order.index(part_of(item[0])))),
        "parts": {part: parts[part] for part in order if part in parts},
        **{name: last[name] for name in ("notes", "problems", "machine", "date", "commit")},
    }


def part_of(figure: str) -> str:
    """`faults` of `faults.kinds`."""
    return figure.partition(".")[0]


def read(path: Path) -> dict[str, Any]:
    """What was recorded; nothing, if there is no record yet."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content
