"""What the role goproxy does with a rollout in which not all went well. Docker is played by the test.

(What the containers do meanwhile is Molecule's: the scenario rollout.)
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

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
# Each file of answers is taken line by line, and its last line again and again.
echo "$*" >> "$STUBS/docker"
next() {
    head -n 1 "$STUBS/$1"
    if [ "$(wc -l < "$STUBS/$1")" -gt 1 ]; then sed -i 1d "$STUBS/$1"; fi
}
case "$*" in
    *RestartCount*) cat "$STUBS/restarts";;
    images*) cat "$STUBS/images";;
    "image rm"*) cat "$STUBS/complaints" >&2; [ ! -s "$STUBS/complaints" ];;
    inspect*) cat "$STUBS/backend";;
    exec*) said=$(next ready); [ "$said" = ready ] || { echo "$said" >&2; exit 1; };;
    logs*) cat "$STUBS/log";;
    *" up "*) cp "$STUBS/gateway/docker-compose.prod.yml" "$STUBS/started"; exit "$(next ups)";;
esac
"""
MIGRATED = (
    '{"time":"2026-11-29T16:00:00.000+00:00","level":"info","event":"store migrated","found":"0002","wanted":"0003"}'
)
MIGRATES = "http://127.0.0.1:8000/readyz: status 503"
AWAY = "http://127.0.0.1:8000/readyz: no answer: Connection refused"
OLD, NEW = "trollllm/goproxy:old", "trollllm/goproxy:new"
ALPHA, BETA = upstream("alpha", 9001), upstream("beta", 9002)


@dataclass
class Host:
    """A host on which two upstreams run on an old image, and the new one is to be rolled out."""

    ansible: Ansible
    folder: Path
    releases: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        *,
        rollout: dict[str, Any],
        compose: dict[str, Any],
        backend: str,
        ready: Sequence[str] = ("ready",),
        log: str = "",
        starts: Sequence[int] = (0,),
        restarts: int = 0,
        late: bool = True,
    ) -> Run:
        """site.yml's way through the role, and another role after it.

        Args:
            backend: health, image and secrets of its container when the services did not come up.
            ready: what it says of itself, one time after the other.
            log: what it wrote.
            starts: the exit codes of its being started alone.
            restarts: how often its container began again.
        """
        for name, answer in (("stub_rollout", rollout), ("stub_compose", compose)):
            (self.folder / name).write_text(json.dumps({"changed": True} | answer))
        (self.folder / "backend").write_text(backend)
        (self.folder / "gateway/releases.json").write_text(json.dumps(self.record))
        (self.folder / "ready").write_text("".join(f"{each}\n" for each in ready))
        (self.folder / "log").write_text(log + "\n")
        (self.folder / "ups").write_text("".join(f"{each}\n" for each in starts))
        (self.folder / "restarts").write_text(f"{restarts}\n")
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
            "goproxy_backend_ready_seconds": "3",
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

    def asked(self, beginning: str) -> list[str]:
        """The calls of Docker's command line that begin like this."""
        return [line for line in (self.folder / "docker").read_text().splitlines() if line.startswith(beginning)]

    def started(self) -> str:
        """The compose file of the last backend that was started alone."""
        return (self.folder / "started").read_text()

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
    (role / "tasks/services.yml").write_text(services)
    not_up = (role / "tasks/not_up.yml").read_text()
    assert "retries: 30" in not_up
    (role / "tasks/not_up.yml").write_text(not_up.replace("retries: 30", "retries: 1").replace("delay: 2", "delay: 0"))
    own = (role / "vars/main.yml").read_text()
    assert "__goproxy_look_every: 5" in own
    (role / "vars/main.yml").write_text(own.replace("__goproxy_look_every: 5", "__goproxy_look_every: 1"))
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
    """Its files are those of before again, and all else is done; the reason is told before that, and after."""
    run = host.run(rollout=BETA_IS_LOST, compose=UP, backend=f"healthy {NEW} s")
    assert run.code != 0
    assert run.output.index("Not rolled out: goproxy-beta.") < run.output.index("The edge is up to date")
    before, after = run.output.split("The edge is up to date")
    assert "the new container did not become ready" in before
    assert "the new container did not become ready" in after
    assert host.current() == {"alpha": NEW, "beta": OLD, "backend": NEW}
    assert OLD in host.file("goproxy/config-beta-prod.json")
    assert NEW in host.file("goproxy/config-alpha-prod.json")
    backend, up = host.calls("stub_compose")
    assert backend["services"] == ["backend"]
    assert sorted(up["services"]) == ["backend", "goproxy-alpha"]  # the one that stays would be made anew
    assert up["remove_orphans"] is True


