"""A new edge that does not become healthy: the one of before starts again, with the configuration that it ran with.

The role's own tasks run here. A script stands for Compose: it fails where the compose file says so.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible, Run

ROLE = REPOSITORY / "roles/nginx"
COMPOSE = """#!/bin/sh
cat docker-compose.yml conf/nginx.conf >> started
! grep -q broken docker-compose.yml || { echo 'container is unhealthy' >&2; exit 1; }
"""


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    directory = tmp_path / "edge"
    (directory / "conf/conf.d").mkdir(parents=True)
    (tmp_path / "compose").write_text(COMPOSE)
    (tmp_path / "compose").chmod(0o755)
    return directory


def deploy(ansible: Ansible, edge: Path, version: str) -> Run:
    """What the role does once its image is built: write the configuration, write the compose file, start."""
    variables: dict[str, Any] = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    given = {name: variables[name] for name in ("__nginx_keep", "__nginx_go_back")}
    configuration, container = (
        yaml.safe_load((ROLE / f"tasks/{name}.yml").read_text()) for name in ("configuration", "container")
    )
    keep = next(task for task in configuration if task["name"].startswith("Keep"))
    configured = {"copy": {"dest": str(edge / "conf/nginx.conf"), "content": f"conf {version}\n"}}
    tasks = [
        {"set_fact": {"nginx_dir": str(edge), "__nginx_container": "edge", "__nginx_reg_image": {"rc": 0}, **given}},
        keep,
        {"copy": {"dest": str(edge / f"conf/conf.d/{version}.conf"), "content": ""}},
        configured | {"register": "__nginx_reg_tree"},
        *without_docker(container, edge, version),
    ]
    return ansible.play(tasks)


def without_docker(tasks: list[dict[str, Any]], edge: Path, version: str) -> list[dict[str, Any]]:
    changed = copy.deepcopy(tasks)
    for task in changed:
        for part in ("block", "rescue"):
            if part in task:
                task[part] = without_docker(task[part], edge, version)
        if task.pop("community.docker.docker_compose_v2", None):
            task["ansible.builtin.command"] = {"argv": [str(edge.parent / "compose")], "chdir": str(edge)}
        if task.pop("ansible.builtin.template", None):
            task["ansible.builtin.copy"] = {
                "dest": str(edge / "docker-compose.yml"),
                "content": f"compose {version}\n",
            }
    return changed


def serves(edge: Path) -> list[str]:
    """What the last container was started with."""
    return (edge / "started").read_text().splitlines()[-2:]


def test_the_edge_of_before_serves_again(ansible: Ansible, edge: Path) -> None:
    assert deploy(ansible, edge, "first").code == 0
    run = deploy(ansible, edge, "broken")
    assert run.code == 2
    assert "The edge of before serves again" in run.result["msg"]
    assert "did not become healthy" in run.result["msg"]
    assert serves(edge) == ["compose first", "conf first"]
    assert sorted(path.name for path in (edge / "conf/conf.d").iterdir()) == ["first.conf"]
    assert deploy(ansible, edge, "second").code == 0
    assert serves(edge) == ["compose second", "conf second"]
    assert deploy(ansible, edge, "broken").code == 2
    assert serves(edge) == ["compose second", "conf second"], "the last that was healthy"


def test_where_none_was_before_it_is_said_that_nobody_serves(ansible: Ansible, edge: Path) -> None:
    run = deploy(ansible, edge, "broken")
    assert run.code == 2
    assert run.result["msg"].startswith("NOBODY SERVES")
    assert "did not become healthy" in run.result["msg"]
