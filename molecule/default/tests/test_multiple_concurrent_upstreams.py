"""Requirement: Support multiple concurrent upstream providers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal

from witness.provider import Provider, sent_by
from witness.specification import EDGE, OHMYGPT, OPENHANDS, Upstream
from witness.stream import OpenStream
from witness.user import User, marker
from witness.vps import Vps

Providers = Mapping[str, Provider]
Opener = Callable[[str], OpenStream]


def test_user_sends_request_to_openhands_upstream_via_chat_trollllm_xyz(
    user: User, providers: Providers, vps: Vps, open_stream: Opener
) -> None:
    """Given: the user has a valid API key. When: a POST request to https://chat.trollllm.xyz/v1/messages.

    Then: it is routed to goproxy-openhands on port 8004, forwarded to llm-proxy.app.all-hands.dev, its response
    returned to the user, and billing applies OpenHands pricing multipliers (1.06-1.08).
    """
    assert_forwarded_and_returned(OPENHANDS, user, providers)
    assert_routed_to_the_service(OPENHANDS, vps, open_stream)
    assert_multipliers_apply(OPENHANDS, vps)


def test_user_sends_request_to_ohmygpt_upstream_via_chat2_trollllm_xyz(
    user: User, providers: Providers, vps: Vps, open_stream: Opener
) -> None:
    """Given: the user has a valid API key. When: a POST request to https://chat2.trollllm.xyz/v1/messages.

    Then: it is routed to goproxy-ohmygpt on port 8005, forwarded to apic1.ohmycdn.com, its response returned to the
    user, and billing applies OhMyGPT pricing multipliers (1.04-1.1).
    """
    assert_forwarded_and_returned(OHMYGPT, user, providers)
    assert_routed_to_the_service(OHMYGPT, vps, open_stream)
    assert_multipliers_apply(OHMYGPT, vps)


def test_both_upstream_services_run_independently(upstream: Upstream, user: User, providers: Providers) -> None:
    """Given: both services are running. When: one experiences an error or upstream failure.

    Then: the other service continues operating normally, and its users are not affected.
    """
    for failure in ({"fault": "status", "status": 500}, {"fault": "reset", "after": 0}, {"fault": "refuse"}):
        providers[upstream.name].behave(**failure)
        assert user.ask(upstream.domain).status_code >= 500, f"{failure} was to fail"
        assert user.ask(upstream.other.domain).status_code == 200, f"{failure} was felt on {upstream.other}"
    providers[upstream.name].reset()
    assert user.ask(upstream.domain).status_code == 200


def assert_forwarded_and_returned(upstream: Upstream, user: User, providers: Providers) -> None:
    """The provider of this upstream got the request under its own host name and path, and nobody else did."""
    content = marker()
    answer = user.ask(upstream.domain, content)
    assert answer.status_code == 200, answer.text
    received = providers[upstream.name].received(content)
    assert (received["method"], received["host"]) == ("POST", upstream.provider_host)
    assert received["path"] == upstream.provider_path
    assert answer.content == sent_by(received)
    assert providers[upstream.other.name].requests() == []


def assert_routed_to_the_service(upstream: Upstream, vps: Vps, open_stream: Opener) -> None:
    """While a stream is open, the edge is connected to this service's port, and the service to its provider."""
    stream = open_stream(upstream.domain)
    peers = vps.peers(upstream.service)
    assert vps.address(EDGE) in {peer.address for peer in peers if peer.local_port == upstream.port}
    assert 443 in {peer.port for peer in peers}, f"{upstream.service} is not connected to a provider"
    assert upstream.other.port not in {peer.local_port for peer in vps.peers(upstream.other.service)}
    stream.assert_complete()


def assert_multipliers_apply(upstream: Upstream, vps: Vps) -> None:
    """The running service has, for each model, a multiplier of the upstream's band."""
    config = json.loads(vps.run("docker exec %s cat /app/config.json", upstream.service), parse_float=Decimal)
    lowest, highest = upstream.multipliers
    multipliers = {model["id"]: model["billing_multiplier"] for model in config["models"]}
    assert multipliers
    assert all(lowest <= multiplier <= highest for multiplier in multipliers.values()), multipliers
