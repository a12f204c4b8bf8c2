"""What happens to one upstream is not felt on the other: its container is killed, its provider refuses connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest
from testinfra.host import Host
from witness.edge import Edge
from witness.provider import Provider
from witness.specification import EDGE, Upstream
from witness.stream import OpenStream
from witness.user import ANTHROPIC_PATH, User
from witness.vps import Vps
from witness.waiting import wait_until

Providers = Mapping[str, Provider]
Opener = Callable[[str], OpenStream]
ROUNDS = 20
OF_ONE_ADDRESS = 256
"""Requests that the edge lets one client address have open."""


@pytest.fixture
def killed(upstream: Upstream, host: Host, vps: Vps) -> Iterator[Callable[[], None]]:
    """Kill the upstream's container when called; afterwards it runs again and is healthy."""
    yield lambda: host.check_output("docker kill %s", upstream.service) and None
    host.check_output("docker start %s", upstream.service)
    wait_until(lambda: vps.inspect(upstream.service)["State"]["Health"]["Status"] == "healthy", 60)


@pytest.fixture
def engine_stopped(host: Host) -> Iterator[Callable[[], None]]:
    """Stop the Docker engine where it stands when called; afterwards it goes on."""
    yield lambda: host.check_output("kill -STOP $(systemctl show --property MainPID --value docker)") and None
    host.check_output("kill -CONT $(systemctl show --property MainPID --value docker)")


def test_docker_kill_of_one_goproxy_leaves_every_request_on_the_other_untouched(
    upstream: Upstream, killed: Callable[[], None], user: User, vps: Vps, open_stream: Opener
) -> None:
    """A stream that was open goes on, new requests are answered, no container is replaced; the dead domain says 5xx."""
    other = upstream.other
    before = vps.inspect(other.service)["Id"], vps.inspect(other.service)["State"]["StartedAt"]
    stream = open_stream(other.domain)
    killed()
    answer = user.ask(upstream.domain)
    assert answer.status_code in (502, 503, 504)
    assert answer.json()["type"] == "error", "the edge answers in the shape that the client understands"
    assert [user.ask(other.domain).status_code for _ in range(ROUNDS)] == [200] * ROUNDS
    assert (vps.inspect(other.service)["Id"], vps.inspect(other.service)["State"]["StartedAt"]) == before
    stream.assert_complete()


def test_the_name_of_a_container_that_is_away_is_asked_of_nobody_outside(
    upstream: Upstream, killed: Callable[[], None], user: User, vps: Vps
) -> None:
    """The engine, which would ask the host's name servers if it were not told otherwise, says that there is none."""
    assert "ndots:1" in vps.run("docker exec %s cat /etc/resolv.conf", EDGE)
    killed()
    time.sleep(2)  # nginx believes an address for a second
    begun = time.monotonic()
    assert user.ask(upstream.domain).status_code == 502
    assert time.monotonic() - begun < 3


def test_after_docker_kill_a_goproxy_that_is_back_serves_at_once(
    upstream: Upstream, killed: Callable[[], None], host: Host, user: User
) -> None:
    """The edge finds it without a reload, at whatever address it has now."""
    killed()
    host.check_output("docker start %s", upstream.service)
    wait_until(lambda: user.ask(upstream.domain).status_code == 200, 20)


def test_provider_refusing_connections_leaves_every_request_on_the_other_untouched(
    upstream: Upstream, user: User, providers: Providers, open_stream: Opener
) -> None:
    """A stream that was open goes on, new requests are answered; the domain of the dead provider says 5xx quickly."""
    stream = open_stream(upstream.other.domain)
    providers[upstream.name].behave(fault="refuse")
    begun = time.monotonic()
    assert user.ask(upstream.domain).status_code in (502, 503, 504)
    assert time.monotonic() - begun < 15
    assert [user.ask(upstream.other.domain).status_code for _ in range(ROUNDS)] == [200] * ROUNDS
    stream.assert_complete()
    providers[upstream.name].reset()
    assert user.ask(upstream.domain).status_code == 200


def test_requests_that_hang_at_one_provider_leave_the_other_untouched(
    upstream: Upstream, user: User, open_stream: Opener
) -> None:
    """Many answers that never come take nothing away from the other domain."""
    hanging = [open_stream(upstream.domain) for _ in range(10)]
    assert [user.ask(upstream.other.domain).status_code for _ in range(ROUNDS)] == [200] * ROUNDS
    for stream in hanging:
        stream.assert_complete()


def test_the_limit_of_an_address_at_one_upstream_leaves_the_other_untouched(
    upstream: Upstream, edge: Edge, user: User, open_stream: Opener
) -> None:
    """All users here have one address, as those behind a company's.

    As many requests as it may have open are at one domain. Their bodies do not come, so that none of them is paid for.
    """
    stream = open_stream(upstream.other.domain)
    head = f"POST {ANTHROPIC_PATH} HTTP/1.1\r\nHost: {upstream.domain}\r\nContent-Length: 2\r\n\r\n"
    with ExitStack() as opened:
        for _ in range(OF_ONE_ADDRESS):
            opened.enter_context(edge.begin(upstream.domain, head.encode()))
            time.sleep(0.01)  # fewer in a second than it may send
        assert user.ask(upstream.domain).status_code == 429
        assert [user.ask(upstream.other.domain).status_code for _ in range(ROUNDS)] == [200] * ROUNDS
        stream.assert_complete()
    wait_until(lambda: user.ask(upstream.domain).status_code == 200, 20)


def test_an_engine_that_does_not_answer_leaves_every_stream_untouched(
    upstream: Upstream, user: User, open_stream: Opener, engine_stopped: Callable[[], None]
) -> None:
    """Nobody reads the edge's log meanwhile, and its pipe has room for some 170 lines.

    New requests to an upstream have to wait: the engine answers for the containers' names.
    """
    streams = [open_stream(upstream.domain), open_stream(upstream.other.domain)]
    engine_stopped()
    assert [user.http.get(f"https://{upstream.domain}/").status_code for _ in range(400)] == [404] * 400
    for stream in streams:
        stream.wait_for_more()
        stream.assert_complete()
