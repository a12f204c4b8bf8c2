"""What the role docker decides. That an engine follows is Molecule's."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import Any

import pytest
import trustme
import yaml

from real_ansible import REPOSITORY, Ansible

ROLE = REPOSITORY / "roles/docker"
ODD_NAMES = ("corp #1.pem", "corp: root.pem", 'the "real" one.pem', "- Corp (new), 2026.pem", "plain.pem")


def test_a_certificate_is_trusted_whatever_its_file_is_called(ansible: Ansible) -> None:
    paths = [ansible.directory / "ca" / name for name in ODD_NAMES]
    for path in paths:
        ansible.write(str(path), trustme.CA().cert_pem.bytes().decode())
    places = {name: ansible.directory / name for name in ("localcertsdir", "etccertsdir", "certsdir", "hooksdir")}
    for name in ("etccertsdir", "certsdir", "hooksdir"):
        places[name].mkdir()
    template = f"{{{{ lookup('ansible.builtin.template', '{ROLE}/templates/certificates.yml.j2') | from_yaml }}}}"
    tree = {"root": str(places["localcertsdir"]), "files": template, "prune": True}
    given = {"docker_extra_ca_certificates": [str(path) for path in paths]}
    run = ansible.play([{"trollllm.gateway.file_tree": tree, "vars": given}])
    assert run.code == 0, run.output
    written = {place.name: place.read_text() for place in places["localcertsdir"].glob("*.crt")}
    assert written == {f"trollllm-{path.stem}.crt": path.read_text() for path in paths}

    if shutil.which("update-ca-certificates") is None:
        pytest.skip("update-ca-certificates is not installed")
    command = ["update-ca-certificates", "--certsconf", "/dev/null"]
    for option, place in places.items():
        command += [f"--{option}", str(place)]
    subprocess.run(command, check=True, capture_output=True)
    bundle = (places["etccertsdir"] / "ca-certificates.crt").read_text()
    assert [path.name for path in paths if path.read_text() not in bundle] == []


@pytest.mark.parametrize("lacks", ["", "os_family", "service_mgr", "distribution_version"])
def test_facts_are_gathered_where_one_is_missing(ansible: Ansible, lacks: str) -> None:
    (gather, *_) = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    facts = dict.fromkeys({"os_family", "service_mgr", "distribution_version", "python_version"} - {lacks}, "x")
    run = ansible.play([{"ansible.builtin.debug": {}, "when": gather["when"], "vars": {"ansible_facts": facts}}])
    assert run.code == 0, run.output
    assert run.result.get("skipped", False) is (lacks == "")


@pytest.mark.parametrize(
    ("family", "service_manager", "python", "is_refused"),
    [
        ("Debian", "systemd", "3.11.2", False),
        ("Debian", "systemd", "3.10.12", True),
        ("Debian", "openrc", "3.12.3", True),
        ("RedHat", "systemd", "3.12.3", True),
    ],
)
def test_a_host_without_apt_or_systemd_or_with_an_old_python_is_refused(
    ansible: Ansible, family: str, service_manager: str, python: str, is_refused: bool
) -> None:
    """Also one whose engine is complete, which no release of a distribution is asked for."""
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    (refuse,) = (task for task in tasks if task["name"] == "Refuse a host that the role cannot serve")
    facts = {"os_family": family, "service_mgr": service_manager, "python_version": python}
    run = ansible.play([refuse | {"vars": {"docker_state": "present", "ansible_facts": facts}}])
    assert run.result.get("failed", False) is is_refused
    if is_refused:
        assert f"It is of the family '{family}'," in run.result["msg"]
        assert f"its service manager is '{service_manager}', and its Python is {python}." in run.result["msg"]


@pytest.mark.parametrize(
    ("snap", "runs", "is_refused"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_the_engine_of_snap_is_refused(ansible: Ansible, snap: bool, runs: bool, is_refused: bool) -> None:
    """It answers, with Compose and buildx, and so looked complete."""
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    (refuse,) = (task for task in tasks if task["name"] == "Refuse the engine of snap")
    given = {"docker_state": "present", "__docker_reg_found": {"snap": snap, "runs": runs}}
    run = ansible.play([refuse | {"vars": given}])
    assert run.result.get("failed", False) is is_refused
    if is_refused:
        assert "here has snap's Docker" in run.result["msg"]
        assert "snap remove docker" in run.result["msg"]


@pytest.mark.parametrize("said", ["toomanyrequests: too many requests", "no basic auth credentials"])
def test_a_base_image_that_no_registry_gives_is_made(
    ansible: Ansible, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Also where it might have given it later."""
    programs = ansible.directory / "bin"
    docker = ansible.write(str(programs / "docker"), f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (_, provide) = yaml.safe_load((ROLE / "tasks/base_image.yml").read_text())
    _, pull, make = provide["block"]
    own = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    made = {"ansible.builtin.debug": {"msg": "made of packages"}, "when": make["when"]}
    given = {
        "docker_pull_timeout": 10,
        "docker_base_image": "debian:trixie-slim",
        "__docker_pull_temporary": own["__docker_pull_temporary"],
    }
    run = ansible.play([pull | {"delay": 0, "vars": given}, made])
    assert run.code == 0, run.output
    assert "made of packages" in run.output


# -- what the engine and the trust store have not read yet -------------------------------------------------------------

OWN = {"packages": ["docker.io", "docker-cli"], "daemon_file": True, "images": [], "repository": False}
FOREIGN = {"packages": ["docker-compose"], "daemon_file": False, "images": [], "repository": False}
REBUILT, RESTARTED = "update-ca-certificates --fresh", "systemctl restart docker"
LEFT_RUNNING = "it was left running"


class Host:
    """As much of a host as the tasks look at: files and their times, and commands that note that they were called."""

    def __init__(self, ansible: Ansible) -> None:
        self.ansible = ansible
        self.place = ansible.directory / "host"
        (self.place / "certificates").mkdir(parents=True)
        (self.place / "bin").mkdir()
        self.calls = self.place / "calls"
        note = f'echo "${{0##*/}} $*" >> {self.calls}'
        self.command("update-ca-certificates", f"{note}; touch {self.place}/bundle.crt")
        self.command(
            "systemctl",
            f'if [ "$1" = show ]; then echo LoadState=loaded; echo ActiveState=active; exit; fi; {note}; '
            f"touch {self.place}/docker.pid",
        )
        for hours, name in enumerate(("docker.pid", "bundle.crt", "daemon.json", "certificates"), start=1):
            self.write(name, hours)

    def command(self, name: str, does: str) -> None:
        path = self.place / "bin" / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)

    def write(self, name: str, hours_ago: float = 0) -> None:
        path = self.place / name
        if not path.is_dir():
            path.touch()
        then = time.time() - 3600 * hours_ago
        os.utime(path, (then, then))

    def run(
        self, manifest: dict[str, Any], *options: str, live_restore: bool = False, wrote: bool = False
    ) -> tuple[list[str], list[str], str]:
        """What was called, which tasks say that they changed something, and the output.

        ``wrote``: the task before replaced a certificate, or in check mode would.
        """
        self.command("docker", f"echo {str(live_restore).lower()}")
        self.calls.write_text("")
        given = {
            "docker_extra_ca_certificates": ["/ca.pem"],
            "__docker_manifest": manifest,
            "__docker_daemon_file": f"{self.place}/daemon.json",
            "__docker_certificate_directory": f"{self.place}/certificates",
            "__docker_trust_store": f"{self.place}/bundle.crt",
            "__docker_pid_file": f"{self.place}/docker.pid",
            "__docker_reg_certificates": {"changed": wrote},
            "__docker_reg_options": {"changed": False},
        }
        tasks = [
            {
                "ansible.builtin.include_role": {
                    "name": "trollllm.gateway.docker",
                    "tasks_from": file,
                    "apply": {"environment": {"PATH": f"{self.place}/bin:{os.environ['PATH']}"}},
                },
                "vars": given,
            }
            for file in ("trust.yml", "restart.yml")
        ]
        run = self.ansible.play(tasks, *options)
        assert run.code == 0, run.output
        changed = [task["task"]["name"] for task in run.tasks for result in task["hosts"].values() if result["changed"]]
        return self.calls.read_text().splitlines(), changed, run.output


