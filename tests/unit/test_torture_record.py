"""What is recorded of the torture's parts, which are measured one by one."""

from __future__ import annotations

import sys

from real_ansible import REPOSITORY

sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "bench")]

from billed.report import Findings  # noqa: E402 - found by the line above

from torture.record import merged  # noqa: E402

_ORDER = ("faults", "kill9")


def test_a_part_that_is_measured_replaces_its_own_figures_only() -> None:
    """Its old ones go, even those that it does not have any more; the other part keeps figures, date and commit."""
    kills = merged({}, Findings({"kill9.count": 200, "kill9.old": 1}), 1, {"kill9": 220.9}, "aaa", _ORDER)
    faults = merged(kills, Findings({"faults.kinds": 155}), 1, {"faults": 167.6}, "bbb", _ORDER)
    again = merged(faults, Findings({"kill9.count": 100}), 0.5, {"kill9": 100.0}, "ccc", _ORDER)
    assert list(faults["figures"].items()) == [("faults.kinds", 155), ("kill9.count", 200), ("kill9.old", 1)]
    assert again["figures"] == {"faults.kinds": 155, "kill9.count": 100}
    assert [(part, about["commit"], about["size"], about["seconds"]) for part, about in again["parts"].items()] == [
        ("faults", "bbb", 1, 167.6),
        ("kill9", "ccc", 0.5, 100.0),
    ]
    assert again["commit"] == "ccc"


def test_a_part_that_failed_keeps_its_figures() -> None:
    """It has taken its time, and found nothing."""
    kills = merged({}, Findings({"kill9.count": 200}), 1, {"kill9": 220.9}, "aaa", _ORDER)
    failed = merged(kills, Findings(problems=["no disk"]), 1, {"kill9": 3.0}, "bbb", _ORDER)
    assert (failed["figures"], failed["parts"]) == (kills["figures"], kills["parts"])
    assert failed["problems"] == ["no disk"]
