"""A small part of `make torture` (torture/run.py): isolation, kills and slow readers, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_ENVIRONMENT = os.environ | {"PYTHONPATH": f"{_ROOT / 'proxy_app'}{os.pathsep}{_ROOT / 'bench'}"}


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"torture.{module}", *arguments],
        cwd=_ROOT,
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
def test_a_sample_of_the_torture(tmp_path: Path) -> None:
    """A little of what takes seconds; the faults take minutes, and are `make torture`'s alone."""
    output = tmp_path / "reliability.json"
    parts = "isolation,kill9,slow_readers"
    done = _run("run", "--size", "0.004", "--only", parts, "--output", str(output))
    assert done.returncode == 0, done.stderr
    figures = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("figure "))
    assert {name: str(value) for name, value in json.loads(output.read_text())["figures"].items()} == figures
    assert int(figures["isolation.requests"]) >= 400
    assert figures["isolation.troubles_felt"] == figures["isolation.troubles"] == "8"
    assert int(figures["kill9.count"]) == 2
    assert float(figures["slow_readers.kib_per_stream"]) < 1024
    wrong = ("isolation.errors", "kill9.ledger_difference_rows")
    assert [figures[name] for name in wrong] == ["0"] * 2


def test_a_part_that_does_not_exist_is_named() -> None:
    done = _run("run", "--only", "faults,nothing")
    assert (done.returncode, "there is no part 'nothing'; parts are faults, isolation" in done.stderr) == (2, True)


def test_the_page_names_every_kind_of_fault() -> None:
    done = _run("page", "--check")
    assert done.returncode == 0, done.stderr
