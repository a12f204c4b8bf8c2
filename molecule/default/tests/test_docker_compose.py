"""Requirement: Docker Compose configuration for dual upstreams.

Each line is asserted twice: of the file, as Compose itself parses it, and of the container that runs.
"""

from __future__ import annotations

from typing import Any

import pytest
from witness.specification import BACKEND, BOTH, NETWORK, OHMYGPT, OPENHANDS, Upstream
from witness.vps import Vps

TCP_LISTEN = "0A"  # as /proc/net/tcp writes it: include/net/tcp_states.h


@pytest.fixture(scope="module")
def compose(vps: Vps) -> dict[str, Any]:
    """Given the docker-compose.prod.yml file, when the configuration is parsed."""
    return vps.compose()


def test_docker_compose_defines_goproxy_openhands_service(compose: dict[str, Any], vps: Vps) -> None:
    """Then: a service named goproxy-openhands is defined.

    It mounts /goproxy/config-openhands-prod.json to /app/config.json, exposes internal port 8004, and is connected
    to the trollllm-network Docker network.
    """
    assert_defined(OPENHANDS, compose)
    assert_running(OPENHANDS, vps)


def test_docker_compose_defines_goproxy_ohmygpt_service(compose: dict[str, Any], vps: Vps) -> None:
    """Then: a service named goproxy-ohmygpt is defined.

    It mounts /goproxy/config-ohmygpt-prod.json to /app/config.json, exposes internal port 8005, and is connected
    to the trollllm-network Docker network.
    """
    assert_defined(OHMYGPT, compose)
    assert_running(OHMYGPT, vps)


def test_backend_service_mounts_both_upstream_configuration_files(compose: dict[str, Any], vps: Vps) -> None:
    """Given: the backend service. When: it starts.

    Then: it mounts config-<name>-prod.json to /app/goproxy/config-<name>-prod.json for both upstreams, and the
    variables GOPROXY_OPENHANDS_CONFIG_PATH and GOPROXY_OHMYGPT_CONFIG_PATH are set.
    """
    service, container = compose["services"][BACKEND], vps.inspect(BACKEND)
    environment = dict(variable.split("=", 1) for variable in container["Config"]["Env"])
    for upstream in BOTH:
        target = f"/app/goproxy/{upstream.config_file}"
        variable = f"GOPROXY_{upstream.name.upper()}_CONFIG_PATH"
        assert service_mounts(service)[target].endswith(f"/goproxy/{upstream.config_file}")
        assert container_mounts(container)[target].endswith(f"/goproxy/{upstream.config_file}")
        assert service["environment"][variable] == environment[variable] == target
        on_host = vps.run("cat %s", container_mounts(container)[target])
        assert vps.run("docker exec %s cat %s", BACKEND, target) == on_host, "the backend sees an old file"
    assert container["State"]["Health"]["Status"] == "healthy"


def test_no_service_publishes_a_port(compose: dict[str, Any], vps: Vps) -> None:
    """Internal ports stay internal: none is published on the host, only the edge is reached from outside."""
    assert [name for name, service in compose["services"].items() if service.get("ports")] == []
    sockets = [line.split() for line in vps.run("cat /proc/net/tcp /proc/net/tcp6").splitlines()]
    listening = {int(local.rpartition(":")[2], 16) for _, local, _, state, *_ in sockets if state == TCP_LISTEN}
    assert {80, 443} <= listening
    assert not listening & {8000, *(upstream.port for upstream in BOTH)}


def assert_defined(upstream: Upstream, compose: dict[str, Any]) -> None:
    """The parsed file defines the service."""
    service = compose["services"][upstream.service]
    assert service_mounts(service)["/app/config.json"].endswith(f"/goproxy/{upstream.config_file}")
    assert [str(port) for port in service["expose"]] == [str(upstream.port)]
    assert NETWORK in {compose["networks"][network]["name"] for network in service["networks"]}


def assert_running(upstream: Upstream, vps: Vps) -> None:
    """The container that runs is what the file defines."""
    container = vps.inspect(upstream.service)
    source = container_mounts(container)["/app/config.json"]
    assert source.endswith(f"/goproxy/{upstream.config_file}")
    assert vps.run("docker exec %s cat /app/config.json", upstream.service) == vps.run("cat %s", source)
    assert container["NetworkSettings"]["Ports"] == {f"{upstream.port}/tcp": None}  # exposed, not published
    assert NETWORK in container["NetworkSettings"]["Networks"]
    assert container["State"]["Health"]["Status"] == "healthy"


def service_mounts(service: dict[str, Any]) -> dict[str, str]:
    """Give source by target, as Compose has it."""
    return {mount["target"]: mount["source"] for mount in service["volumes"]}


def container_mounts(container: dict[str, Any]) -> dict[str, str]:
    """Give source by target, as the engine has it."""
    return {mount["Destination"]: mount["Source"] for mount in container["Mounts"]}
