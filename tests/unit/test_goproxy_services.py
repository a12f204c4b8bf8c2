"""What the role goproxy does with a rollout in which not all went well. Docker is played by the test.

(What the containers do meanwhile is Molecule's: the scenario rollout.)
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from real_ansible import REPOSITORY, Ansible, Run
from test_goproxy_templates import upstream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are root's")

STUB = """#!/usr/bin/python3
# WANT_JSON
import json, os, sys
name = os.path.basename(sys.argv[0]).removeprefix("AnsiballZ_").removesuffix(".py")
given = {key: value for key, value in json.load(open(sys.argv[1])).items() if not key.startswith("_")}
with open(os.environ["STUBS"] + "/calls", "a") as calls:
    calls.write(json.dumps([name, given]) + "\\n")
print(open(os.environ["STUBS"] + "/" + name).read())
"""
DOCKER = """#!/bin/sh
echo "$*" >> "$STUBS/docker"
case "$1" in inspect) cat "$STUBS/backend";; esac
"""
OLD, NEW = "trollllm/goproxy:old", "trollllm/goproxy:new"
ALPHA, BETA = upstream("alpha", 9001), upstream("beta", 9002)


@dataclass
class Host:
    """A host on which two upstreams run on an old image, and the new one is to be rolled out."""

    ansible: Ansible
    folder: Path
    releases: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def run(self, *, rollout: dict[str, Any], compose: dict[str, Any], backend: str, late: bool = True) -> Run:
        """site.yml's way through the role, and another role after it."""
        for name, answer in (("stub_rollout", rollout), ("stub_compose", compose)):
            (self.folder / name).write_text(json.dumps({"changed": True} | answer))
        (self.folder / "backend").write_text(backend)
        (self.folder / "gateway/releases.json").write_text(json.dumps(self.record))
        encoded = base64.b64encode(json.dumps(self.record).encode()).decode()
        tell = {
            "ansible.builtin.include_role": {"name": "goproxy", "tasks_from": "failed"},
            "name": "Tell",
        }
        edge = {"name": "The edge", "ansible.builtin.debug": {"msg": "The edge is up to date"}}
        variables = {
            "goproxy_dir": str(self.folder / "gateway"),
            "goproxy_upstreams": [ALPHA, BETA],
            "goproxy_upstream_api_keys": {"alpha": "a", "beta": "b"},
            "__goproxy_build": {"digest": "new"},
            "__goproxy_reg_record": {"content": encoded},
        }
        tasks = [
            {"name": "Say what shall run", "ansible.builtin.set_fact": {"__goproxy_releases": self.releases}},
            {"name": "Services", "ansible.builtin.include_role": {"name": "goproxy", "tasks_from": "services"}},
            *([edge, tell] if late else [tell, edge]),
        ]
        self.ansible.write("play.yml", [{"hosts": "all", "gather_facts": False, "vars": variables, "tasks": tasks}])
        return self.ansible.playbook("play.yml", callback="trollllm.gateway.quiet")

    def calls(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [given for called, given in map(json.loads, lines) if called == name]

    def file(self, path: str) -> str:
        return (self.folder / "gateway" / path).read_text()

    def current(self) -> dict[str, str]:
        """The image of each release that is noted as the one that runs."""
        record = json.loads(self.file("releases.json"))
        return {name: known["current"]["image"] for name, known in record.items()}


def release(image: str, name: str, secrets: str = "s") -> dict[str, Any]:
    return {"image": image, "config": json.dumps({"from": f"{image} {name}", "timeouts": {}}), "secrets": secrets}


@pytest.fixture
def host(ansible: Ansible, monkeypatch: pytest.MonkeyPatch) -> Host:
    folder = ansible.directory / "host"
    (folder / "gateway").mkdir(parents=True)
    (folder / "docker").touch()
    programs = folder / "bin"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STUBS", str(folder))
    role = ansible.directory / "roles/goproxy"
    shutil.copytree(REPOSITORY / "roles/goproxy", role, ignore=shutil.ignore_patterns("meta", "handlers"))
    for module in ("stub_rollout", "stub_compose"):
        ansible.write(f"library/{module}.py", STUB)
    services = (role / "tasks/services.yml").read_text()
    for real, stub in (
        ("trollllm.gateway.rollout:", "stub_rollout:"),
        ("community.docker.docker_compose_v2:", "stub_compose:"),
    ):
        assert real in services
        services = services.replace(real, stub)
    (role / "tasks/services.yml").write_text(
        services.replace("retries: 30", "retries: 1").replace("delay: 2", "delay: 0")
    )
    ansible.write("hosts.yml", {"all": {"hosts": {"here": None}}})
    names = ("alpha", "beta")
    return Host(
        ansible,
        folder,
        {name: release(NEW, name) for name in names} | {"backend": {"image": NEW, "secrets": "s"}},
        {name: {"current": release(OLD, name)} for name in names}
        | {"backend": {"current": {"image": OLD, "secrets": "s"}}},
    )


BETA_IS_LOST = {
    "rolled_out": ["goproxy-alpha"],
    "failed": True,
    "failed_services": ["goproxy-beta"],
    "msg": "What ran before goes on serving.\ngoproxy-beta: the new container did not become ready and is removed.",
}
BOTH_ARE_LOST = BETA_IS_LOST | {"rolled_out": [], "failed_services": ["goproxy-alpha", "goproxy-beta"]}
UP: dict[str, Any] = {}


def test_one_that_is_not_ready_keeps_no_other_waiting(host: Host) -> None:
    """Its files are those of before again, all else is done, and the run fails with the reason when it is."""
    run = host.run(rollout=BETA_IS_LOST, compose=UP, backend=f"healthy {NEW} s")
    assert run.code != 0
    assert run.output.index("Not rolled out: goproxy-beta.") < run.output.index("The edge is up to date")
    assert run.output.index("The edge is up to date") < run.output.index("the new container did not become ready")
    assert host.current() == {"alpha": NEW, "beta": OLD, "backend": NEW}
    assert OLD in host.file("goproxy/config-beta-prod.json")
    assert NEW in host.file("goproxy/config-alpha-prod.json")
    (up,) = host.calls("stub_compose")
    assert sorted(up["services"]) == ["backend", "goproxy-alpha"]  # the one that stays would be made anew
    assert up["remove_orphans"] is True


def test_the_role_alone_fails_before_anything_else(host: Host) -> None:
    run = host.run(rollout=BETA_IS_LOST, compose=UP, backend=f"healthy {NEW} s", late=False)
    assert run.code != 0
    assert "The edge is up to date" not in run.output


def test_where_none_is_ready_the_backend_stays_too(host: Host) -> None:
    """Perhaps the image is no good. What is new or gone is seen to all the same."""
    run = host.run(rollout=BOTH_ARE_LOST, compose=UP, backend=f"healthy {OLD} s")
    assert run.code != 0
    assert "The edge is up to date" in run.output
    assert host.current() == {"alpha": OLD, "beta": OLD, "backend": OLD}
    assert NEW not in host.file("docker-compose.prod.yml")
    (up,) = host.calls("stub_compose")
    assert up["services"] == ["backend"]


def test_the_backend_that_knows_the_former_token_stays_as_long_as_one_shows_it(host: Host) -> None:
    host.releases |= {"backend": {"image": NEW, "secrets": "rotated"}}
    run = host.run(rollout=BETA_IS_LOST, compose=UP, backend=f"healthy {OLD} s")
    assert run.code != 0
    assert "wait until all are rolled out" in run.output
    assert "The edge is up to date" in run.output
    assert host.current() == {"alpha": NEW, "beta": OLD, "backend": OLD}
    assert [name for name in ("stub_compose",) if host.calls(name)] == []


def test_a_new_upstream_that_does_not_come_up_keeps_no_other_waiting(host: Host) -> None:
    """It has no container of before; the backend is well."""
    lost = {"failed": True, "msg": "container goproxy-beta is unhealthy"}
    run = host.run(rollout=UP, compose=lost, backend=f"healthy {NEW} s")
    assert run.code != 0
    assert run.output.index("The edge is up to date") < run.output.index("container goproxy-beta is unhealthy")
    assert "The backend is healthy, and stays." in run.output
    assert host.current() == {"alpha": NEW, "beta": NEW, "backend": NEW}


def test_without_a_backend_the_run_ends_at_once(host: Host) -> None:
    lost = {"failed": True, "msg": "container backend is unhealthy"}
    run = host.run(rollout=UP, compose=lost, backend=f"unhealthy {NEW} s")
    assert run.code != 0
    assert "The edge is up to date" not in run.output
    assert "The backend of before is back, and healthy." in run.output
    assert host.current() == {"alpha": NEW, "beta": NEW, "backend": OLD}
    assert "up --detach --no-deps --pull never --wait backend" in (host.folder / "docker").read_text()


def test_where_all_is_well_nothing_is_told(host: Host) -> None:
    run = host.run(rollout={"rolled_out": ["goproxy-alpha", "goproxy-beta"]}, compose=UP, backend=f"healthy {NEW} s")
    assert run.code == 0, run.output
    assert host.current() == {"alpha": NEW, "beta": NEW, "backend": NEW}
    (up,) = host.calls("stub_compose")
    assert "services" not in up
