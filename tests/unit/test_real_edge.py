"""The edge's nginx with the tree that the role renders, on loopback: what the configuration does, not what it says.

Without nginx these tests are skipped; the container around it is Molecule's.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from real_ansible import REPOSITORY

sys.path.append(str(REPOSITORY / "bench"))

from relayed.edge import edge_tree, upstream
from relayed.process import free_port

NGINX = Path("/usr/sbin/nginx")
DOMAINS = {"alpha": "alpha.example.org", "beta": "beta.example.org"}
LIMIT = 5
"""Requests that one address may have open."""

pytestmark = pytest.mark.skipif(not NGINX.exists(), reason="there is no nginx here")


class Proxy:
    """Stands for a goproxy: answers each request with the same bytes, or not before it is told to."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # a client that goes away
            connection.recv(65536)
            self.asked += 1
            self.goes_on.wait(60)
            connection.sendall(self.answer)

    def close(self) -> None:
        self.goes_on.set()
        self._listener.close()


@dataclass
class Edge:
    port: int
    trust: Path
    proxies: dict[str, Proxy]
    process: subprocess.Popen[bytes]
    opened: ExitStack = field(default_factory=ExitStack)

    def send(self, name: str, request: str, body: bytes = b"") -> ssl.SSLSocket:
        """Send a request's lines to an upstream's domain."""
        tcp = socket.create_connection(("127.0.0.1", self.port), 20)
        context = ssl.create_default_context(cafile=str(self.trust))
        tls = self.opened.enter_context(context.wrap_socket(tcp, server_hostname=DOMAINS[name]))
        tls.sendall(f"{request}\r\nHost: {DOMAINS[name]}\r\nConnection: close\r\n\r\n".encode() + body)
        return tls

    def ask(self, name: str, request: str = "GET /v1/models HTTP/1.1", body: bytes = b"") -> bytes:
        """All of the answer."""
        with self.send(name, request, body) as tls:
            return b"".join(iter(lambda: tls.recv(65536), b""))


def what_the_container_runs() -> list[str]:
    """The image's command, with what is here instead of there."""
    image = REPOSITORY / "roles/nginx/files/image"
    (command,) = re.findall(r"^CMD (.*)$", (image / "Dockerfile").read_text(), re.MULTILINE)
    places = {"nginx": str(NGINX), **{path.name: str(path) for path in image.iterdir()}}
    return [places[word] for word in json.loads(command)]


@contextmanager
def running_edge(
    directory: Path, output: int = subprocess.DEVNULL, before: Sequence[str] = (), **variables: Any
) -> Iterator[Edge]:
    """Run it, with two upstreams; `output` is where its log goes, `before` a command that runs it."""
    authority = trustme.CA()
    issued = authority.issue_cert(*DOMAINS.values())
    trust, chain, key = directory / "ca.pem", directory / "fullchain.pem", directory / "privkey.pem"
    authority.cert_pem.write_to_path(trust)
    chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    proxies = {name: Proxy() for name in DOMAINS}
    port = free_port()
    home = directory / "edge"
    upstreams = [upstream(name, DOMAINS[name], proxy.port) for name, proxy in proxies.items()]
    for path, content in edge_tree(home, upstreams, port, chain, key, **variables).items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(content)
    command = [*before, *what_the_container_runs(), "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr"]
    # As they are, signals that Python ignores are ignored there: a file that is too large is an error of its write.
    process = subprocess.Popen(command, stdout=output, stderr=output, restore_signals=False)
    edge = Edge(port, trust, proxies, process)
    try:
        wait_until(lambda: is_listening(port) or process.poll() is not None)
        assert process.poll() is None
        yield edge
    finally:
        edge.opened.close()
        for proxy in proxies.values():
            proxy.close()
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with running_edge(tmp_path_factory.mktemp("edge"), nginx_connections_per_address=LIMIT) as running:
        yield running


@pytest.fixture(autouse=True)
def _as_new(edge: Edge) -> Iterator[None]:
    usual = {name: proxy.answer for name, proxy in edge.proxies.items()}
    yield
    for name, proxy in edge.proxies.items():
        proxy.answer = usual[name]
        proxy.goes_on.set()
    edge.opened.close()


def is_listening(port: int) -> bool:
    with socket.socket() as tcp:
        return tcp.connect_ex(("127.0.0.1", port)) == 0


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("length", [17_000, 100_000, 256 * 1024])
def test_a_long_head_of_a_provider_is_passed_on(edge: Edge, length: int) -> None:
    """Whatever goproxy takes: what it has paid for would be a 502 for the client."""
    policy = f"Content-Security-Policy: {'x' * length}\r\n".encode()
    edge.proxies["alpha"].answer = edge.proxies["alpha"].answer.replace(b"\r\n", b"\r\n" + policy, 1)
    answer = edge.ask("alpha")
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]
    assert policy in answer
    assert answer.endswith(b"\r\n\r\nok")


def test_what_hangs_at_one_upstream_takes_no_request_from_the_others(edge: Edge) -> None:
    """The limit of an address is reached at one domain, and is another at each."""
    alpha = edge.proxies["alpha"]
    alpha.goes_on.clear()
    asked = alpha.asked
    for _ in range(LIMIT):
        edge.send("alpha", "GET /v1/models HTTP/1.1")
    wait_until(lambda: alpha.asked == asked + LIMIT)
    assert edge.ask("alpha").startswith(b"HTTP/1.1 429 ")
    assert edge.ask("beta").startswith(b"HTTP/1.1 200 ")


def test_a_body_that_there_is_no_room_for_is_asked_for_again_in_json(tmp_path: Path) -> None:
    """A limit of a file's size stands for a full nginx_temp_size: nginx's write fails."""
    with running_edge(tmp_path, before=["prlimit", "--fsize=262144"]) as edge:
        body = b"x" * 1024 * 1024
        answer = edge.ask("alpha", f"POST /v1/messages HTTP/1.1\r\nContent-Length: {len(body)}", body)
        assert answer.startswith(b"HTTP/1.1 503 "), answer[:300]
        assert b"\r\nRetry-After: 2\r\n" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "api_error"
        assert edge.ask("alpha").startswith(b"HTTP/1.1 200 ")


def test_an_http_of_another_version_is_refused_in_json(edge: Edge) -> None:
    answer = edge.ask("alpha", "GET /v1/models HTTP/7.0")
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:300]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"


def test_a_log_that_nobody_reads_stops_no_request(tmp_path: Path) -> None:
    """As while the Docker engine starts again. A pipe has room for some 170 lines."""
    read_end, write_end = os.pipe()
    with running_edge(tmp_path, output=write_end) as edge:
        hanging = edge.proxies["beta"]
        hanging.goes_on.clear()
        stream = edge.send("beta", "GET /v1/models HTTP/1.1")
        wait_until(lambda: hanging.asked == 1)
        for _ in range(300):
            assert edge.ask("alpha", "GET /elsewhere HTTP/1.1").startswith(b"HTTP/1.1 404 ")
        hanging.goes_on.set()
        assert stream.recv(65536).startswith(b"HTTP/1.1 200 ")
        os.close(write_end)
    with os.fdopen(read_end) as log:
        assert '"status":' in log.read(), "what there was room for has been written"
