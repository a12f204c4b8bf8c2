"""What the containers may do, and where secrets are: one test a rule, for each container of the stack."""

from __future__ import annotations

import re
from typing import Any

import pytest
from testinfra.host import Host
from witness.connection import Connection
from witness.specification import BACKEND, BOTH, EDGE, Upstream
from witness.vps import Vps

CONTAINERS = [*(upstream.service for upstream in BOTH), BACKEND, EDGE]
DATA = "/opt/trollllm/data"
RECORDS: dict[str, dict[str, str]] = {
    **{upstream.service: {"/var/lib/goproxy": f"{DATA}/{upstream.name}"} for upstream in BOTH},
    BACKEND: {"/var/lib/backend": f"{DATA}/backend"},
    EDGE: {},
}
SECRET = "/run/secrets/upstream_api_key"
NOBODYS_CAPABILITIES = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0}


@pytest.fixture(params=CONTAINERS)
def name(request: pytest.FixtureRequest) -> str:
    """Each container of the stack in turn."""
    return str(request.param)


@pytest.fixture
def container(name: str, vps: Vps) -> dict[str, Any]:
    """What docker inspect says of it."""
    return vps.inspect(name)


@pytest.fixture
def processes(name: str, vps: Vps) -> list[dict[str, str]]:
    """What the kernel says of each process in it: the first one, and what came of it."""
    texts = [vps.run(f"cat /proc/{pid}/status") for pid in vps.processes(name)]
    return [dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE)) for text in texts]


def test_no_other_container_runs(vps: Vps) -> None:
    """What is not listed here is not tested here."""
    assert sorted(vps.containers()) == sorted(CONTAINERS)


def test_no_process_runs_as_root(processes: list[dict[str, str]]) -> None:
    """Real, effective, saved and file-system user are above the host's own users."""
    assert processes
    assert all(int(user) > 10000 for process in processes for user in process["Uid"].split())


def test_no_process_has_a_capability(processes: list[dict[str, str]]) -> None:
    """None in any set: not even to be given one."""
    assert [{kind: int(process[kind], 16) for kind in NOBODYS_CAPABILITIES} for process in processes] == [
        NOBODYS_CAPABILITIES
    ] * len(processes)


def test_no_process_can_gain_privileges(processes: list[dict[str, str]]) -> None:
    """no_new_privs is set."""
    assert {process["NoNewPrivs"] for process in processes} == {"1"}


@pytest.mark.parametrize("service", ["goproxy-openhands", "goproxy-ohmygpt", "backend"])
def test_a_name_without_a_dot_is_asked_of_no_name_server_outside(service: str, vps: Vps) -> None:
    """While the backend is away, its name is nobody's, on the host's name servers too."""
    lines = vps.run("docker exec %s cat /etc/resolv.conf", service).splitlines()
    assert [line for line in lines if line.startswith(("search", "domain"))] == []
    assert [line for line in lines if line.startswith("options")] == ["options ndots:1"]


def test_the_root_file_system_is_read_only(name: str, container: dict[str, Any], host: Host) -> None:
    """And writing is tried."""
    assert container["HostConfig"]["ReadonlyRootfs"] is True
    tried = host.run("docker exec %s sh -c 'echo >/written'", name)
    assert tried.failed
    assert "read-only" in tried.stderr.lower()


def test_only_temporary_memory_and_the_containers_own_records_are_writable(
    name: str, container: dict[str, Any]
) -> None:
    """A proxy's own journal, the backend's store, and no other mount; a tmpfs is bounded and runs nothing."""
    writable = {mount["Destination"]: mount["Source"] for mount in container["Mounts"] if mount["RW"]}
    assert writable == RECORDS[name]
    for options in (container["HostConfig"]["Tmpfs"] or {}).values():
        assert {"noexec", "nosuid", "nodev"} <= set(options.split(","))
        assert "size=" in options


def test_records_are_read_by_their_own_containers_user_only(host: Host) -> None:
    """Journals and store: each in a folder of its own user, mode 0700."""
    folders = {path: host.file(path) for records in RECORDS.values() for path in records.values()}
    users = {upstream.name: 10000 + upstream.port for upstream in BOTH} | {"backend": 18000}
    for path, folder in folders.items():
        assert (folder.mode, folder.uid) == (0o700, users[path.rpartition("/")[2]])


def test_processes_memory_and_logs_are_limited(container: dict[str, Any]) -> None:
    """A pid limit, a memory limit without swap, and rotated logs."""
    limits = container["HostConfig"]
    assert 0 < limits["PidsLimit"] <= 512
    assert 0 < limits["Memory"] == limits["MemorySwap"]
    assert re.fullmatch(r"\d+[km]", limits["LogConfig"]["Config"]["max-size"])
    assert int(limits["LogConfig"]["Config"]["max-file"]) > 1


