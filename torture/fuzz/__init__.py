"""Generated input: answers of providers for the meters, requests for the servers. By seed: each can be repeated."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torture.fuzz.asking import asked
from torture.fuzz.meters import fed

_log = logging.getLogger("torture")
_METER_INPUTS = 1_000_000
_HTTP_REQUESTS = 10_000


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Feed the meters, then ask the servers."""
    meters = fed(max(100, round(_METER_INPUTS * size)))
    for failure in meters.failures:
        _log.warning("fuzz: %s", failure)
    servers = asked(max(50, round(_HTTP_REQUESTS * size)), scratch)
    return {
        "fuzz.meter_inputs": meters.inputs,
        "fuzz.http_requests": servers.requests,
        "fuzz.failures": len(meters.failures) + len(servers.failures),
    }
