"""What the module docker_engine finds on a host: commands of the test's own stand for docker, systemd and dpkg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.trollllm.gateway.plugins.modules import docker_engine as subject

DOCKER = """
case "$1 $2" in
  "version --format") echo 28.5.2 ;;
  "compose version") echo v2.40.3+ds1 ;;
  "buildx version") echo github.com/docker/buildx 0.13.1 ;;
  "image inspect") test "$3" = debian:trixie-slim ;;
esac
"""
DPKG = "printf 'docker.io installed\\ndocker-ce config-files\\n'; exit 1"
SYSTEMCTL = 'test "$2" = docker'


class Host:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.commands = directory / "bin"
        self.commands.mkdir()
        self._capture = capture
        monkeypatch.setenv("PATH", f"{self.commands}:/usr/bin:/bin")
        for name in ("docker", "dockerd", "dpkg-query", "systemctl"):
            self.command(name, "exit 127")  # this machine's own are not asked

    def command(self, name: str, does: str) -> None:
        path = self.commands / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)

    def look(self, **options: Any) -> dict[str, Any]:
        with patch_module_args({"packages": ["docker.io", "docker-ce"], "image": "debian:trixie-slim", **options}):
            self._capture.readouterr()
            with pytest.raises(SystemExit):
                subject.main()
        result: dict[str, Any] = json.loads(self._capture.readouterr().out)
        return result


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, monkeypatch, capsys)


def test_a_bare_host_has_nothing_and_that_is_an_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(host.commands))
    for command in host.commands.iterdir():
        command.unlink()
    found = host.look(files=[str(host.commands / "daemon.json")])
    assert (found["server"], found["compose"], found["dockerd"]) == ("", "", "")
    assert (found["buildx"], found["runs"], found["image"]) == (False, False, False)
    assert (found["packages"], found["files"], found["snap"]) == ([], {}, False)
    assert found["problem"] == "docker: No such file or directory"
    assert not found["changed"]


def test_what_is_there_is_told(host: Host) -> None:
    host.command("docker", DOCKER)
    host.command("dockerd", "echo Docker version 28.5.3, build 1234567")
    host.command("dpkg-query", DPKG)
    host.command("systemctl", SYSTEMCTL)
    options = host.commands / "daemon.json"
    options.write_text('{"live-restore": true}\n')
    found = host.look(files=[str(options), str(host.commands / "none.json")])
    assert (found["server"], found["compose"], found["dockerd"]) == ("28.5.2", "2.40.3", "28.5.3")
    assert (found["buildx"], found["runs"], found["image"], found["problem"]) == (True, True, True, "")
    assert found["packages"] == ["docker.io"], "what was removed has left its configuration files only"
    assert found["files"] == {str(options): '{"live-restore": true}\n'}


def test_another_image_is_not_the_one(host: Host) -> None:
    host.command("docker", DOCKER)
    assert not host.look(image="debian:bookworm-slim")["image"]
    assert not host.look(image="")["image"]


def test_an_engine_that_does_not_answer_is_told_with_its_reason(host: Host) -> None:
    host.command("docker", 'test "$1" = compose && echo 2.40.3 || { echo Cannot connect >&2; exit 1; }')
    host.command("systemctl", "test $1 = is-enabled")
    assert not host.look()["snap"]
    host.command("systemctl", 'test "$2" = snap.docker.dockerd.service')
    assert host.look()["snap"]
    host.command("systemctl", "test $1 = is-enabled")
    found = host.look()
    assert (found["server"], found["problem"], found["compose"]) == ("", "Cannot connect", "2.40.3")
    assert not found["runs"], "it is to be started at boot, and does not run now"


def test_a_file_that_cannot_be_read_is_named(host: Host) -> None:
    (host.commands / "daemon.json").mkdir()
    found = host.look(files=[str(host.commands / "daemon.json")])
    assert found["failed"]
    assert f"{host.commands}/daemon.json cannot be read" in found["msg"]
