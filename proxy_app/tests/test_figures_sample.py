"""The figures of `make figures-billing`, from a run that is a small part of the whole one (bench/billing.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

NAMES = {
    "billing.complete_streams",
    "billing.complete_token_difference",
    "billing.complete_cost_difference_nanodollars",
    "billing.interrupted_streams",
    "billing.interrupted_missing_rows",
    "billing.interrupted_doubled_rows",
    "billing.interrupted_inexact_unflagged",
    "billing.crash_points",
    "billing.crash_lost_rows",
    "billing.crash_doubled_rows",
    "billing.overdraft_nanodollars",
    "billing.backend_outage_failed_requests",
    "billing.revocation_ms_max",
}
MUST_BE_ZERO = {name for name in NAMES if not name.endswith(("_streams", "_points", "_ms_max"))}


@pytest.mark.timeout(90)
def test_a_sample_of_the_figures(tmp_path: Path) -> None:
    output = tmp_path / "figures" / "billing.json"
    done = subprocess.run(
        [sys.executable, str(_ROOT / "bench" / "billing.py"), "--size", "0.006", "--output", str(output)],
        env=os.environ | {"PYTHONPATH": str(_ROOT / "proxy_app")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = dict(line.removeprefix("figure ").split() for line in done.stdout.splitlines())
    document = json.loads(output.read_text())
    assert {name: str(value) for name, value in document["figures"].items()} == printed
    assert printed.keys() >= NAMES
    assert {name: printed[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, "0")
    assert int(printed["billing.complete_streams"]) == 300
    assert int(printed["billing.interrupted_streams"]) == 120
    assert float(printed["billing.revocation_ms_max"]) < 5000
    assert document["machine"].keys() == {"cores", "python", "kernel"}
    assert document.keys() >= {"date", "commit", "size"}
