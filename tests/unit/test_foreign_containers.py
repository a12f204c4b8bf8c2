"""Somebody else's container that has a name of the gateway's is found before anything is changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible, Run

OURS = {"backend": "trollllm", "goproxy-openhands": "trollllm", "trollllm-edge": "trollllm-edge"}


class Host:
    """This machine, with a `docker` that knows some containers, and no other command of it."""

    def __init__(self, ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ansible = ansible
        self.gateway = ansible.directory / "gateway"
        (self.gateway / "data/backend").mkdir(parents=True)
        (ansible.directory / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{ansible.directory / 'bin'}:{os.environ['PATH']}")

    def run(self, containers: dict[str, str], data: Path | None = None) -> Run:
        """The look at them: name to project. `data`: what the backend has mounted."""
        lines = [f"/{name}|{project}|{data or '' if name == 'backend' else ''}" for name, project in containers.items()]
        docker = self.ansible.write(
            "bin/docker",
            "\n".join(["#!/bin/sh", '[ "$1 $2" = "container inspect" ] || exit 2', "cat <<'.'", *lines, ".", "exit 1"]),
        )
        docker.chmod(0o755)
        facts: dict[str, Any] = {
            "goproxy_upstreams": [{"name": "openhands", "service": "goproxy-openhands"}],
            "goproxy_dir": str(self.gateway),
        }
        role = {"name": "trollllm.gateway.goproxy", "tasks_from": "containers"}
        return self.ansible.play([{"set_fact": facts}, {"import_role": role}])


@pytest.fixture
def host(ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(ansible, monkeypatch)


def test_the_gateways_own_containers_and_none_at_all_are_fine(host: Host) -> None:
    for containers in (OURS, {}):
        run = host.run(containers, host.gateway / "data/backend")
        assert run.code == 0, run.output


@pytest.mark.parametrize(
    ("name", "project", "told"),
    [
        ("backend", "shop", "backend belongs to the compose project shop, not to trollllm"),
        ("goproxy-openhands", "", "goproxy-openhands belongs to no compose project, not to trollllm"),
        ("trollllm-edge", "trollllm", "trollllm-edge belongs to the compose project trollllm, not to trollllm-edge"),
    ],
)
def test_a_container_of_somebody_else_is_refused(host: Host, name: str, project: str, told: str) -> None:
    run = host.run(OURS | {name: project})
    assert run.code != 0
    said = run.result["msg"]
    assert f"the container {told}" in said
    assert said.count("the container ") == 1
    assert "docker rename" in said


def test_a_ledger_elsewhere_is_refused(host: Host) -> None:
    run = host.run(OURS, Path("/srv/old/data/backend"))
    assert run.code != 0
    assert "The ledger of this host is in /srv/old/data/backend" in run.result["msg"]
    (host.ansible.directory / "same").symlink_to(host.gateway)
    assert host.run(OURS, host.ansible.directory / "same/data/backend").code == 0


def test_a_run_looks_before_it_changes_anything() -> None:
    _, deploy = yaml.safe_load((REPOSITORY / "playbooks/site.yml").read_text())
    look = {"name": "trollllm.gateway.goproxy", "tasks_from": "containers"}
    assert look in [task.get("ansible.builtin.import_role") for task in deploy["pre_tasks"]]
