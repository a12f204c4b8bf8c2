"""The middle of playbooks/backup.yml, with an engine that does as it is told."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible, Run

DOCKER = """#!/bin/sh
for last; do :; done
echo rows >{store}/"${{last##*/}}"
"""


class Gateway:
    """Its folder, with a journal, and where its backups go."""

    def __init__(self, place: Path) -> None:
        self.place, self.backups = place, place / "backups"
        self.data = place / "host/data"
        for name in ("backend", "a"):
            (self.data / name).mkdir(parents=True)
        (self.data / "a/journal").touch()
        (place / "bin").mkdir()
        (place / "bin/docker").write_text(DOCKER.format(store=self.data / "backend"))
        (place / "bin/docker").chmod(0o755)

    def back_up(self, fetched: str = "backup.tar.gz") -> Run:
        play: dict[str, Any] = yaml.safe_load((REPOSITORY / "playbooks/backup.yml").read_text())[-1]
        names = [task["name"] for task in play["tasks"]]
        block = play["tasks"][names.index("Copy, and take the copy away with us")]["block"]
        (fetch,) = (task for task in block if task["name"] == "Fetch it")
        fetch["ansible.builtin.fetch"]["src"] = "{{ backup_place.path }}/" + fetched
        given = {
            "goproxy_dir": str(self.place / "host"),
            "gateway_zone": "example.org",
            "gateway_operator_token": "",
            "backup_dir": str(self.backups),
        }
        return Ansible(self.place).play_of_gateway(play["tasks"], given)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def test_a_backup_that_is_whole_has_its_name(gateway: Gateway) -> None:
    run = gateway.back_up()
    assert run.code == 0, run.output
    (backup,) = gateway.backups.iterdir()
    assert backup.name.startswith("example.org-")
    assert backup.suffix == ".gz"
    assert backup.stat().st_mode & 0o777 == 0o600
    with tarfile.open(backup) as tar:
        assert sorted(tar.getnames()) == ["journals.tar", "store.gz"]
    assert list((gateway.data / "backend").iterdir()) == []


def test_one_that_fails_leaves_none(gateway: Gateway) -> None:
    """It was an empty file, and the last one by its name."""
    assert gateway.back_up(fetched="missing").code != 0
    assert list(gateway.backups.iterdir()) == []


def test_it_is_not_fetched_as_root() -> None:
    """Ansible would read all of it into the memory, some times over."""
    play = yaml.safe_load((REPOSITORY / "playbooks/backup.yml").read_text())[-1]
    tasks = [task for block in play["tasks"] for task in block.get("block", [])]
    assert [task["vars"] for task in tasks if "ansible.builtin.fetch" in task] == [{"ansible_become": False}]