def test_one_that_still_finishes_its_streams_is_kept_from_compose(host: Host) -> None:
    """It runs on its new container already, and the old one would be stopped."""
    told = {"rolled_out": ["goproxy-alpha", "goproxy-beta"], "leaving": ["goproxy-beta"]}
    run = host.run(rollout=told, compose=UP, backend=f"healthy {NEW} s")
    assert run.code == 0, run.output
    assert sorted(host.calls("stub_compose")[-1]["services"]) == ["backend", "goproxy-alpha"]


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
    assert "up --detach --no-deps --pull never --wait --wait-timeout 90 backend" in (host.folder / "docker").read_text()


def test_where_all_is_well_nothing_is_told(host: Host) -> None:
    run = host.run(rollout={"rolled_out": ["goproxy-alpha", "goproxy-beta"]}, compose=UP, backend=f"healthy {NEW} s")
    assert run.code == 0, run.output
    assert host.current() == {"alpha": NEW, "beta": NEW, "backend": NEW}
    backend, up = host.calls("stub_compose")
    assert backend["services"] == ["backend"]
    assert "services" not in up


def test_where_the_image_is_that_of_before_the_backend_is_brought_up_with_all_others(host: Host) -> None:
    host.releases |= {"backend": {"image": OLD, "secrets": "s"}}
    run = host.run(rollout=UP, compose=UP, backend=f"healthy {OLD} s")
    assert run.code == 0, run.output
    (up,) = host.calls("stub_compose")
    assert "services" not in up


def test_a_run_waits_for_as_long_as_the_backend_migrates_its_store(host: Host) -> None:
    """Before it rolls out, should another run have begun it; and before it starts what is new, which needs keys."""
    run = host.run(
        rollout=UP, compose=UP, backend=f"healthy {NEW} s", ready=(MIGRATES, "ready", MIGRATES, MIGRATES, "ready")
    )
    assert run.code == 0, run.output
    assert len(host.asked("exec backend goproxy healthcheck http://127.0.0.1:8000/readyz")) == 5
    assert host.current()["backend"] == NEW


def test_a_backend_that_is_away_before_the_run_is_not_waited_for(host: Host) -> None:
    run = host.run(rollout=UP, compose=UP, backend=f"healthy {NEW} s", ready=(AWAY, "ready"))
    assert run.code == 0, run.output


def test_a_backend_that_migrates_for_longer_goes_on_with_it(host: Host) -> None:
    """To stop it would have each run begin it anew."""
    run = host.run(rollout=UP, compose=UP, backend=f"healthy {NEW} s", ready=("ready", MIGRATES))
    assert run.code != 0
    assert run.output.index("The edge is up to date") < run.output.index(
        "The backend still migrates its store after 3 s"
    )
    assert host.current()["backend"] == NEW
    assert host.asked("compose --file") == [line for line in host.asked("compose --file") if " up " not in line]


def test_one_that_ends_in_the_middle_of_migrating_is_put_back(host: Host) -> None:
    """It has begun again, and looks healthy; nothing of it was stored."""
    run = host.run(
        rollout=UP, compose=UP, backend=f"healthy {NEW} s", ready=("ready", MIGRATES, AWAY, MIGRATES), restarts=1
    )
    assert run.code != 0
    assert "The backend of before is back, and healthy." in run.output
    assert host.current()["backend"] == OLD


LOST = {"failed": True, "msg": "container backend is unhealthy"}


def test_a_backend_of_before_lends_what_the_new_proxies_pay_from(host: Host) -> None:
    host.releases["alpha"]["config"] = json.dumps({"from": f"{NEW} alpha", "timeouts": {}, "wallet": "team"})
    assert host.run(rollout=UP, compose=LOST, backend=f"unhealthy {NEW} s").code != 0
    assert NEW in host.file("goproxy-former/config-alpha-prod.json")
    assert OLD in host.file("goproxy-former/config-beta-prod.json")


def test_the_backend_of_before_gets_its_own_configuration_and_the_proxies_keep_theirs(host: Host) -> None:
    """The new one may have keys that the image of before does not know."""
    run = host.run(rollout=UP, compose=LOST, backend=f"unhealthy {NEW} s")
    assert run.code != 0
    for name in ("alpha", "beta"):
        assert OLD in host.file(f"goproxy-former/config-{name}-prod.json")
        assert NEW in host.file(f"goproxy/config-{name}-prod.json")
    assert f"image: {OLD}" in host.started()
    assert "./goproxy-former/config-alpha-prod.json:/app/goproxy/config-alpha-prod.json:ro" in host.started()
    assert "./goproxy/config-alpha-prod.json:/app/config.json:ro" in host.started()


def test_a_backend_of_before_keeps_its_own_configuration_when_the_run_fails_once_more(host: Host) -> None:
    """The first run has rolled the proxies out: what they run on by now is not what it ran on."""
    for name in ("alpha", "beta"):
        host.record[name] = {"current": host.releases[name], "previous": host.record[name]["current"]}
    run = host.run(rollout=UP, compose=LOST, backend=f"unhealthy {NEW} s")
    assert run.code != 0
    for name in ("alpha", "beta"):
        assert OLD in host.file(f"goproxy-former/config-{name}-prod.json")


