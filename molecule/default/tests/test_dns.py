"""Requirement: DNS configuration for chat2 subdomain. The authoritative name server itself is asked."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import pytest
from witness.connection import Connection
from witness.specification import OHMYGPT, OPENHANDS


@pytest.mark.parametrize("domain", [OHMYGPT.domain, OPENHANDS.domain])
def test_dns_resolves_chat2_trollllm_xyz_to_vps_ip(domain: str, connection: Connection) -> None:
    """Given: a DNS query for chat2.trollllm.xyz (and likewise chat). When: the query is resolved.

    Then: it returns an A record with the VPS IP address, and its TTL is reasonably short (300-3600 seconds).
    """
    answer = ask(domain, dns.rdatatype.A, connection)
    assert answer.flags & dns.flags.AA, "the answer must come from an authoritative server"
    assert [record.to_text() for rrset in answer.answer for record in rrset] == [connection.vps_ipv4]
    assert 300 <= answer.answer[0].ttl <= 3600


@pytest.mark.parametrize("domain", [OHMYGPT.domain, OPENHANDS.domain])
def test_dns_has_no_aaaa_record_where_the_vps_has_no_ipv6_address(domain: str, connection: Connection) -> None:
    """An AAAA record that nobody answers on would cost every client its first try."""
    assert ask(domain, dns.rdatatype.AAAA, connection).answer == []


def ask(domain: str, kind: dns.rdatatype.RdataType, connection: Connection) -> dns.message.Message:
    """Ask the name server, without a cache or a resolver between."""
    query = dns.message.make_query(domain, kind)
    answer, _ = dns.query.udp_with_fallback(query, connection.dns.host, port=connection.dns.port, timeout=5)
    return answer
