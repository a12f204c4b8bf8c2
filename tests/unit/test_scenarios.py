"""How Molecule's scenarios are run one after the other, and that nothing of them stays, whatever happens.

The real testkit/scenarios.py, in a project whose engine, molecule and ansible-playbook only note that they were called.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from real_ansible import REPOSITORY

MOLECULE = """#!/bin/sh
[ -z "$VIRTUAL_ENV" ] || ANSIBLE_HOME=$VIRTUAL_ENV
echo "$3, created before: $(test -e "$ANSIBLE_HOME/tmp/state.yml" && echo yes || echo no)" >> notes
mkdir -p "$ANSIBLE_HOME/tmp" && touch "$ANSIBLE_HOME/tmp/state.yml"
[ "$3" != slow ] || { sleep 60 & echo "child $!" >> notes; wait; }
[ "$3" != default ] || [ ! -e cannot_deploy ] || exit 1
printf '<testsuite tests="1" failures="0" errors="0" skipped="0"/>' > "results/molecule-$3.xml"
[ "$3" != red ] || exit 1
"""
NOTE = '#!/bin/sh\necho "$(basename "$0") $*" >> notes\n'
DOWN = "ansible-playbook testkit/down.yml -i inventory/demo"


@dataclass(frozen=True)
class Project:
    """A project with nothing in it but what runs scenarios."""

    folder: Path

    def start(self, *scenarios: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.folder / "bin/python", "testkit/scenarios.py", "results", *scenarios],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *scenarios: str) -> tuple[int, str]:
        with self.start(*scenarios) as process:
            told, _ = process.communicate(timeout=60)
            return process.returncode, told

    @property
    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("bin", "results", "testkit", "tests"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    for name in ("testkit/scenarios.py", "tests/summary.py"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    for name, program in {"bin/molecule": MOLECULE, "bin/ansible-playbook": NOTE, "testkit/engine.sh": NOTE}.items():
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    return Project(tmp_path)


def test_each_begins_anew_and_all_is_removed_in_the_end(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the second time, in the same folder: Molecule does not believe that the host of before is there."""
    monkeypatch.setenv("VIRTUAL_ENV", str(project.folder / "venv"))
    for _ in range(2):
        assert project.run("default", "billing")[0] == 0
    each = ["engine.sh ", "default, created before: no", "billing, created before: no", DOWN, "engine.sh stop"]
    assert project.notes == each * 2


def test_a_red_one_keeps_no_other_from_running(project: Project) -> None:
    assert project.run("red", "default", "billing")[0] == 1
    assert [note.split(",")[0] for note in project.notes[1:4]] == ["red", "default", "billing"]


def test_those_that_go_on_from_what_could_not_be_deployed_are_not_run(project: Project) -> None:
    (project.folder / "cannot_deploy").touch()
    code, told = project.run("check_first", "default", "billing")
    assert code == 1
    assert "billing: not run, since default did not come as far as its tests" in told
    assert [note.split(",")[0] for note in project.notes] == [
        "engine.sh ",
        "check_first",
        "default",
        DOWN,
        "engine.sh stop",
    ]


def test_no_scenario_is_run_without_an_engine(project: Project) -> None:
    (project.folder / "testkit/engine.sh").write_text(NOTE + '[ "$1" = stop ]\n')
    assert project.run("default")[0] == 1
    assert project.notes == ["engine.sh ", "engine.sh stop"]


def test_what_cannot_be_removed_is_said(project: Project) -> None:
    (project.folder / "bin/ansible-playbook").write_text("#!/bin/sh\nexit 2\n")
    code, told = project.run("default")
    assert code == 1
    assert "make test-down" in told


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(project: Project, sent: signal.Signals) -> None:
    """Neither hosts nor a process, and the scenarios that were to come are not begun."""
    with project.start("slow", "billing") as process:
        deadline = time.monotonic() + 60
        while not any("child" in note for note in (project.notes if (project.folder / "notes").exists() else [])):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, sent)
        assert process.wait(60) == 1
    (child,) = [int(note.split()[1]) for note in project.notes if "child" in note]
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [note for note in project.notes if "child" not in note] == [
        "engine.sh ",
        "slow, created before: no",
        DOWN,
        "engine.sh stop",
    ]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
