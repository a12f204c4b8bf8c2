"""What installs packages for the tests leaves no machine on which servers are not started any more.

The real scripts, with a fake apt-get and dpkg-query; the two paths of the machine that they write to are the test's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from real_ansible import REPOSITORY

APT = """#!/bin/sh
echo "$*" >> {notes}
case "$1" in
  update) [ ! -e {locked} ] || {{ rm {locked}; echo "E: Could not get lock /var/lib/apt/lists/lock" >&2; exit 100; }} ;;
  install) test -x {policy} && echo policy >> {notes}; sleep "${{APT_SECONDS:-0}}" ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """Where the scripts believe to be."""

    folder: Path
    policy: Path
    notes: Path

    def start(self, **environment: str) -> subprocess.Popen[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["sh", self.folder / "packages.sh", "a-package"],
            env=os.environ | {"PATH": path} | environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, tmp_path / "policy-rc.d", tmp_path / "notes")
    for name in ("packages.sh", "apt.sh"):
        text = (REPOSITORY / "testkit" / name).read_text()
        text = text.replace("/usr/sbin/policy-rc.d", str(made.policy)).replace("/etc/", f"{tmp_path}/etc/")
        (tmp_path / name).write_text(text.replace("sleep 5", "sleep 0.1"))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bin").mkdir()
    fakes = {"apt-get": APT.format(notes=made.notes, policy=made.policy, locked=tmp_path / "locked")}
    for name, text in (fakes | {"dpkg-query": "#!/bin/sh\nexit 1\n"}).items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return made


def test_no_server_is_started_meanwhile_and_any_is_afterwards(machine: Machine) -> None:
    with machine.start() as process:
        assert process.wait(60) == 0
    assert "policy" in machine.notes.read_text().splitlines()
    assert not machine.policy.exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_policy(machine: Machine, sent: signal.Signals) -> None:
    """To all of them, as a terminal sends it. (One that comes while dash forks is seen when the child has ended.)"""
    with machine.start(APT_SECONDS="3") as process:
        deadline = time.monotonic() + 20
        while not machine.notes.exists() or "policy" not in machine.notes.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, sent)
        assert process.wait(60) == 128 + sent
    assert not machine.policy.exists()


def test_a_policy_of_the_machines_own_stays_and_one_of_a_killed_run_does_not(machine: Machine) -> None:
    machine.policy.write_text("#!/bin/sh\nexit 0\n")
    with machine.start() as process:
        assert process.wait(60) == 0
    assert machine.policy.read_text() == "#!/bin/sh\nexit 0\n"
    machine.policy.unlink()
    with machine.start(APT_SECONDS="3") as process:
        while not machine.policy.exists():
            time.sleep(0.02)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    assert machine.policy.exists()
    with machine.start() as process:
        assert process.wait(60) == 0
    assert not machine.policy.exists()


def test_whoever_else_installs_is_waited_for(machine: Machine) -> None:
    (machine.folder / "locked").touch()
    with machine.start() as process:
        assert process.wait(60) == 0
    told = machine.notes.read_text().splitlines()
    assert [line.split()[0] for line in told if line != "policy"] == ["update", "update", "install"]
    assert all("DPkg::Lock::Timeout=300" in line for line in told if line != "policy")


def test_a_mirror_that_cannot_be_reached_is_said(machine: Machine) -> None:
    (machine.folder / "bin" / "apt-get").write_text("#!/bin/sh\necho 'E: Failed to fetch' >&2\nexit 100\n")
    with machine.start() as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the package mirror must be reachable: E: Failed to fetch" in said
    assert not machine.policy.exists()
