"""The edge towards strangers: unknown names, forged headers, old protocols, and paths that are not for outside."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import httpx2
import pytest
from witness.edge import Edge
from witness.provider import Provider
from witness.specification import Upstream
from witness.user import ANTHROPIC_PATH, User, body, marker

Providers = Mapping[str, Provider]
INSIDE = ["/metrics", "/healthz", "/readyz", "/admin", "/admin/accounts", "/docs", "/.git/config", "/"]


@pytest.mark.parametrize("name", ["unknown.test", "trollllm.xyz", "chat3.trollllm.xyz", None])
def test_unknown_name_is_refused_in_the_handshake(name: str | None, edge: Edge) -> None:
    """Also a handshake without a name: no certificate tells who is served here."""
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        edge.handshake(name)


@pytest.mark.parametrize("name", ["unknown.test", "trollllm.xyz"])
def test_unknown_name_gets_no_answer_on_port_80(name: str, user: User) -> None:
    """The connection is taken, and closed without a word."""
    with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
        user.http.get(f"http://{name}/")


def test_host_that_is_not_the_sni_is_misdirected(upstream: Upstream, edge: Edge, providers: Providers) -> None:
    """421, whether the other name is served here or not, and no provider hears of it."""
    for host in (upstream.other.domain, "unknown.test"):
        request = (
            f"POST {ANTHROPIC_PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        )
        answer = edge.exchange(upstream.domain, request.encode())
        assert answer.startswith(b"HTTP/1.1 421 "), answer[:200]
    assert providers[upstream.name].requests() == providers[upstream.other.name].requests() == []


@pytest.mark.parametrize("path", INSIDE)
def test_path_that_is_not_for_outside_is_not_found(upstream: Upstream, path: str, user: User) -> None:
    """404 in an error shape that clients understand, with a valid key or not."""
    for headers in ({}, user.headers):
        answer = user.http.get(f"https://{upstream.domain}{path}", headers=headers)
        assert answer.status_code == 404
        assert "error" in answer.json()


@pytest.mark.parametrize(
    "path", ["/v1/../metrics", "/v1/%2e%2e/metrics", "//metrics", "/v1/..%2fmetrics", "/v1//../healthz"]
)
def test_path_that_is_not_for_outside_is_not_found_by_a_detour(upstream: Upstream, path: str, edge: Edge) -> None:
    """Nor does a detour through /v1/ lead there."""
    request = f"GET {path} HTTP/1.1\r\nHost: {upstream.domain}\r\nConnection: close\r\n\r\n"
    answer = edge.exchange(upstream.domain, request.encode())
    assert answer.split()[1] in (b"400", b"404"), answer[:200]


def test_spoofed_x_forwarded_for_does_not_reach_the_provider(
    upstream: Upstream, user: User, providers: Providers
) -> None:
    """Nor any other header about who asks: the provider hears of the proxy alone."""
    content = marker()
    spoofed = {
        "x-forwarded-for": "203.0.113.7",
        "x-real-ip": "203.0.113.7",
        "forwarded": "for=203.0.113.7",
        "x-forwarded-host": "203.0.113.7",
    }
    assert user.post(upstream.domain, ANTHROPIC_PATH, body(content), spoofed).status_code == 200
    headers = providers[upstream.name].received(content)["headers"]
    assert "203.0.113.7" not in str(headers)
    assert not [name for name in headers if name.startswith("x-forwarded-") or name in ("x-real-ip", "forwarded")]


def test_tls_1_1_is_refused(upstream: Upstream, edge: Edge) -> None:
    """By the edge: this side is willing."""
    context = edge.trust()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        edge.handshake(upstream.domain, context)


def test_http_2_is_offered(upstream: Upstream, edge: Edge) -> None:
    """And HTTP/1.1 to those who have no other."""
    for offered, chosen in ((["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")):
        context = edge.trust()
        context.set_alpn_protocols(offered)
        assert edge.handshake(upstream.domain, context).protocol == chosen


@pytest.mark.parametrize("path", [ANTHROPIC_PATH, "/metrics", "/v1/models"])
def test_every_answer_has_hsts_and_does_not_name_the_software(upstream: Upstream, path: str, user: User) -> None:
    """Two years, and for this name only: the zone may have other hosts."""
    answer = user.http.get(f"https://{upstream.domain}{path}", headers=user.headers)
    assert answer.headers.get_list("strict-transport-security") == ["max-age=63072000"]
    assert answer.headers.get("server", "nginx") == "nginx"
