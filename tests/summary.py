"""Adds up what the test runs counted: the last lines of `make test`. Fails when a suite did not run, or ran no test.

Usage: summary.py DIRECTORY SUITE...   reads DIRECTORY/SUITE.xml (JUnit) for each suite.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree  # our own runs wrote these files


def count(report: Path) -> Counter[str]:
    """Passed, failed and skipped tests of one JUnit file; an absent file counts nothing."""
    counts: Counter[str] = Counter()
    if report.exists():
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            counts.update(passed=total - failed - skipped, failed=failed, skipped=skipped)
    return counts


def main(directory: Path, suites: list[str]) -> int:
    """Print a line per suite and the sum; 1 if a suite is missing, empty or red."""
    total: Counter[str] = Counter()
    missing = []
    for suite in suites:
        counts = count(directory / f"{suite}.xml")
        if not counts["passed"] + counts["failed"]:
            missing.append(suite)
        total.update(counts)
        print(f"  {suite:<22} {counts['passed']:>5} passed {counts['failed']:>3} failed {counts['skipped']:>3} skipped")
    for suite in missing:
        print(f"error: {suite} ran no test")
    print(f"{total['passed']} passed, {total['failed'] + len(missing)} failed, {total['skipped']} skipped")
    return 1 if missing or total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
