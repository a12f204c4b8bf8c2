"""docs/metrics.md names every metric of a proxy and of the backend, with its type, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp

from tests.gateway import Running

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()


def named(heading: str) -> dict[str, str]:
    """Of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))


async def told(url: str) -> dict[str, str]:
    """What `GET /metrics` has."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        return dict(re.findall(r"^# TYPE (\w+) (\w+)$", await answer.text(), re.MULTILINE))


async def test_the_page_has_all_metrics(gateway: Running) -> None:
    assert named("Of each proxy") == await told(gateway.url)
    assert named("Of the backend") == await told(gateway.backend.url)


async def test_what_alarms_are_on_is_counted_from_0(gateway: Running) -> None:
    """Prometheus sees no increase where a series begins with 1."""
    shown = ""
    for url in (gateway.url, gateway.backend.url):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
            shown += await answer.text()
    for protocol in ("anthropic", "openai"):
        for labels in ('outcome="internal_error"', 'outcome="refused",protocol="PROTOCOL",status="503"'):
            assert f"goproxy_requests_total{{{labels}".replace("PROTOCOL", protocol) in shown
    assert 'goproxy_ledger_rows_rejected_total{upstream="openhands"} 0.0' in shown
    assert 'goproxy_leases_refused_total{upstream="openhands"} 0.0' in shown
