"""Filters that turn validated inventory data into the files that the proxies read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ansible_collections.trollllm.gateway.plugins.module_utils import inventory, price_book

MIB = 1024 * 1024

_SHOWN = 11
"""Characters of a key by which people tell keys apart: as the backend shows those that it makes (store/keys.py)."""


def goproxy_config(upstream: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of goproxy_upstreams -> the content of its config.json. Numbers stay as the operator wrote them.

    What the proxy takes by itself is not said: an image that does not know a key yet refuses the file that has it, and
    the image of before must be able to start again.
    """
    config = {
        "upstream": upstream["name"],
        "domain": upstream["domain"],
        "port": upstream["port"],
        "endpoints": [dict(endpoint) for endpoint in upstream["endpoints"]],
        "multiplier_band": list(upstream["multiplier_band"]),
        "models": [
            _said(
                _MODEL,
                {
                    "name": model["name"],
                    "id": model["id"],
                    "id_aliases": list(model["aliases"]),
                    "upstream": upstream["name"],
                    "upstream_model_id": model["upstream_model_id"],
                    "billing_multiplier": model["multiplier"],
                    "context_tokens": model["context_tokens"],
                    "max_output_tokens": model["max_output_tokens"],
                    "prices": [dict(price) for price in model["prices"]],
                },
            )
            for model in upstream["models"]
        ],
        "timeouts": dict(upstream["timeouts"]),
        "max_body_bytes": upstream["max_body_mib"] * MIB,
        "include_usage": upstream["include_usage"],
        "chat_limit": upstream["chat_limit"],
        "staleness_seconds": upstream["staleness_seconds"],
        "processes": upstream["processes"],
        "disconnect": _said(_disconnect(inventory.DEFAULT_DISCONNECT), _disconnect(upstream["disconnect"])),
        "wallet": upstream["wallet"],
    }
    return _said(_UPSTREAM, config)


_UPSTREAM = {
    "include_usage": True,
    "chat_limit": inventory.CHAT_LIMITS[0],
    "staleness_seconds": inventory.DEFAULT_STALENESS_SECONDS,
    "processes": inventory.DEFAULT_PROCESSES,
    "disconnect": {},
    "wallet": None,
}
_MODEL = {
    "context_tokens": price_book.DEFAULT_CONTEXT_TOKENS,
    "max_output_tokens": price_book.DEFAULT_MAX_OUTPUT_TOKENS,
}
"""What the proxy takes where the file says nothing."""


def _said(taken: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be said, for it is another value than what is taken."""
    return {name: value for name, value in document.items() if name not in taken or value != taken[name]}


def _disconnect(disconnect: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "policy": disconnect["policy"],
        "seconds": disconnect["seconds"],
        "bytes": disconnect["max_mib"] * MIB,
        "concurrent": disconnect["concurrent"],
    }


def api_keyring(keys: Mapping[str, str], opening_credits: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Account -> API key, turned into the content of keys.json: digests only, so that the file opens nothing.

    Credits are US dollars, and nano-dollars in the file: exactly what the operator wrote, by its decimal digits.
    """
    return {
        "keys": [
            {"account": account, "prefix": key[:_SHOWN], "sha256": hashlib.sha256(key.encode()).hexdigest()}
            for account, key in sorted(keys.items())
        ],
        "opening_credits": {
            account: int(Decimal(str(dollars)).scaleb(9).to_integral_value())
            for account, dollars in sorted((opening_credits or {}).items())
            if Decimal(str(dollars)).scaleb(9) >= 1
        },
    }


def proxy_token(operator_token: str, upstream: str) -> str:
    """What a proxy shows to the backend: made from the operator's token, so that the vault holds one secret."""
    return hmac.digest(operator_token.encode(), f"proxy of {upstream}".encode(), "sha256").hex()


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        return {"goproxy_config": goproxy_config, "api_keyring": api_keyring, "proxy_token": proxy_token}
