"""edge-run, which stands between the edge's nginx and its log: what it passes on, and that it makes nobody wait."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from real_ansible import REPOSITORY

EDGE_RUN = str(REPOSITORY / "roles/nginx/files/image/edge-run")
LINES = 300_000


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EDGE_RUN, *command], capture_output=True, text=True, check=False, timeout=60)


def started(
    command: Sequence[str], output: int = subprocess.PIPE, entry: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """It, with no output of the test runner's: it writes without waiting, and so would all who have the same one."""
    return subprocess.Popen([EDGE_RUN, *command], stdin=entry, stdout=output, stderr=subprocess.DEVNULL)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.02)


def test_both_outputs_and_the_exit_code_are_those_of_the_command() -> None:
    done = run("sh", "-c", "echo out; echo error >&2; printf 'no end of line'; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\nno end of line", "error\n", 7)


def test_an_output_of_many_pieces_is_whole() -> None:
    """As much as may wait (1 MiB), so that a reader who gets no processor for a while still gets all of it."""
    done = run("seq", "150000")
    assert done.stdout.split() == [str(number) for number in range(1, 150001)]
    assert done.returncode == 0


def test_what_cannot_be_run_is_said() -> None:
    done = run("no-such-command")
    assert done.returncode == 127
    assert done.stderr == "edge-run: no-such-command: No such file or directory\n"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM])
def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    """QUIT is what the engine stops the container with; this is its first process."""
    trap = f"trap 'echo heard; exit 3' {number.name.removeprefix('SIG')}"
    script = f"{trap}; touch {tmp_path}/ready; while :; do sleep 0.1; done"
    with started(["sh", "-c", script]) as process:
        wait_for(tmp_path / "ready")
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
    assert output == b"heard\n"
    assert process.returncode == 3


def test_a_command_that_a_signal_ends_counts_as_such() -> None:
    assert run("sh", "-c", "kill -KILL $$").returncode == 128 + signal.SIGKILL


def test_a_log_that_nobody_reads_stops_nobody_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    """The engine is away: the command goes on. It comes back: it gets whole lines, and how many there were besides."""
    script = f"seq {LINES}; touch {tmp_path}/written; read line; echo after"
    read_end, write_end = os.pipe()
    with started(["sh", "-c", script], write_end, subprocess.PIPE) as process:
        os.close(write_end)
        wait_for(tmp_path / "written")
        with os.fdopen(read_end) as log:
            lines: list[int] = []
            lost = 0
            for line in log:
                if line.startswith("{"):
                    told = json.loads(line)
                    assert told["event"] == "log lines were lost"
                    lost += told["lines"]
                    if len(lines) + lost == LINES:
                        break
                else:
                    lines.append(int(line))
            assert lost
            assert lines == sorted(set(lines))
            process.communicate(b"\n", timeout=20)
            assert log.read() == "after\n"
    assert process.returncode == 0


def test_a_log_that_is_closed_or_never_read_again_does_not_keep_the_container(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with started(["sh", "-c", f"seq {LINES}; touch {tmp_path}/written"], write_end) as process:
        os.close(write_end)
        wait_for(tmp_path / "written")
        assert process.wait(20) == 0
    os.close(read_end)
    read_end, write_end = os.pipe()
    os.close(read_end)
    with started(["seq", str(LINES)], write_end) as process:
        os.close(write_end)
        assert process.wait(20) == 0


def test_what_the_command_left_behind_does_not_keep_it() -> None:
    began = time.monotonic()
    assert run("sh", "-c", "sleep 30 & exit 5").returncode == 5
    assert time.monotonic() - began < 20
