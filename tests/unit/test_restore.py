"""The middle of playbooks/restore.yml, from the unpacking on, with an engine that does as it is told."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible, Run

DOCKER = """#!/bin/sh
case $1 in
inspect) echo gateway ;;
ps)
    printf '%s\\n' 'a1 goproxy-a goproxy-a' 'a0 goproxy-a.leaving-a0 goproxy-a'
    printf '%s\\n' 'b1 backend backend' 'c1 gateway-a-2 goproxy-a'
    ;;
*) echo "$@ $(ls {host} | tr '\\n' ' ')" >>{host}/../calls ;;
esac
"""


class Gateway:
    """Its folder, with two journals, and a backup."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.host = place / "host"
        self.data = self.host / "data"
        for name in ("backend", "a", "later"):
            (self.data / name).mkdir(parents=True)
        (self.data / "a/journal").write_text("of now")
        (self.data / "a/other").touch()
        (self.data / "later/journal").touch()
        (self.data / "backend/store").touch()
        (place / "bin").mkdir()
        (place / "bin/docker").write_text(DOCKER.format(host=self.host))
        (place / "bin/docker").chmod(0o755)

    def backup(self, damaged: bool) -> Path:
        journals, file = io.BytesIO(), self.place / "backup.tar.gz"
        with tarfile.open(fileobj=journals, mode="w") as tar:
            folder = tarfile.TarInfo("./a")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o750
            tar.addfile(folder)
            journal = tarfile.TarInfo("./a/journal")
            journal.size = 20000
            tar.addfile(journal, io.BytesIO(b"then " * 4000))
        content = journals.getvalue()[: 5000 if damaged else None]
        with tarfile.open(file, "w:gz") as tar:
            for name, held in (("journals.tar", content), ("store.gz", b"")):
                member = tarfile.TarInfo(name)
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
        return file

    def restore(self, *, damaged: bool = False) -> Run:
        play: dict[str, Any] = yaml.safe_load((REPOSITORY / "playbooks/restore.yml").read_text())[-1]
        names = [task["name"] for task in play["tasks"]]
        unpacked = self.place / "unpacked.restore"
        unpacked.mkdir()
        mine = {"name": "a", "service": "goproxy-a", "uid": str(os.getuid())}
        given = {
            "file": str(self.backup(damaged)),
            "goproxy_dir": str(self.host),
            "goproxy_upstreams": [mine],
            "gateway_operator_token": "",
            "restore_place": {"path": str(unpacked)},
        }
        tasks = play["tasks"][names.index("Restore") :]
        return Ansible(self.place).play_of_gateway(tasks, play.get("vars", {}) | given)

    @property
    def calls(self) -> list[str]:
        """What the engine was told, and what was in the gateway's folder then."""
        return (self.place / "calls").read_text().splitlines()


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def test_all_is_put_back_and_whoever_had_a_journal_open_is_stopped(gateway: Gateway) -> None:
    """Also what a rollout left to end its streams, which `docker stop NAME` passes over."""
    run = gateway.restore()
    assert run.code == 0, run.output
    stopped, removed, restored, started = gateway.calls
    assert stopped.startswith("stop a1 a0 c1 ")
    assert "restore-unfinished" in stopped
    assert removed.startswith("rm a0 ")
    assert "admin restore --replace" in restored
    assert started.startswith("start a1 ")
    assert (gateway.data / "a/journal").read_text().startswith("then then")
    there = sorted(str(path.relative_to(gateway.host)) for path in gateway.host.rglob("*"))
    assert there == ["data", "data/a", "data/a/journal", "data/backend", "data/backend/store", "data/later"]


def test_one_that_breaks_off_says_so_and_leaves_whole_journals(gateway: Gateway) -> None:
    run = gateway.restore(damaged=True)
    assert run.code != 0
    assert gateway.calls[-1].startswith("start a1 ")
    assert gateway.calls[-1].split()[2:] == ["data", "restore-unfinished"]
    assert (gateway.data / "a/journal").read_text() == "of now"
    assert (gateway.host / "restore-unfinished").read_text().endswith("/backup.tar.gz\n")
    assert not (gateway.place / "unpacked.restore").exists()
