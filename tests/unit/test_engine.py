"""Which engine `engine.sh stop` ends: the one that it started itself, if it lives, and runs nothing.

The real script, with a fake docker and dockerd; the paths of the machine that it writes to are the test's.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from real_ansible import REPOSITORY

DOCKER = """#!/bin/sh
case "$1" in
  info) [ -e {folder}/answers ] ;;
  ps) [ ! -e {folder}/mute ] || exit 1; cat {folder}/containers 2>/dev/null || true ;;
  version) echo 1.2.3 ;;
esac
"""
DOCKERD = """#!/bin/sh
[ ! -s "$2" ] || {{ echo "process with PID $(cat "$2") is still running" >&2; exit 1; }}
trap 'rm -f {folder}/answers "$pid"; exit 0' TERM
pid=$2
echo $$ > "$pid"
touch {folder}/answers
while :; do sleep 0.1; done
"""


@dataclass(frozen=True)
class Machine:
    """Where the script believes to be."""

    folder: Path

    @property
    def pid(self) -> Path:
        return self.folder / "run" / "gateway-testkit-dockerd.pid"

    def engine(self, *verb: str) -> str:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        told = subprocess.run(
            ["sh", self.folder / "engine.sh", *verb],
            env=os.environ | {"PATH": path},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        )
        return told.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    text = (REPOSITORY / "testkit/engine.sh").read_text().replace("ip link delete", ": ip link delete")
    text = text.replace("/run/", f"{tmp_path}/run/").replace("/var/log/", f"{tmp_path}/")
    (tmp_path / "engine.sh").write_text(text)
    for name in ("bin", "run"):
        (tmp_path / name).mkdir()
    for name, program in {"docker": DOCKER, "dockerd": DOCKERD, "mmdebstrap": ""}.items():
        (tmp_path / "bin" / name).write_text(program.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    made = Machine(tmp_path)
    yield made
    for rest in ("mute", "containers"):
        (tmp_path / rest).unlink(missing_ok=True)
    made.engine("stop")


@pytest.fixture
def stranger(machine: Machine) -> Iterator[subprocess.Popen[bytes]]:
    """Has the number that an engine had, which was killed, or was there before a boot."""
    with subprocess.Popen(["sleep", "60"]) as process:
        machine.pid.write_text(f"{process.pid}\n")
        yield process
        process.kill()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_was_started_here_is_stopped(machine: Machine) -> None:
    assert "Docker engine 1.2.3 answers" in machine.engine()
    pid = int(machine.pid.read_text())
    assert "stopping" in machine.engine("stop")
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not machine.pid.exists()


@pytest.mark.parametrize(("there", "said"), [("containers", "other containers run"), ("mute", "does not say")])
def test_one_that_runs_something_or_does_not_say_stays(machine: Machine, there: str, said: str) -> None:
    machine.engine()
    (machine.folder / there).write_text("0123456789ab\n")
    assert said in machine.engine("stop")
    assert is_alive(int(machine.pid.read_text()))


def test_a_stranger_with_its_number_is_not_killed(machine: Machine, stranger: subprocess.Popen[bytes]) -> None:
    assert machine.engine("stop") == ""
    assert stranger.poll() is None
    assert not machine.pid.exists()


def test_a_number_that_was_left_keeps_no_engine_from_starting(
    machine: Machine, stranger: subprocess.Popen[bytes]
) -> None:
    assert "answers" in machine.engine()
    assert int(machine.pid.read_text()) != stranger.pid
    assert stranger.poll() is None
