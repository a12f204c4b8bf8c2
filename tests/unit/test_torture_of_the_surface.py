"""A sample of what `make torture` does from outside: payloads, odd input, broken rules.

The real nginx, proxies and backend run as processes of this machine; no container is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from real_ansible import REPOSITORY

LEAST = {
    "smuggling.payloads": 10,
    "smuggling.deliveries": 40,
    "fuzz.meter_inputs": 2000,
    "fuzz.http_requests": 50,
    "hardening.rules": 100,
    "hardening.breakings": 300,
}
NONE = (
    "smuggling.extra_requests",
    "smuggling.disturbed_neighbours",
    "smuggling.server_errors",
    "fuzz.failures",
    "hardening.violations",
)


@pytest.fixture(scope="module")
def figures() -> dict[str, int]:
    """What a small part of the whole says."""
    command = [sys.executable, "-m", "torture.run", "--size", "0.002", "--only", "smuggling,fuzz,hardening"]
    environment = os.environ | {"PYTHONPATH": "proxy_app:bench"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("figure ")]
    return {name: int(value) for _, name, value in lines}


def test_so_much_was_tried(figures: dict[str, int]) -> None:
    assert {name: figures[name] for name, least in LEAST.items() if figures[name] < least} == {}


def test_nothing_got_through(figures: dict[str, int]) -> None:
    assert {name: figures[name] for name in NONE} == dict.fromkeys(NONE, 0)


def test_each_rule_notices_when_it_is_broken(figures: dict[str, int]) -> None:
    assert figures["hardening.rules_proven_by_breaking"] == figures["hardening.rules"]
