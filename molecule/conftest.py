"""Fixtures of all scenarios. What they are made of is in witness/; where things are, the testkit wrote down."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import testinfra
from testinfra.host import Host
from witness.connection import Connection
from witness.edge import Edge
from witness.ledger import Ledger
from witness.playbook import Operator
from witness.provider import Provider
from witness.specification import BOTH, Upstream
from witness.stream import OpenStream
from witness.user import User
from witness.vps import Vps


@pytest.fixture(scope="session")
def connection() -> Connection:
    """Where things are."""
    return Connection.read()


@pytest.fixture(scope="session")
def host(connection: Connection) -> Host:
    """The VPS, by its name: in a scenario and after `make demo` it is a container."""
    return testinfra.get_host(f"docker://{connection.vps}")


@pytest.fixture(scope="session")
def deployed(host: Host, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The gateway stands: the scenario before has left it (its converge and idempotence), or it is deployed now."""
    look = host.run("docker inspect --format '{{.State.Health.Status}}' trollllm-edge backend")
    if look.rc != 0 or look.stdout.split() != ["healthy", "healthy"]:
        Operator(tmp_path_factory.mktemp("deployed")).succeed("site.yml")


@pytest.fixture(scope="session")
def vps(host: Host) -> Vps:
    """A look into the VPS."""
    return Vps(host)


@pytest.fixture(scope="session")
def edge(connection: Connection) -> Edge:
    """The edge, from outside."""
    return Edge(connection)


@pytest.fixture(scope="session")
def ledger(host: Host, connection: Connection) -> Ledger:
    """The backend, as its operator asks it."""
    return Ledger(host, connection)


@pytest.fixture(scope="session")
def user(connection: Connection, edge: Edge) -> User:
    """A user with a valid API key."""
    return User(edge, connection.api_key)


@pytest.fixture(params=BOTH, ids=str)
def upstream(request: pytest.FixtureRequest) -> Upstream:
    """Each of the specification's two upstreams in turn."""
    chosen: Upstream = request.param
    return chosen


@pytest.fixture
def providers(connection: Connection) -> Iterator[dict[str, Provider]]:
    """The simulated providers by the name of their upstream: quick and well-behaved, with nothing received."""
    providers = {name: Provider(control) for name, control in connection.providers.items()}
    for provider in providers.values():
        provider.reset()
        provider.behave(gap_ms=2)
    yield providers
    for provider in providers.values():
        provider.reset()


@pytest.fixture
def open_stream(
    connection: Connection, user: User, providers: dict[str, Provider]
) -> Iterator[Callable[[str], OpenStream]]:
    """Open a stream through a domain, say `open_stream("chat.trollllm.xyz")`; see witness/stream.py."""
    upstream_of = {domain: name for name, domain in connection.domains.items()}
    opened: list[OpenStream] = []

    def opener(domain: str) -> OpenStream:
        stream = OpenStream(user, providers[upstream_of[domain]], domain)
        opened.append(stream)
        stream.wait_for_events(3)
        return stream

    yield opener
    for stream in opened:
        stream.finish(timeout=5)
