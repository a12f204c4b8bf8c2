"""Runs the project's playbooks as an operator does, against the scenario's host, with an inventory of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def release(folder: Path) -> Path:
    """A copy of the project, to be changed as a later release of it would be."""
    place = folder / "project"
    shutil.copytree(
        ROOT, place, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", ".cache", ".testkit", ".demo")
    )
    return place


@dataclass(frozen=True)
class Run:
    """What a playbook run said."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        """Number of changed tasks, by the recap."""
        return sum(map(int, re.findall(r"changed=(\d+)", self.output)))


class Operator:
    """Somebody with a copy of the demo's inventory, who edits it and runs playbooks."""

    def __init__(self, folder: Path, project: Path = ROOT) -> None:
        """Copy the inventory to a folder, links resolved. `project`: another release of the project than this one."""
        self.inventory = folder / "inventory"
        self.project = project
        shutil.copytree(ROOT / "inventory/demo", self.inventory)
        self.upstreams = self.inventory / "group_vars/all/upstreams"
        self.vault = self.inventory / "group_vars/all/vault.yml"

    def run(self, playbook: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Run:
        """Run a playbook, with more variables of the environment where they are given.

        The environment says which testkit (TESTKIT_*); Molecule's Ansible settings do not count.
        """
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))
        }
        variables |= {"ANSIBLE_CONFIG": str(self.project / "ansible.cfg"), **(environment or {})}
        told = subprocess.run(
            [BIN / "ansible-playbook", playbook, "-i", self.inventory, *arguments],
            cwd=self.project,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        return Run(told.returncode, told.stdout)

    def succeed(self, playbook: str, *arguments: str) -> Run:
        """Run a playbook that must succeed."""
        run = self.run(playbook, *arguments)
        assert run.code == 0, run.output
        return run
