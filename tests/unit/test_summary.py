"""The last lines of `make test`: what was counted, and what failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SUMMARY = Path(__file__).parents[1] / "summary.py"


def summarise(directory: Path, *suites: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SUMMARY, directory, *suites], check=False, capture_output=True, text=True)


def report(directory: Path, suite: str, cases: str, *, tests: int, failures: int = 0) -> None:
    (directory / f"{suite}.xml").write_text(
        f'<testsuites><testsuite tests="{tests}" failures="{failures}" errors="0" skipped="0">'
        f"{cases}</testsuite></testsuites>"
    )


def test_counts_are_added_up_and_are_the_last_line(tmp_path: Path) -> None:
    report(tmp_path, "unit", '<testcase classname="a" name="b"/>', tests=2)
    report(tmp_path, "testkit", '<testcase classname="a" name="b"/>', tests=1)
    told = summarise(tmp_path, "unit", "testkit")
    assert told.returncode == 0
    assert told.stdout.splitlines()[-1] == "3 passed, 0 failed, 0 skipped"


def test_a_failed_test_is_named_with_the_end_of_what_it_said(tmp_path: Path) -> None:
    report(
        tmp_path,
        "unit",
        '<testcase classname="tests.x" name="test_y"><failure message="m">first\nE  assert 1 == 2</failure></testcase>',
        tests=2,
        failures=1,
    )
    told = summarise(tmp_path, "unit")
    assert told.returncode == 1
    assert told.stdout.splitlines()[-4:] == [
        "FAILED tests.x::test_y",
        "    first",
        "    E  assert 1 == 2",
        "1 passed, 1 failed, 0 skipped",
    ]


def test_a_suite_that_did_not_run_or_ran_no_test_is_a_failure(tmp_path: Path) -> None:
    report(tmp_path, "unit", '<testcase classname="a" name="b"/>', tests=1)
    report(tmp_path, "empty", "", tests=0)
    told = summarise(tmp_path, "unit", "empty", "absent")
    assert told.returncode == 1
    assert "error: empty ran no test" in told.stdout
    assert "error: absent ran no test" in told.stdout
    assert told.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped, 2 of 3 suites did not run"


def test_a_part_that_counts_nothing_is_not_overlooked(tmp_path: Path) -> None:
    report(tmp_path, "unit", '<testcase classname="a" name="b"/>', tests=1)
    told = summarise(tmp_path, "unit", "--failed", "lint")
    assert told.returncode == 1
    assert told.stdout.splitlines()[-2:] == ["error: make lint failed: see above", "1 passed, 0 failed, 0 skipped"]