def test_nothing_of_the_host_is_shared(container: dict[str, Any]) -> None:
    """Not privileged, no namespace of the host, no device, no Docker socket."""
    limits = container["HostConfig"]
    assert limits["Privileged"] is False
    assert not limits["Devices"]
    assert not limits["CapAdd"]
    assert "host" not in (limits["NetworkMode"], limits["PidMode"], limits["IpcMode"], limits["UsernsMode"])
    assert not [mount for mount in container["Mounts"] if "docker.sock" in mount["Source"]]


def test_only_the_edge_publishes_ports(name: str, container: dict[str, Any]) -> None:
    """80 and 443, and nothing else."""
    published = {port for port, bindings in (container["NetworkSettings"]["Ports"] or {}).items() if bindings}
    assert published == ({"80/tcp", "443/tcp"} if name == EDGE else set())


def test_a_container_comes_back_after_a_restart_of_the_host(container: dict[str, Any]) -> None:
    """The restart policy says so."""
    assert container["HostConfig"]["RestartPolicy"]["Name"] in ("always", "unless-stopped")


# --- secrets


def test_each_goproxy_has_its_own_secret(upstream: Upstream, vps: Vps, connection: Connection) -> None:
    """Its provider's key, readable by its own user only."""
    assert vps.run("docker exec %s cat %s", upstream.service, SECRET) == connection.secrets[upstream.name]
    mode, owner = vps.run("docker exec %s stat -c '%%a %%u' %s", upstream.service, SECRET).split()
    assert (mode, owner) == ("400", vps.run("docker exec %s id -u", upstream.service))


def test_users_of_containers_are_distinct(vps: Vps) -> None:
    """So that a file mode can tell them apart."""
    users = [vps.run("docker exec %s id -u", container) for container in CONTAINERS]
    assert len(set(users)) == len(CONTAINERS)


def test_a_secret_is_in_no_other_container(upstream: Upstream, vps: Vps, host: Host) -> None:
    """Not mounted elsewhere; and even where it is mounted, the other's user cannot read it."""
    source = next(
        mount["Source"] for mount in vps.inspect(upstream.service)["Mounts"] if mount["Destination"] == SECRET
    )
    for other in set(CONTAINERS) - {upstream.service}:
        mounted = [mount["Source"] for mount in vps.inspect(other)["Mounts"]]
        assert not [path for path in mounted if source.startswith(path)], other
        user = vps.run("docker exec %s id -u", other)
        assert host.run("docker exec --user %s %s cat %s", user, upstream.service, SECRET).failed
    secret = host.file(source)
    assert (secret.mode, secret.uid) == (0o400, 10000 + upstream.port)


def test_no_secret_is_in_docker_inspect_or_in_the_environment(vps: Vps, connection: Connection) -> None:
    """Of any container, image, network or volume."""
    everything = vps.run(
        "docker inspect $(docker ps --all --quiet) $(docker images --quiet) $(docker network ls --quiet)"
    )
    everything += vps.run("docker history --no-trunc %s", vps.inspect(BOTH[0].service)["Image"])
    everything += text_of(vps, "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline")
    assert leaked(connection, everything) == []


def test_no_secret_is_in_a_log(vps: Vps, connection: Connection) -> None:
    """Neither of a container, nor of the system, nor of what Ansible tells the journal."""
    logs = "\n".join(vps.run("docker logs %s 2>&1", container) for container in CONTAINERS)
    logs += text_of(vps, "journalctl --no-pager --output cat")
    logs += text_of(vps, "find /var/log -type f -not -path '*/journal/*' -exec cat {} +")
    assert len(logs) > 1000, "there must be something to look through"
    assert leaked(connection, logs) == []


def test_no_secret_is_in_a_file_that_others_may_read(vps: Vps, connection: Connection) -> None:
    """In what is deployed, a secret stands in files of mode 0400, 0440 or 0600 alone; a client's key nowhere."""
    readable = text_of(vps, "find /opt/trollllm /etc /root /tmp /var/www -type f -perm -o=r -exec cat {} +")
    assert leaked(connection, readable) == []
    everything = text_of(vps, "find /opt/trollllm -type f -exec cat {} +")
    assert connection.api_key not in everything, "of a client's key the host has the digest only"


def text_of(vps: Vps, command: str) -> str:
    """Give what a command prints, of whatever it could read, and of that the printable characters."""
    return vps.run(f"{command} 2>/dev/null | LC_ALL=C tr '\\0' '\\n' | LC_ALL=C tr -cd '\\11\\12\\40-\\176'")


def leaked(connection: Connection, text: str) -> list[str]:
    """Give what each secret is that stands in a text."""
    return [kind for kind, secret in connection.marked_secrets.items() if secret in text]
