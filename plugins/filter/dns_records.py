"""The records that upstreams want: what the role dns makes, and what playbooks/status.yml looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def dns_records(
    upstreams: Sequence[Mapping[str, Any]], ipv4: str, ipv6: str = "", ttl: bool = True
) -> list[dict[str, Any]]:
    """An A record per domain, and an AAAA record, which shall have no values where the host has no IPv6 address.

    Without ``ttl`` any TTL is right.
    """
    return [
        {"name": upstream["domain"], "type": kind, "values": [address] if address else []}
        | ({"ttl": upstream["ttl"]} if ttl and address else {})
        for kind, address in (("A", ipv4), ("AAAA", ipv6))
        for upstream in upstreams
    ]


class FilterModule:
    """``goproxy_upstreams | trollllm.gateway.dns_records(ipv4, ipv6)``."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"dns_records": dns_records}
