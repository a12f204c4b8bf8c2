"""What has the edge's ports is named before a run changes anything. The edge's container is played by the test."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from real_ansible import Ansible, Run


@pytest.fixture
def another_server() -> socket.socket:
    try:
        socket.create_server(("127.0.0.1", 443)).close()
        return socket.create_server(("127.0.0.1", 80))
    except OSError as taken:
        pytest.skip(f"a port of the edge on this machine: {taken}")


def look(ansible: Ansible, monkeypatch: pytest.MonkeyPatch, *, edge_runs: bool) -> Run:
    docker = ansible.write("bin/docker", f"#!/bin/sh\necho {str(edge_runs).lower()}\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path(docker).parent}:{os.environ['PATH']}")
    role = {"name": "trollllm.gateway.nginx", "tasks_from": "ports"}
    return ansible.play([{"name": "Look at the ports", "ansible.builtin.import_role": role}])


def test_another_process_at_a_port_of_the_edge_is_named(
    ansible: Ansible, monkeypatch: pytest.MonkeyPatch, another_server: socket.socket
) -> None:
    with another_server:
        run = look(ansible, monkeypatch, edge_runs=False)
        assert run.code != 0
        [name] = Path("/proc/self/comm").read_text().split()
        assert f"port 80: {name} (process {os.getpid()})." in run.output, run.output
        assert look(ansible, monkeypatch, edge_runs=True).code == 0, "then the port is the edge's"
    assert look(ansible, monkeypatch, edge_runs=False).code == 0