def test_a_third_run_that_fails_leaves_the_backend_of_before_its_configuration(host: Host) -> None:
    """Nothing of what is noted of the proxies is of its image any more."""
    for name in ("alpha", "beta"):
        between = release("trollllm/goproxy:between", name)
        host.record[name] = {"current": host.releases[name], "previous": between}
        (host.folder / "gateway/goproxy-former").mkdir(exist_ok=True)
        (host.folder / f"gateway/goproxy-former/config-{name}-prod.json").write_text(f"{OLD} {name}")
    assert host.run(rollout=UP, compose=LOST, backend=f"unhealthy {NEW} s").code != 0
    for name in ("alpha", "beta"):
        assert host.file(f"goproxy-former/config-{name}-prod.json") == f"{OLD} {name}"


@pytest.mark.parametrize("there", [f"{OLD} s", f"{NEW} other"])
def test_what_the_backend_of_before_wrote_when_it_was_new_keeps_nobody_from_it(host: Host, there: str) -> None:
    """The new one could not even be made: the container that is there is the one of before."""
    run = host.run(rollout=UP, compose=LOST, backend=f"healthy {there}", log=MIGRATED)
    assert run.code != 0
    assert "The backend of before is back, and healthy." in run.output
    assert host.current()["backend"] == OLD


def test_what_the_backend_of_before_wrote_does_not_say_that_the_new_one_has_migrated_the_store(host: Host) -> None:
    """Whoever is told that goes the way of the backup, which loses what was spent since."""
    run = host.run(rollout=UP, compose=LOST, backend=f"healthy {OLD} s", log=MIGRATED, starts=(1, 1))
    assert run.code != 0
    assert "The backend of before was put back, and is not healthy either" in run.output
    assert "has migrated the store" not in run.output


def test_one_of_before_that_could_not_open_the_store_any_more_is_not_put_back(host: Host) -> None:
    run = host.run(rollout=UP, compose=LOST, backend=f"unhealthy {NEW} s", log=MIGRATED)
    assert run.code != 0
    assert "has migrated the store, which the one of before could not open any more" in run.output
    assert "The new backend was started again, and is healthy" in run.output
    assert host.current()["backend"] == NEW
    assert f"image: {OLD}" not in host.started()
    assert len([line for line in host.asked("compose") if " up " in line]) == 1


@pytest.mark.parametrize(("again", "said"), [(0, "is healthy: run again"), (1, "NO BACKEND RUNS")])
def test_where_the_one_of_before_does_not_come_up_either_the_new_one_is_started_again(
    host: Host, again: int, said: str
) -> None:
    """It alone may know the store: the migration may have ended when its time was over."""
    refused = "the store cannot be used: Can't locate revision identified by '0003'; was it made by a newer goproxy?"
    run = host.run(rollout=UP, compose=LOST, backend=f"unhealthy {NEW} s", log=refused, starts=(1, again))
    assert run.code != 0
    assert "The backend of before was put back, and is not healthy either" in run.output
    assert "was it made by a newer goproxy?" in run.output
    assert said in run.output
    assert "The edge is up to date" not in run.output
    assert host.current()["backend"] == NEW
    assert f"image: {OLD}" not in host.started()
    assert "goproxy-former" not in host.started()


def test_where_there_was_no_backend_before_the_new_one_is_tried_again(host: Host) -> None:
    host.record = {}
    run = host.run(rollout=UP, compose=LOST, backend=f"unhealthy {NEW} s", starts=(1,))
    assert run.code != 0
    assert "There is no backend of before." in run.output
    assert "NO BACKEND RUNS" in run.output


@pytest.mark.parametrize(
    ("complaints", "code"),
    [
        ("", 0),
        ("Error: conflict: unable to delete 0 (must be forced) - container 1 is using its referenced image", 0),
        ("Error: No such image: trollllm/goproxy:older\nError: the disk cannot be read", 2),
    ],
)
def test_an_image_that_somebody_else_uses_stays_and_holds_nothing_up(host: Host, complaints: str, code: int) -> None:
    (host.folder / "images").write_text(f"{OLD}\n{NEW}\n<none>:<none>\n")
    (host.folder / "complaints").write_text(complaints)
    look, remove = yaml.safe_load((REPOSITORY / "roles/goproxy/handlers/main.yml").read_text())
    del look["listen"]
    variables = {"__goproxy_new_record": {"alpha": {"current": {"image": NEW}}}}
    after = {"name": "The edge", "ansible.builtin.debug": {"msg": "The edge is up to date"}}
    tasks = [look, remove, after]
    host.ansible.write("play.yml", [{"hosts": "all", "gather_facts": False, "vars": variables, "tasks": tasks}])
    run = host.ansible.playbook("play.yml", callback="trollllm.gateway.quiet")
    assert run.code == code, run.output
    assert ("The edge is up to date" in run.output) is (code == 0)
    assert host.asked("image rm") == [f"image rm {OLD}"]
