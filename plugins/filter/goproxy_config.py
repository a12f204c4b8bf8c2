"""Filters that turn validated inventory data into the files that the proxies read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

MIB = 1024 * 1024


def goproxy_config(upstream: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of goproxy_upstreams -> the content of its config.json. Numbers stay as the operator wrote them."""
    return {
        "upstream": upstream["name"],
        "domain": upstream["domain"],
        "port": upstream["port"],
        "endpoints": [dict(endpoint) for endpoint in upstream["endpoints"]],
        "multiplier_band": list(upstream["multiplier_band"]),
        "models": [
            {
                "name": model["name"],
                "id": model["id"],
                "id_aliases": list(model["aliases"]),
                "upstream": upstream["name"],
                "upstream_model_id": model["upstream_model_id"],
                "billing_multiplier": model["multiplier"],
                "prices": [
                    {"effective_from": price["effective_from"], "tiers": [dict(tier) for tier in price["tiers"]]}
                    for price in model["prices"]
                ],
            }
            for model in upstream["models"]
        ],
        "timeouts": dict(upstream["timeouts"]),
        "max_body_bytes": upstream["max_body_mib"] * MIB,
    }


def api_keyring(keys: Mapping[str, str]) -> dict[str, Any]:
    """Account -> API key, turned into the content of keys.json: digests only, so that the file opens nothing."""
    return {
        "keys": [
            {"account": account, "prefix": key[:11], "sha256": hashlib.sha256(key.encode()).hexdigest()}
            for account, key in sorted(keys.items())
        ]
    }


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        return {"goproxy_config": goproxy_config, "api_keyring": api_keyring}
