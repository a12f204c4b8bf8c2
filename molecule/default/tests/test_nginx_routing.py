"""Requirement: Nginx routing for dual domains.

Routing and headers are seen where they arrive, inside the service's network namespace, and in what nginx runs with.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from testinfra.host import Host
from witness.nginx import Directive, server
from witness.provider import Provider
from witness.specification import EDGE, OHMYGPT, OPENHANDS, Upstream
from witness.user import ANTHROPIC_PATH, User, body
from witness.vps import Vps

Providers = Mapping[str, Provider]
ACME_WEBROOT = "/var/www/acme"
ACME_PATH = "/.well-known/acme-challenge/"


@pytest.fixture(scope="module")
def configuration(vps: Vps) -> Directive:
    """What the running nginx has."""
    return vps.edge()


def test_nginx_routes_chat_trollllm_xyz_to_goproxy_openhands(
    configuration: Directive, user: User, providers: Providers, vps: Vps
) -> None:
    """Given: a request to https://chat.trollllm.xyz/v1/messages. When: Nginx processes it.

    Then: it is proxied to http://goproxy-openhands:8004, all proxy headers are set correctly (Host, X-Real-IP,
    X-Forwarded-For, X-Forwarded-Proto), and streaming is enabled (proxy_buffering off, Connection "").
    """
    assert_configured(OPENHANDS, "http://goproxy-openhands:8004", configuration)
    assert_headers_arrive(OPENHANDS, user, providers, vps)


def test_nginx_routes_chat2_trollllm_xyz_to_goproxy_ohmygpt(
    configuration: Directive, user: User, providers: Providers, vps: Vps
) -> None:
    """Given: a request to https://chat2.trollllm.xyz/v1/messages. When: Nginx processes it.

    Then: it is proxied to http://goproxy-ohmygpt:8005, all proxy headers are set correctly, and streaming is enabled
    (proxy_buffering off, Connection "").
    """
    assert_configured(OHMYGPT, "http://goproxy-ohmygpt:8005", configuration)
    assert_headers_arrive(OHMYGPT, user, providers, vps)


@pytest.mark.parametrize("path", ["/", "/v1/messages", "/v1/messages?beta=true&b=%2F%20c", "/.well-known/other"])
def test_http_requests_redirect_to_https_for_both_domains(upstream: Upstream, path: str, user: User) -> None:
    """Given: an HTTP request to one of the domains. When: Nginx receives it on port 80.

    Then: it returns a 301 redirect to the HTTPS version, with the path and the query as they were.
    """
    answer = user.http.get(f"http://{upstream.domain}{path}")
    assert answer.status_code == 301
    assert answer.headers["location"] == f"https://{upstream.domain}{path}"


def test_http_requests_redirect_except_for_acme_challenge_paths(upstream: Upstream, user: User, host: Host) -> None:
    """Except for /.well-known/acme-challenge/ paths, used for certificate validation: what is there is served."""
    challenge = f"{ACME_WEBROOT}{ACME_PATH}witness"
    host.check_output(f"mkdir -p {ACME_WEBROOT}{ACME_PATH}")
    host.check_output(f"printf witness.thumbprint > {challenge} && chmod 0644 {challenge}")
    try:
        served = user.http.get(f"http://{upstream.domain}{ACME_PATH}witness")
        assert (served.status_code, served.text) == (200, "witness.thumbprint")
        assert user.http.get(f"http://{upstream.domain}{ACME_PATH}none").status_code == 404
    finally:
        host.check_output(f"rm {challenge}")


def assert_configured(upstream: Upstream, target: str, configuration: Directive) -> None:
    """The domain's server, and no other part of it, passes to the target without buffering."""
    of_the_domain = server(configuration, upstream.domain, "443")
    passes = [location for location in of_the_domain.all("location") if location.all("proxy_pass")]
    assert [location.arguments for location in passes] == [("/v1/",)]
    variables = {setting[0]: setting[1] for setting in passes[0].values("set")}
    (passed,) = (directive.arguments[0] for directive in passes[0].all("proxy_pass"))
    assert variables.get(passed, passed) == target
    assert passes[0].values("proxy_buffering") == {("off",)}
    assert passes[0].values("proxy_http_version") == {("1.1",)}
    assert ("Connection", "") in passes[0].values("proxy_set_header")


def assert_headers_arrive(upstream: Upstream, user: User, providers: Providers, vps: Vps) -> None:
    """What arrives at the service has nginx's four headers and no Connection header."""
    providers[upstream.name].behave(events=2, gap_ms=0)
    forged = {"x-real-ip": "203.0.113.1", "x-forwarded-for": "203.0.113.1", "x-forwarded-proto": "ftp"}
    line, headers = vps.arriving(
        upstream.service,
        upstream.port,
        lambda: user.post(upstream.domain, ANTHROPIC_PATH, body("Hello"), {**forged, "connection": "keep-alive"}),
    )
    assert line == f"POST {ANTHROPIC_PATH} HTTP/1.1"
    assert headers["host"] == [upstream.domain]
    assert headers["x-forwarded-proto"] == ["https"]
    assert headers["x-real-ip"] == headers["x-forwarded-for"] != ["203.0.113.1"]
    assert len(headers["x-forwarded-for"]) == 1
    assert "connection" not in headers
    assert vps.address(EDGE) != headers["x-real-ip"][0], "the client's address, not the edge's own"
