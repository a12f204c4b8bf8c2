"""One run at a time: the lock of a host, taken by the real ansible-playbook, and what becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trollllm.gateway.plugins.action import run_lock as action
from ansible_collections.trollllm.gateway.plugins.modules import run_lock as module
from real_ansible import Ansible

OTHER = {"id": "1", "who": "ada on laptop (process 7)", "purpose": "site.yml", "since": "2026-01-02 03:04:05 UTC"}
MINE = {**OTHER, "id": "2", "who": "bob on desk (process 8)"}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run.lock"


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# -- the host's half


def test_the_first_one_has_it_and_a_second_one_is_told_who(lock: Path) -> None:
    assert module.take(str(lock), OTHER, 30, "") == {"taken": True, "holder": OTHER, "renewed": False}
    refused = module.take(str(lock), MINE, 30, "")
    assert (refused["taken"], refused["holder"]) == (False, OTHER)
    assert json.loads(lock.read_text()) == OTHER


def test_the_same_run_may_take_it_twice(lock: Path) -> None:
    module.take(str(lock), OTHER, 30, "")
    assert module.take(str(lock), OTHER, 30, "")["renewed"] is True


@pytest.mark.parametrize("seconds", [-31, 31], ids=["it was killed", "the clock went back"])
def test_a_lock_that_nobody_renews_is_nobodys(lock: Path, seconds: int) -> None:
    module.take(str(lock), OTHER, 30, "")
    os.utime(lock, (time.time() + seconds,) * 2)
    assert module.take(str(lock), MINE, 30, "")["taken"]
    assert json.loads(lock.read_text()) == MINE


def test_a_run_that_is_known_to_have_ended_has_nothing(lock: Path) -> None:
    module.take(str(lock), OTHER, 30, "")
    assert not module.take(str(lock), MINE, 30, "3")["taken"], "another one has ended"
    assert module.take(str(lock), MINE, 30, OTHER["id"])["taken"]


@pytest.mark.parametrize("content", ["", '{"id": "1", "who', "[]", '{"id": "1"}'])
def test_half_a_note_holds_nothing(lock: Path, content: str) -> None:
    lock.write_text(content)
    assert module.take(str(lock), MINE, 30, "")["taken"]


# -- the controller's half


def test_a_run_of_another_machine_is_never_said_to_have_ended() -> None:
    """Its process id means nothing here, whatever has the same one."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    here = {"place": action.where(), "pid": gone.pid, "started": "1"}
    assert action.has_ended(here)
    assert not action.has_ended({**here, "place": "elsewhere"})
    assert not action.has_ended({**here, "place": ""})
    assert not action.has_ended({**here, "pid": os.getpid(), "started": action.started(os.getpid())})
    assert action.has_ended({**here, "pid": os.getpid(), "started": "1"}), "the id went to another process since"


def test_the_refusal_names_the_holder_and_the_remedy() -> None:
    said = action.refusal(OTHER, 2.4, 30)
    for part in ("site.yml by ada on laptop (process 7), since 2026-01-02 03:04:05 UTC", "2 s ago", "within 30 s"):
        assert part in said


# -- both, in runs of ansible-playbook


