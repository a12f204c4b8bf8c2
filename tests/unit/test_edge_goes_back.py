"""A new edge that does not become healthy: the one of before starts again, with the configuration that it ran with.

The role's own tasks run here. Scripts stand for Compose, which fails where the compose file says so, and for docker,
which tells what Compose started last.
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible, Run

ROLE = REPOSITORY / "roles/nginx"
COMPOSE = """
cat docker-compose.yml conf/servers/health.conf >> started
! grep -q broken docker-compose.yml || { echo 'container is unhealthy' >&2; exit 1; }
"""
DOCKER = """
case $1 in
  exec) sed -n 's/^return 200 \\(.*\\);$/\\1/p' started ;;
  inspect) sed -n 's/^image: //p' started ;;
esac | tail -n 1
"""


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    directory = tmp_path / "edge"
    for folder in ("conf/conf.d", "conf/servers"):
        (directory / folder).mkdir(parents=True)
    for name, does in (("compose", COMPOSE), ("docker", f"cd {directory}\n{DOCKER}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}")
        (tmp_path / name).chmod(0o755)
    return directory


def deploy(ansible: Ansible, edge: Path, version: str, *, dies_before_it_is_kept: bool = False) -> Run:
    """What the role does once its image is built: write the configuration, write the compose file, start."""
    variables: dict[str, Any] = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    given = {name: variables[name] for name in ("__nginx_keep", "__nginx_go_back", "__nginx_is_unkept")}
    configuration, container = (
        yaml.safe_load((ROLE / f"tasks/{name}.yml").read_text()) for name in ("configuration", "container")
    )
    if dies_before_it_is_kept:
        container = [task for task in container if not task["name"].startswith("Keep")]
    keep = next(task for task in configuration if task["name"].startswith("Keep"))
    configured = {"copy": {"dest": str(edge / "conf/servers/health.conf"), "content": f"return 200 {version};\n"}}
    tasks = [
        {"set_fact": {"nginx_dir": str(edge), "__nginx_container": "edge", "__nginx_reg_image": {"rc": 0}}},
        {"set_fact": given},
        {
            "shell": "({{ __nginx_is_unkept }}) && echo unkept; true",
            "environment": {"PATH": f"{edge.parent}:{os.environ['PATH']}"},
            "register": "__nginx_reg_host",
        },
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
        if task.pop("trollllm.gateway.file_tree", None):
            task["ansible.builtin.copy"] = {
                "dest": str(edge / "docker-compose.yml"),
                "content": f"image: {version}\n",
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
    assert serves(edge) == ["image: first", "return 200 first;"]
    assert sorted(path.name for path in (edge / "conf/conf.d").iterdir()) == ["first.conf"]
    assert deploy(ansible, edge, "second").code == 0
    assert serves(edge) == ["image: second", "return 200 second;"]
    assert deploy(ansible, edge, "broken").code == 2
    assert serves(edge) == ["image: second", "return 200 second;"], "the last that was healthy"


def test_what_runs_is_what_is_gone_back_to_though_the_run_before_broke_off(ansible: Ansible, edge: Path) -> None:
    assert deploy(ansible, edge, "first").code == 0
    assert deploy(ansible, edge, "second", dies_before_it_is_kept=True).code == 0
    assert deploy(ansible, edge, "broken").code == 2
    assert serves(edge) == ["image: second", "return 200 second;"]


def test_what_was_never_served_is_not_kept(ansible: Ansible, edge: Path) -> None:
    assert deploy(ansible, edge, "first").code == 0
    (edge / "conf/servers/health.conf").write_text("return 200 written;\n")  # and then the run broke off
    assert deploy(ansible, edge, "broken").code == 2
    assert serves(edge) == ["image: first", "return 200 first;"]
    shutil.rmtree(edge / "before")
    assert deploy(ansible, edge, "broken").code == 2, "what is there is all there is"
    assert serves(edge) == ["image: first", "return 200 first;"]


def test_where_none_was_before_it_is_said_that_nobody_serves(ansible: Ansible, edge: Path) -> None:
    run = deploy(ansible, edge, "broken")
    assert run.code == 2
    assert run.result["msg"].startswith("NOBODY SERVES")
    assert "did not become healthy" in run.result["msg"]
