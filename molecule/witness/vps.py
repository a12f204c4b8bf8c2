"""A look into the VPS: its containers, what they may do, whom they talk to. Nothing is changed by looking."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from testinfra.host import Host

from .nginx import Directive, read_dump
from .specification import BACKEND, EDGE, NETWORK

COMPOSE_FILE = "/opt/trollllm/docker-compose.prod.yml"
ESTABLISHED = "01"  # in /proc/net/tcp

# Prints the head of the next POST that arrives at a port of this network namespace.
SNIFFER = """
import socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
packets.settimeout(20)
head = b""
while b"\\r\\n\\r\\n" not in head:
    packet = packets.recv(65535)
    tcp = packet[(packet[0] & 15) * 4:]
    if packet[9] != 6 or int.from_bytes(tcp[2:4], "big") != int(sys.argv[1]):
        continue
    data = tcp[(tcp[12] >> 4) * 4:]
    if head or data.startswith(b"POST "):
        head += data
print(head.split(b"\\r\\n\\r\\n")[0].decode())
"""

# Prints status and body of a GET request.
GETTER = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": sys.argv[2]} if sys.argv[2] else {})
try:
    answer = urllib.request.urlopen(request, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode(), sep="\\n")
"""


@dataclass(frozen=True)
class Peer:
    """An established TCP connection of a container."""

    local_port: int
    address: str
    port: int


class Vps:
    """The server, through testinfra's host."""

    def __init__(self, host: Host) -> None:
        """Look through a testinfra host."""
        self._host = host

    def run(self, command: str, *arguments: str) -> str:
        """Run a command that must succeed, and give what it prints. `%s` stands for a quoted argument."""
        return str(self._host.check_output(command, *arguments))

    def containers(self) -> list[str]:
        """Give the names of the running containers."""
        return self.run("docker ps --format '{{.Names}}'").split()

    def inspect(self, container: str) -> dict[str, Any]:
        """Give docker inspect of a container."""
        return dict(json.loads(self.run("docker inspect %s", container))[0])

    def compose(self) -> dict[str, Any]:
        """Parse docker-compose.prod.yml with Compose itself."""
        return dict(json.loads(self.run("docker compose --file %s config --format json", COMPOSE_FILE)))

    def pid(self, container: str) -> str:
        """Give the process id of a container's first process."""
        return str(self.inspect(container)["State"]["Pid"])

    def processes(self, container: str) -> list[str]:
        """Give the process ids of a container's first process and its descendants.

        A health check, which comes and goes, is no descendant: the engine starts it from outside.
        """
        table = self.run("docker top %s -o pid,ppid", container).splitlines()[1:]
        parents = dict(line.split() for line in table)
        family = [self.pid(container)]
        for member in family:
            family += [pid for pid, parent in parents.items() if parent == member]
        return family

    def address(self, container: str) -> str:
        """Give a container's address on trollllm-network."""
        return str(self.inspect(container)["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])

    def peers(self, container: str) -> set[Peer]:
        """Give whom a container is connected with at this moment."""
        table = self.run(f"cat /proc/{self.pid(container)}/net/tcp /proc/{self.pid(container)}/net/tcp6")
        return {peer for line in table.splitlines() if (peer := _peer(line.split())) is not None}

    def arriving(self, container: str, port: int, send: Callable[[], object]) -> tuple[str, dict[str, list[str]]]:
        """Give request line and headers as they arrive at a container's port, of what `send` sends again and again."""
        heads: list[str] = []
        command = f"nsenter --target {self.pid(container)} --net timeout 25 python3 -c %s {port}"
        sniffer = threading.Thread(target=lambda: heads.append(self.run(command, SNIFFER)))
        sniffer.start()
        while sniffer.is_alive():
            send()
            time.sleep(0.1)
        assert heads, f"no request arrived at {container}:{port}"
        line, *fields = heads[0].splitlines()
        headers: dict[str, list[str]] = {}
        for field in fields:
            name, _, value = field.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        return line, headers

    def get(self, url: str, authorization: str = "") -> tuple[int, str]:
        """Ask for something on the private network, from within the backend's container: status and body."""
        told = self.run("docker exec %s python3 -c %s %s %s", BACKEND, GETTER, url, authorization)
        status, _, body = told.partition("\n")
        return int(status), body

    def edge(self) -> Directive:
        """Give the configuration that the running edge has."""
        return read_dump(self.run("docker exec %s nginx -T", EDGE))


def _peer(fields: list[str]) -> Peer | None:
    """Read a line of /proc/net/tcp or tcp6, if it is an established connection."""
    if len(fields) < 4 or fields[3] != ESTABLISHED:
        return None
    local, remote = fields[1].split(":"), fields[2].split(":")
    address = socket.inet_ntoa(struct.pack("<I", int(remote[0][-8:], 16)))  # of IPv6 the mapped IPv4 address
    return Peer(int(local[1], 16), address, int(remote[1], 16))
