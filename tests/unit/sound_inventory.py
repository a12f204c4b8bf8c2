"""An inventory in which nothing is wrong, for the tests to spoil."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ALICE = "tg-AbCd1234AbCd1234AbCd1234AbCd1234AbCd1234AbC3OkOW0"  # its checksum is right
BOB = "a-key-of-bobs-own-making-0123456789abcdef"
OPERATOR = "operator-token-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
PROVIDER_KEY = "sk-provider-0f9e8d7c6b5a"


@dataclass
class Inventory:
    """The three things that are checked. `spoil` changes one value in them."""

    upstreams: dict[str, Any]
    price_book: Any
    settings: dict[str, Any]

    def spoil(self, path: tuple[str | int, ...], value: Any) -> Inventory:
        """Set what is at the path; `...` takes it away."""
        place: Any = {"upstreams": self.upstreams, "price_book": self.price_book, "settings": self.settings}
        *way, last = path
        for step in way:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value
        return self


SOUND = Inventory(
    upstreams={
        "openhands": {
            "domain": "chat.trollllm.xyz",
            "port": 8004,
            "api_key": PROVIDER_KEY,
            "endpoints": {
                "anthropic": "https://llm-proxy.app.all-hands.dev/v1/messages",
                "openai": "https://llm-proxy.app.all-hands.dev/v1/chat/completions",
            },
            "multiplier_band": [1.06, 1.08],
            "models": {"opus": {"multiplier": 1.08}, "gemini": {"multiplier": 1.06}},
        },
        "ohmygpt": {
            "domain": "chat2.trollllm.xyz",
            "port": 8005,
            "api_key": PROVIDER_KEY,
            "endpoints": {"anthropic": "https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg/v1/messages"},
            "multiplier_band": [1.04, 1.1],
            "models": {"opus": {"multiplier": 1.1, "upstream_model_id": "omg/opus"}},
            "ttl": 600,
            "timeouts": {"total": 1800},
            "max_body_mib": 8,
            "wallet": "omg",
            "disconnect": {"policy": "abort"},
        },
    },
    price_book={
        "opus": {
            "name": "Claude Opus 4.5",
            "id": "claude-opus-4-5-20251101",
            "aliases": ["claude-opus-4-5"],
            "prices": [
                {"effective_from": "2026-01-01", "input": 4, "output": 20},
                {
                    "effective_from": "2025-11-24",
                    "input": 5,
                    "output": 25,
                    "cache_write_5m": 6.25,
                    "cache_write_1h": 10,
                    "cache_read": 0.5,
                },
            ],
        },
        "gemini": {
            "name": "Gemini 3 Pro Preview",
            "id": "gemini-3-pro-preview",
            "context_tokens": 1048576,
            "max_output_tokens": 65536,
            "prices": [
                {
                    "effective_from": "2025-11-18",
                    "tiers": [
                        {"up_to_prompt_tokens": 200000, "input": 2, "output": 12},
                        {"up_to_prompt_tokens": None, "input": 4, "output": 18},
                    ],
                }
            ],
        },
    },
    settings={
        "gateway_zone": "trollllm.xyz",
        "gateway_ipv4": "198.18.77.10",
        "gateway_dns_provider": "rfc2136",
        "gateway_dns_credentials": {
            "server": "198.18.77.2",
            "key_name": "gateway",
            "key_secret": "c2VjcmV0LXRzaWctYnl0ZXM=",
        },
        "gateway_acme_email": "operator@trollllm.xyz",
        "gateway_api_keys": {"alice": ALICE, "bob": BOB},
        "gateway_operator_token": OPERATOR,
    },
)
