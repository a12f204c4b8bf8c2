"""Requirement: SSL/TLS certificate coverage for both domains."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from testinfra.host import Host
from witness.edge import Edge
from witness.specification import BOTH, LINEAGE, NAMED_SUITE, Upstream

SECURE_SUITES = [NAMED_SUITE, "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]


@pytest.fixture
def issued(host: Host) -> list[x509.Certificate]:
    """Given the SSL certificate at /etc/letsencrypt/live/trollllm.xyz/, with its chain."""
    return x509.load_pem_x509_certificates(host.file(f"{LINEAGE}/fullchain.pem").content)


def names(certificate: x509.Certificate) -> set[str]:
    """Give the DNS names that a certificate is for."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value.get_values_for_type(x509.DNSName))


def test_ssl_certificate_includes_both_chat_domains(issued: list[x509.Certificate]) -> None:
    """Both chat.trollllm.xyz and chat2.trollllm.xyz have a valid certificate, issued by the ACME authority."""
    certificate, *chain = issued
    assert names(certificate) == {upstream.domain for upstream in BOTH}
    assert chain, "a certificate that an authority issued comes with its chain; a placeholder does not"
    certificate.verify_directly_issued_by(chain[0])
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc - timedelta(days=1)
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert public_key.curve.name == "secp256r1"


def test_ssl_certificate_is_valid_for_the_domain_of_a_tls_handshake(
    upstream: Upstream, edge: Edge, issued: list[x509.Certificate]
) -> None:
    """When: a TLS handshake occurs for a domain. Then: the certificate is valid for it.

    The handshake verifies chain and name; what is served is what was issued.
    """
    assert edge.handshake(upstream.domain).certificate == issued[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls_1_2", "tls_1_3"])
def test_ssl_handshake_uses_tls_1_2_or_tls_1_3(upstream: Upstream, version: ssl.TLSVersion, edge: Edge) -> None:
    """And: it uses TLS 1.2 or TLS 1.3, whichever the client has."""
    context = edge.trust()
    context.minimum_version = context.maximum_version = version
    assert edge.handshake(upstream.domain, context).version == version.name.replace("_", ".")


@pytest.mark.parametrize("suite", SECURE_SUITES)
def test_ssl_handshake_uses_secure_cipher_suites(upstream: Upstream, suite: str, edge: Edge) -> None:
    """And: it uses secure cipher suites (ECDHE-ECDSA-AES128-GCM-SHA256, etc.)."""
    context = edge.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    assert edge.handshake(upstream.domain, context).suite == suite


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"])
def test_ssl_handshake_refuses_cipher_suites_that_are_not_secure(upstream: Upstream, suite: str, edge: Edge) -> None:
    """A client that has nothing but CBC, or nothing with forward secrecy, is refused by the edge."""
    context = edge.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{suite}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        edge.handshake(upstream.domain, context)