@pytest.fixture
def host(ansible: Ansible) -> Host:
    return Host(ansible)


@pytest.mark.parametrize(
    ("manifest", "written", "live_restore", "called"),
    [
        (OWN, [], False, []),
        (OWN, ["daemon.json"], False, [RESTARTED]),
        (OWN, ["certificates"], False, [REBUILT, RESTARTED]),
        (FOREIGN, ["certificates"], True, [REBUILT, RESTARTED]),
        (FOREIGN, ["certificates"], False, [REBUILT]),
        (FOREIGN, ["daemon.json"], True, []),
    ],
    ids=[
        "nothing is newer",
        "options that a run before left unread",
        "certificates that a run before left unread",
        "an engine of others whose containers stay",
        "an engine of others whose containers would stop",
        "options of others",
    ],
)
def test_what_was_left_unread_is_made_up_for_once(
    host: Host, manifest: dict[str, Any], written: list[str], live_restore: bool, called: list[str]
) -> None:
    for name in written:
        host.write(name)
    calls, changed, output = host.run(manifest, live_restore=live_restore)
    assert calls == called
    assert len(changed) == len(called)
    left_running = REBUILT in called and RESTARTED not in called
    assert (LEFT_RUNNING in output) is left_running
    if not called:
        return
    calls, changed, output = host.run(manifest, live_restore=live_restore)
    assert (calls, changed) == ([], [])
    assert (LEFT_RUNNING in output) is left_running, "it is said until it is done"


def test_an_engine_that_does_not_run_has_nothing_to_read_again(host: Host) -> None:
    host.write("certificates")
    (host.place / "docker.pid").unlink()
    assert host.run(OWN)[0] == [REBUILT]


@pytest.mark.parametrize(("manifest", "changes"), [(OWN, ["Restart the engine"]), (FOREIGN, [])])
def test_check_mode_says_what_would_be_done(host: Host, manifest: dict[str, Any], changes: list[str]) -> None:
    calls, changed, output = host.run(manifest, "--check", wrote=True)
    assert calls == []
    assert [name.removeprefix("trollllm.gateway.docker : ") for name in changed] == changes
    assert (LEFT_RUNNING in output) is (manifest is FOREIGN)
