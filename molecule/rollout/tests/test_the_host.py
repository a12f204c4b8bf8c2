"""The host as strangers see it, and after a boot: what answers, and what comes back without an operator."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
from pathlib import Path

import pytest
from witness.connection import Address, Connection
from witness.edge import Edge
from witness.playbook import Operator
from witness.specification import EDGE, OPENHANDS
from witness.user import User
from witness.vps import Vps
from witness.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("deployed"), pytest.mark.timeout(600, func_only=True)]

_AT_ONCE, _SECONDS = 500, 3
"""65,535 ports are tried within seven minutes, also where what is not allowed is dropped and not refused."""


@pytest.mark.timeout(900, func_only=True)
def test_nothing_but_80_and_443_answers_from_outside(connection: Connection) -> None:
    """Every TCP port is tried, from another network namespace than the host's."""
    assert asyncio.run(_open_ports(connection.vps_ipv4)) == [80, 443]


def test_an_edge_that_does_not_become_healthy_makes_way_for_the_one_of_before(
    vps: Vps, user: User, tmp_path: Path
) -> None:
    """No nginx starts in 6 MB. What was written for it is gone again: a look sees no change."""
    operator = Operator(tmp_path)
    operator.succeed("site.yml")
    run = operator.run("site.yml", "-e", "nginx_memory_limit=6m")
    assert run.code != 0
    assert "The edge of before serves again" in run.output, run.output
    assert vps.inspect(EDGE)["State"]["Health"]["Status"] == "healthy"
    assert user.ask(OPENHANDS.domain).status_code == 200
    assert operator.succeed("site.yml", "--check").changed == 0


@pytest.mark.usefixtures("providers")
def test_a_boot_brings_everything_back(connection: Connection, vps: Vps, tmp_path: Path) -> None:
    """Both domains serve the keys that they knew, renewals are due as before, and a run finds nothing to do."""
    operator = Operator(tmp_path)
    operator.succeed("site.yml")
    before = sorted(vps.containers())
    booted = vps.run("cat /proc/1/stat").split()[21]

    _keep_the_resolver(vps)
    subprocess.run(["docker", "restart", "--time", "60", connection.vps], check=True, capture_output=True)

    # Its own address: the port at which it is published here is another one now.
    at_home = dataclasses.replace(connection, https=Address(connection.vps_ipv4, 443))
    user = User(Edge(at_home), connection.api_key)
    domains = connection.domains.values()
    wait_until(lambda: all(user.ask(domain, max_tokens=20).status_code == 200 for domain in domains), timeout=240)
    assert vps.run("cat /proc/1/stat").split()[21] != booted
    wait_until(lambda: sorted(vps.containers()) == before, timeout=60)
    assert vps.run("systemctl is-active certbot-renew.timer") == "active"
    run = operator.succeed("site.yml")
    assert run.changed == 0, run.output


def _keep_the_resolver(vps: Vps) -> None:
    """The engine that runs the testkit writes another one into a container that it starts; a host keeps its own."""
    drop_in = f'[Service]\nExecStartPre=/bin/sh -c "echo {vps.run("cat /etc/resolv.conf")} > /etc/resolv.conf"\n'
    vps.run("mkdir -p /etc/systemd/system/docker.service.d")
    vps.run("printf %s > /etc/systemd/system/docker.service.d/testkit.conf", drop_in)


async def _open_ports(host: str) -> list[int]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def is_open(port: int) -> bool:
        async with gate:
            try:
                async with asyncio.timeout(_SECONDS):
                    _, writer = await asyncio.open_connection(host, port)
            except (ConnectionRefusedError, TimeoutError):
                return False
            writer.close()
            return True

    ports = range(1, 65536)
    return [port for port, found in zip(ports, await asyncio.gather(*map(is_open, ports)), strict=True) if found]
