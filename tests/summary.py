"""Adds up what the test runs counted: the last lines of `make test`. Fails when a suite did not run, or ran no test.

Usage: summary.py [--failed PARTS] DIRECTORY SUITE...   reads DIRECTORY/SUITE.xml (JUnit) for each suite. PARTS: what
of `make test` ended with an error, a line each, so that one which counts nothing (lint) is not overlooked.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree  # our own runs wrote these files

_LINES = 12  # of a failed test's report; the whole of it is further up


def count(report: Path) -> Counter[str]:
    """Passed, failed and skipped tests of one JUnit file; an absent file counts nothing."""
    counts: Counter[str] = Counter()
    if report.exists():
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            counts.update(passed=total - failed - skipped, failed=failed, skipped=skipped)
    return counts


def failures(report: Path) -> list[str]:
    """The failed tests of one JUnit file: each by its name, with the end of what it said."""
    told = []
    if report.exists():
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            for failure in (*case.iter("failure"), *case.iter("error")):
                said = (failure.text or failure.get("message") or "").strip().splitlines()[-_LINES:]
                told.append(
                    "\n".join(
                        [f"FAILED {case.get('classname')}::{case.get('name')}", *(f"    {line[:200]}" for line in said)]
                    )
                )
    return told


def main(directory: Path, suites: Sequence[str], failed_parts: Sequence[str] = ()) -> int:
    """Print a line per suite and the sum; 1 if a suite is missing, empty or red, or a part of `make test` failed."""
    total: Counter[str] = Counter()
    missing = []
    for suite in suites:
        counts = count(directory / f"{suite}.xml")
        if not counts["passed"] + counts["failed"]:
            missing.append(suite)
            print(f"  {suite:<22} did not run")
            continue
        total.update(counts)
        print(f"  {suite:<22} {counts['passed']:>5} passed {counts['failed']:>3} failed {counts['skipped']:>3} skipped")
    for suite in suites:
        for failure in failures(directory / f"{suite}.xml"):
            print(failure)
    for suite in missing:
        print(f"error: {suite} ran no test")
    for part in failed_parts:
        print(f"error: make {part} failed: see above")
    not_run = f", {len(missing)} of {len(suites)} suites did not run" if missing else ""
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped{not_run}")
    return 1 if missing or failed_parts or total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--failed", default="", metavar="PARTS")
    parser.add_argument("directory", type=Path)
    parser.add_argument("suites", nargs="+", metavar="SUITE")
    asked = parser.parse_args()
    sys.exit(main(asked.directory, asked.suites, asked.failed.splitlines()))
