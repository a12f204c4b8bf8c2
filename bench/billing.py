"""Measure what the billing promises (docs/billing.md), and print one line for each figure.

    PYTHONPATH=proxy_app .venv/bin/python bench/billing.py --size 1

Proxies, backend, journal and store are the real ones; the providers are simulated, and their own record is the truth.
Exit code 1: a figure is not what it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from billed import complete, crashes, interrupted, outage, overdraft, revocation
from billed.report import Findings, checked_out, document, lines, shown, write

_ROOT = Path(__file__).parents[1]
_LEAST = 0.0001


def _at_least(least: int, number: float) -> int:
    return max(least, round(number))


Measure = Callable[[Path, float], Awaitable[Findings]]

MEASURES: dict[str, Measure] = {
    "complete": lambda directory, size: complete.measure(directory, _at_least(20, 50_000 * size)),
    "interrupted": lambda directory, size: interrupted.measure(directory, _at_least(20, interrupted.WHOLE_RUN * size)),
    "crashes": lambda _, size: crashes.measure(_at_least(2, 300 * size)),
    "overdraft": lambda directory, size: overdraft.measure(directory, _at_least(1, 20 * size)),
    "outage": lambda directory, size: outage.measure(directory, max(1, 60 * size), max(1, 30 * size)),
    "revocation": lambda directory, size: revocation.measure(directory, _at_least(3, 50 * size)),
}


async def _measure(names: Sequence[str], size: float, scratch: Path) -> tuple[Findings, dict[str, float]]:
    findings, seconds = Findings(), {}
    for name in names:
        began = time.monotonic()
        findings.add(await MEASURES[name](scratch / name, size))
        seconds[name] = round(time.monotonic() - began, 1)
        print(f"{name}: {seconds[name]} s", file=sys.stderr)
    return findings, seconds


def main() -> int:
    """Measure, print, write; the result is the exit code."""
    parser = argparse.ArgumentParser(description="Measure what the billing promises.")
    parser.add_argument("--size", type=float, default=1.0, help="1: the whole run; 0.01: a hundredth of it")
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure this alone; repeat for more")
    parser.add_argument("--output", type=Path, help="default: figures/billing.json, but nowhere with --only")
    chosen = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())
    commit = checked_out()
    output = chosen.output or (None if chosen.only else _ROOT / "figures" / "billing.json")
    with tempfile.TemporaryDirectory(prefix="billing-") as scratch:
        findings, seconds = asyncio.run(_measure(chosen.only or [*MEASURES], max(chosen.size, _LEAST), Path(scratch)))
    for line in lines(findings):
        print(line)
    for problem in shown(findings.problems):
        print(problem, file=sys.stderr)
    if output is not None:
        write(output, document(findings, chosen.size, seconds, commit))
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
