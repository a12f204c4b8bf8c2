"""Hardening: the rules over what the roles' templates make, and for each rule the changes that it must find."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

from torture.hardening.rendered import Site, rendered
from torture.hardening.rules import RULES, Rule

_log = logging.getLogger("torture")


def is_proven(rule: Rule, site: Site) -> bool:
    """Whether each of its breakings is found."""
    for number, breaking in enumerate(rule.breakings):
        broken = copy.deepcopy(site)
        breaking(broken)
        if not list(rule.problems(broken)):
            _log.warning("hardening: %s: breaking %d is not found", rule.name, number)
            return False
    return bool(rule.breakings)


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:  # noqa: ARG001 - the rules are few enough
    """Hold every rule against what is rendered, then against each of its breakings."""
    site = rendered(scratch)
    violations = 0
    for rule in RULES:
        for problem in rule.problems(site):
            violations += 1
            _log.warning("hardening: %s: %s", rule.name, problem)
    return {
        "hardening.rules": len(RULES),
        "hardening.rules_proven_by_breaking": sum(is_proven(rule, site) for rule in RULES),
        "hardening.breakings": sum(len(rule.breakings) for rule in RULES),
        "hardening.violations": violations,
    }
