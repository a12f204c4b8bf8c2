"""What an operator runs, without containers: edge, two proxies and the backend as processes, with logs in files.

The edge is nginx with the tree of the role trollllm.gateway.nginx; proxies and backend are started by their command
line, with the files and variables that the containers have. Whoever is asked in the end is a provider of the caller's.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from relayed.edge import edge_tree, upstream
from relayed.gateway import new_key
from relayed.gateway_files import backend_environment, proxy_environment
from relayed.process import free_port
from relayed.web import is_ready

from tests.gateway import config_document, endpoints_at

DOMAINS = {"openhands": "chat.example.org", "ohmygpt": "chat2.example.org"}
"""By upstream."""

ADMIN_DOMAIN = "admin.example.org"
_PROXY_APP = Path(__file__).parents[1] / "proxy_app"
_START = 40.0
_STOP = 15.0


def _random(mark: str) -> str:
    return f"{mark}-{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Credentials:
    """What nobody but its owner may see."""

    operator: str = field(default_factory=lambda: _random("operator"))
    upstream_keys: Mapping[str, str] = field(default_factory=lambda: {name: _random(f"sk-{name}") for name in DOMAINS})
    proxy_tokens: Mapping[str, str] = field(
        default_factory=lambda: {name: _random(f"proxy-{name}") for name in DOMAINS}
    )


class CannotStart(Exception):
    """Which process did not start, and its last words."""


class Running:
    """A process, and the file that it writes to."""

    def __init__(self, name: str, child: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = child.pid
        self.log = log
        self._child = child

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._child.send_signal(number)

    def written(self) -> str:
        """All that it has written."""
        return self.log.read_text(errors="replace")

    def await_true(self, condition: Callable[[], bool]) -> None:
        """Wait until it is up.

        Raises:
            CannotStart: it has ended, or takes too long.
        """
        until = time.monotonic() + _START
        while not condition():
            if not self.is_alive or time.monotonic() > until:
                raise CannotStart(f"{self.name} does not start: {self.written()[-2000:]}")
            time.sleep(0.05)

    def end(self) -> None:
        """End it, at first kindly."""
        self._child.terminate()
        try:
            self._child.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


@contextmanager
def _running(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[Running]:
    with log.open("ab") as output:
        child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"} | dict(environment),
        )
    running = Running(name, child, log)
    try:
        yield running
    finally:
        running.end()


@dataclass
class Deployment:
    """All of it."""

    directory: Path
    credentials: Credentials
    trust: Path
    edge_port: int
    plain_port: int
    backend_port: int
    proxy_ports: Mapping[str, int]
    processes: dict[str, Running]
    """`edge`, `backend`, and the proxies by upstream."""

    key: str
    """Of a client with credit."""

    def tls(self, *protocols: str) -> ssl.SSLContext:
        """What a client of the edge needs; `protocols` are those of ALPN."""
        context = ssl.create_default_context(cafile=str(self.trust))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def new_key(self, account: str, **limits: Any) -> str:
        """An account with credit, and its key."""
        return new_key(self.backend_port, self.credentials.operator, account, **limits)


@contextmanager
def deployed(
    directory: Path, provider_url: str, credentials: Credentials | None = None, **edge_variables: Any
) -> Iterator[Deployment]:
    """Run it. Each upstream is asked below its own name: `<provider_url>/<upstream>/v1/messages`.

    `edge_variables` are those of the role nginx; the limits per client address are off unless they are given.

    Raises:
        CannotStart: a process does not come up.
    """
    credentials = credentials or Credentials()
    directory.mkdir(parents=True)
    authority = trustme.CA()
    issued = authority.issue_cert(*DOMAINS.values(), ADMIN_DOMAIN)
    trust, chain, key_file = directory / "ca.pem", directory / "fullchain.pem", directory / "privkey.pem"
    authority.cert_pem.write_to_path(trust)
    chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key_file.write_bytes(issued.private_key_pem.bytes())
    ports = {name: free_port() for name in DOMAINS}
    edge_port, plain_port, backend_port = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        configs = {name: _config(directory, name, ports[name], provider_url) for name in DOMAINS}
        home = directory / "backend"
        environment = backend_environment(
            home, backend_port, configs, credentials.operator, credentials.proxy_tokens, home / "keys.json"
        )
        backend = stack.enter_context(_goproxy("backend", "backend", directory, environment))
        backend.await_true(lambda: is_ready(backend_port))
        key = new_key(backend_port, credentials.operator, "alice")
        processes = {"backend": backend}
        for name in DOMAINS:
            key_of, token = credentials.upstream_keys[name], credentials.proxy_tokens[name]
            environment = proxy_environment(directory / name, configs[name], key_of, token, backend_port)
            processes[name] = stack.enter_context(_goproxy(name, "serve", directory, environment))
        for name, port in ports.items():
            processes[name].await_true(lambda port=port: is_ready(port))  # type: ignore[misc]
        tree = edge_tree(
            directory / "edge",
            [upstream(name, domain, ports[name]) for name, domain in DOMAINS.items()],
            edge_port,
            chain,
            key_file,
            plain_port=plain_port,
            backend_port=backend_port,
            nginx_admin_domain=ADMIN_DOMAIN,
            **edge_variables,
        )
        processes["edge"] = stack.enter_context(_nginx(directory / "edge", tree))
        pid_file = directory / "edge" / "nginx.pid"
        processes["edge"].await_true(lambda: pid_file.exists() and bool(pid_file.read_text().strip()))
        yield Deployment(directory, credentials, trust, edge_port, plain_port, backend_port, ports, processes, key)


@contextmanager
def _nginx(directory: Path, tree: Mapping[str, str]) -> Iterator[Running]:
    for path, content in tree.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", "stderr"]
    with _running("edge", command, directory / "edge.log", {}) as running:
        yield running


def _goproxy(name: str, verb: str, directory: Path, environment: Mapping[str, str]) -> AbstractContextManager[Running]:
    command = [sys.executable, "-m", "goproxy.cli", verb]
    python = {"PYTHONPATH": f"{_PROXY_APP}:{sysconfig.get_path('purelib')}"}
    return _running(name, command, directory / f"{name}.log", python | dict(environment))


def _config(directory: Path, name: str, port: int, provider_url: str) -> Path:
    document = config_document(
        upstream=name, domain=DOMAINS[name], port=port, endpoints=endpoints_at(f"{provider_url}/{name}")
    )
    document["models"] = [model | {"upstream": name} for model in document["models"]]
    path = directory / f"config-{name}.json"
    path.write_text(json.dumps(document))
    return path
