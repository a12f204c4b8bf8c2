"""Torture the gateway, and print one line for each figure (docs/reliability.md).

    PYTHONPATH=proxy_app:bench .venv/bin/python -m torture.run --size 0.01 --only faults,kill9

Each part is a module `torture.NAME` with `measure(size, scratch)`; what went wrong in detail it tells on standard
error, and a miss is a figure. Exit code 1: a figure is not what it must be, or a part could not be measured.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from billed.report import Findings, checked_out, lines, shown, write

from torture import record

PARTS = (
    "faults",
    "isolation",
    "kill9",
    "slow_readers",
    "smuggling",
    "attacks",
    "fuzz",
    "hardening",
    "secrets",
    "rollout",
    "ansible",
)
MUST_BE_ZERO = {
    "rollout.cut_streams",
    "rollout.lost_events",
    "rollout.gateway_errors",
    "faults.invariant_violations",
    "faults.left_out",
    "isolation.errors",
    "kill9.ledger_difference_rows",
    "slow_readers.cut_streams",
    "fuzz.failures",
    "smuggling.extra_requests",
    "smuggling.disturbed_neighbours",
    "smuggling.server_errors",
    "attacks.failures",
    "hardening.violations",
    "secrets.found",
    "ansible.not_converged",
    "ansible.cut_streams",
    "ansible.failed_requests",
}
MUST_BE_EQUAL = {
    "hardening.rules_proven_by_breaking": "hardening.rules",
    "isolation.troubles_felt": "isolation.troubles",
}

Measure = Callable[[float, Path], Mapping[str, int | float]]

_ROOT = Path(__file__).parents[1]
_LEAST = 0.0001


def is_there(part: str) -> bool:
    """Whether the part is in this checkout."""
    return importlib.util.find_spec(f"torture.{part}") is not None


def measured(parts: Sequence[str], size: float, scratch: Path) -> tuple[Findings, dict[str, float]]:
    """What the parts found, and how long each took."""
    findings, seconds = Findings(), {}
    for part in parts:
        if not is_there(part):
            print(f"{part}: missing", file=sys.stderr)
            findings.note("missing", [*findings.notes.get("missing", []), part])
            continue
        print(f"{part} ...", file=sys.stderr)
        began = time.monotonic()
        try:
            _take(_measure_of(part)(size, _directory(scratch, part)), findings)
        except Exception as error:  # the other parts are measured all the same
            logging.getLogger("torture").exception("%s could not be measured", part)
            findings.wrong(f"{part} could not be measured: {error!r}")
        seconds[part] = round(time.monotonic() - began, 1)
        print(f"{part}: {seconds[part]} s", file=sys.stderr)
    for name, other in MUST_BE_EQUAL.items():
        if findings.figures.get(name) != findings.figures.get(other):
            findings.wrong(f"{name} is {findings.figures.get(name)} and {other} is {findings.figures.get(other)}")
    return findings, seconds


def table(findings: Findings, seconds: Mapping[str, float]) -> Sequence[str]:
    """The figures for people, part by part."""
    width = max((len(name) for name in findings.figures), default=0)
    return [
        f"{name:<{width}}  {value:>12,}  {_verdict(name, value)}".rstrip() for name, value in findings.figures.items()
    ] + [f"{part}: {duration} s" for part, duration in seconds.items()]


def _verdict(name: str, value: int | float) -> str:
    if name not in MUST_BE_ZERO:
        return ""
    return "must be 0" if value else "ok"


def _measure_of(part: str) -> Measure:
    measure: Measure = importlib.import_module(f"torture.{part}").measure
    return measure


def _directory(scratch: Path, part: str) -> Path:
    directory = scratch / part
    directory.mkdir()
    return directory


def _take(figures: Mapping[str, int | float], findings: Findings) -> None:
    for name, value in figures.items():
        if name in MUST_BE_ZERO:
            findings.must_be_zero(name, int(value))
        else:
            findings.count(name, value)


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"there is no part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    return parts


def main() -> int:
    """Measure, print, write; the result is the exit code."""
    parser = argparse.ArgumentParser(description="Torture the gateway.")
    parser.add_argument("--size", type=float, default=1.0, help="1: the whole run; 0.01: a hundredth of it")
    parser.add_argument("--only", type=_parts, help="parts to measure, with commas between: faults,kill9")
    parser.add_argument("--output", type=Path, help=f"default: {record.PATH.relative_to(_ROOT)}, if the size is 1")
    chosen = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    commit = checked_out()
    output = chosen.output or (record.PATH if chosen.size >= 1 else None)
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        findings, seconds = measured(chosen.only or PARTS, max(chosen.size, _LEAST), Path(scratch))
    for line in (*table(findings, seconds), "", *lines(findings)):
        print(line)
    for problem in shown(findings.problems):
        print(problem, file=sys.stderr)
    if output is not None:
        write(output, record.merged(record.read(output), findings, chosen.size, seconds, commit, PARTS))
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
