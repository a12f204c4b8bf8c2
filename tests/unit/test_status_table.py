"""The table of status.yml: a row per upstream, and a sentence per thing that is not well."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trollllm.gateway.plugins.filter.dns_records import dns_records
from ansible_collections.trollllm.gateway.plugins.filter.status_table import status_problems, status_table

UPSTREAMS = [{"name": "alpha", "domain": "a.example.net", "service": "goproxy-alpha", "ttl": 300}]
ENDPOINT = {"endpoint": "alpha-anthropic", "host": "api.example.net", "port": 443, "reachable": True, "detail": ""}


@pytest.fixture
def found() -> dict[str, Any]:
    return {
        "alpha": {
            "container": {"state": "running", "health": "healthy", "image": "trollllm/goproxy:1"},
            "certificate": {"not_after": "2027-01-31T00:00:00+00:00", "days_left": 40, "issuer": "CN=x", "names": []},
            "provider": {"endpoints": [ENDPOINT]},
            "journal": {"ready": True, "detail": "", "unposted_rows": 2, "unsettled_rows": 1, "damaged": 0},
        },
        "backend": {
            "container": {"state": "running", "health": "healthy", "image": "trollllm/goproxy:1"},
            "store": {"kind": "SQLite", "available": True, "ready": True, "detail": ""},
        },
    }


def records(status: str = "right", values: tuple[str, ...] = ("198.51.100.7",)) -> list[dict[str, Any]]:
    return [record | {"status": status, "found": list(values)} for record in dns_records(UPSTREAMS, "198.51.100.7")[:1]]


def test_a_row_tells_all_of_an_upstream(found: dict[str, Any]) -> None:
    _blank, _head, row, store = status_table(UPSTREAMS, records(), found)
    assert store == "backend: SQLite, reachable"
    assert "  2 unposted, 1 not on disk  " in row
    for cell in ("https://a.example.net", "A 198.51.100.7 TTL 300", "until 2027-01-31 (40 d)", "running, healthy"):
        assert cell in row
    assert "trollllm/goproxy:1" in row
    assert row.endswith("  reachable")
    assert status_problems(found) == []


def test_what_is_not_there_is_said() -> None:
    gone = {
        "alpha": {
            "container": {"problem": "there is no container goproxy-alpha"},
            "certificate": {"problem": "no TLS for a.example.net"},
            "provider": {"problem": "goproxy-alpha could not be asked"},
            "journal": {"problem": "goproxy-alpha has no address, as it does not run"},
        },
        "backend": {"store": {"kind": "PostgreSQL", "problem": "backend has no address, as it does not run"}},
    }
    _blank, _head, row, store = status_table(UPSTREAMS, records("different", ()), gone)
    assert store == "backend: PostgreSQL, NOT reachable"
    for cell in ("  unknown  ", "A missing TTL 300 (different)", "none", "missing", "NOT reachable"):
        assert cell in row
    problems = status_problems(gone, ["a.example.net A: ns1 says no such record"])
    assert problems[0] == "alpha: there is no container goproxy-alpha"
    assert problems[-1] == "a.example.net A: ns1 says no such record"
    assert len(problems) == 6


def test_what_could_not_be_looked_at_is_not_called_missing() -> None:
    """The engine does not answer: containers may run, and say so to nobody."""
    found = {
        "alpha": {"certificate": {"problem": "no TLS for a.example.net"}},
        "docker.service": {"engine": {"problem": "the Docker engine does not answer: no"}},
    }
    _blank, _head, row = status_table(UPSTREAMS, records(), found)
    assert row.split("  ")[-1] == "unknown"
    assert row.count("unknown") == 3
    assert "missing" not in row
    assert status_problems(found) == [
        "alpha: no TLS for a.example.net",
        "docker.service: the Docker engine does not answer: no",
    ]


def test_records_are_wanted_for_each_address_of_the_host() -> None:
    both = dns_records(UPSTREAMS, "198.51.100.7", "2001:db8::7")
    assert [(record["type"], record["values"]) for record in both] == [
        ("A", ["198.51.100.7"]),
        ("AAAA", ["2001:db8::7"]),
    ]
    assert "ttl" not in dns_records(UPSTREAMS, "198.51.100.7", ttl=False)[0]


def test_a_host_without_an_ipv6_address_wants_that_there_is_no_aaaa_record(found: dict[str, Any]) -> None:
    a, aaaa = dns_records(UPSTREAMS, "198.51.100.7")
    assert (a["type"], aaaa) == ("A", {"name": "a.example.net", "type": "AAAA", "values": []})
    right = a | {"status": "right", "found": ["198.51.100.7"]}
    row = status_table(UPSTREAMS, [right, aaaa | {"status": "right", "found": []}], found)[2]
    assert "AAAA" not in row
    row = status_table(UPSTREAMS, [right, aaaa | {"status": "different", "found": ["2001:db8::9"]}], found)[2]
    assert "A 198.51.100.7 TTL 300, AAAA 2001:db8::9 (different)" in row