@contextlib.contextmanager
def holding(
    ansible: Ansible, lock: Path, lease: int = 9, variables: dict[str, Any] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has the lock until the file `go` is there; a session of its own, with all but the keeper in it."""
    place = ansible.directory
    tasks = [
        {"trollllm.gateway.run_lock": {"purpose": "the first", "file": str(lock), "lease": lease}},
        {"ansible.builtin.wait_for": {"path": str(place / "go"), "sleep": 1}, "delegate_to": "localhost"},
    ]
    ansible.write("first.yml", [{"hosts": "all", "gather_facts": False, "tasks": tasks}])
    ansible.write("hosts.yml", {"all": {"hosts": {"here": variables}}})
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "first.yml", "-i", "hosts.yml"]
    environment, said = ansible.environment("default"), place / "said"
    with (
        said.open("ab") as output,
        subprocess.Popen(command, cwd=place, env=environment, stdout=output, stderr=output) as first,
    ):
        until(lambda: (lock.exists() and lock.read_text()) or first.poll() is not None)
        assert first.poll() is None, said.read_text()
        try:
            yield first
        finally:
            (place / "go").touch()


@pytest.fixture
def held(ansible: Ansible, lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    with holding(ansible, lock) as first:
        yield first


@pytest.fixture
def password_login(tmp_path: Path) -> dict[str, Any]:
    """This machine by Ansible's own ssh, with a password, as long as there is no file `away`."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\n[ ! -e "{tmp_path}/away" ] || exit 255\nfor command; do :; done\nexec sh -c "$command"\n'
    )
    ssh.chmod(0o755)
    return {
        "ansible_connection": "ansible.builtin.ssh",
        "ansible_ssh_executable": str(ssh),
        "ansible_password": "not-a-secret",
        "ansible_pipelining": True,
    }


def second(ansible: Ansible, lock: Path, patience: int, *flags: str) -> dict[str, Any]:
    given = {"purpose": "the second", "file": str(lock), "lease": 9, "patience": patience}
    return ansible.play([{"trollllm.gateway.run_lock": given}], *flags).result


def test_a_second_run_fails_and_goes_through_once_the_first_has_ended(
    ansible: Ansible, lock: Path, held: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """The first one outlives its lease, because its keeper renews it; when it has ended, nothing is left."""
    os.utime(lock, (0, 0))
    until(lambda: lock.stat().st_mtime > 0)
    refused = second(ansible, lock, 0)
    assert refused["failed"] is True
    assert "Another run changes this host: the first by " in refused["msg"]
    assert f"(process {held.pid})" in refused["msg"]
    assert second(ansible, lock, 0, "--check")["skipped"] is True
    (tmp_path / "go").touch()
    assert second(ansible, lock, 30)["taken"] is True
    assert held.wait() == 0
    until(lambda: not lock.exists())


def test_a_run_that_is_killed_leaves_no_lock(ansible: Ansible, lock: Path, held: subprocess.Popen[bytes]) -> None:
    """Its keeper removes it. The next run need not even wait for that."""
    held.send_signal(signal.SIGKILL)
    held.wait()
    assert second(ansible, lock, 0)["taken"] is True
    until(lambda: not lock.exists())


def test_a_run_that_has_lost_its_lock_stops(lock: Path, held: subprocess.Popen[bytes]) -> None:
    """As that of a computer that was asleep, while another run began."""
    lock.write_text(json.dumps(OTHER))
    assert held.wait() != 0
    assert json.loads(lock.read_text()) == OTHER


def test_a_lock_is_renewed_and_removed_where_the_login_is_by_a_password(
    ansible: Ansible, lock: Path, password_login: dict[str, Any], tmp_path: Path
) -> None:
    """For which the connection needs multiprocessing's resource tracker."""
    with holding(ansible, lock, lease=3, variables=password_login) as first:
        os.utime(lock, (0, 0))
        until(lambda: lock.stat().st_mtime > 0)
        (tmp_path / "go").touch()
        assert first.wait() == 0, (tmp_path / "said").read_text()
        until(lambda: not lock.exists())
    assert "not been renewed" not in (tmp_path / "said").read_text()


def test_a_lock_that_cannot_be_renewed_is_told_once(
    ansible: Ansible, lock: Path, password_login: dict[str, Any], tmp_path: Path
) -> None:
    with holding(ansible, lock, lease=1, variables=password_login) as first:
        (tmp_path / "away").touch()
        until(lambda: "has not been renewed for" in (tmp_path / "said").read_text())
        time.sleep(2)
        (tmp_path / "go").touch()
        assert first.wait() == 0
    told = (tmp_path / "said").read_text()
    assert told.count("not been renewed") == 1
    assert f"The lock {lock} of the host has not been renewed for" in told
    assert "Failed to connect to the host via ssh" in told, "the reason"
