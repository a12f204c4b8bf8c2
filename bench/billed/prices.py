"""The price book of the measurements, and what tokens cost by it: a sum of its own, that asks no code of goproxy."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from goproxy.core.usage import Usage

_DAY = "2025-01-01"
_DIGITS = 6
"""Decimals that a price or a multiplier may have; so the product of both has twice as many."""

_ONE = 10**12

OPENHANDS, OHMYGPT = "openhands", "ohmygpt"

_MODELS: dict[str, dict[str, Any]] = {
    "claude-opus-4-5-20251101": {
        "alias": "claude-opus-4-5",
        "multipliers": {OPENHANDS: "1.08", OHMYGPT: "1.1"},
        "tiers": [{"input": "5", "output": "25", "cache_write_5m": "6.25", "cache_write_1h": "10", "cache_read": ".5"}],
        "web_search": "10",
    },
    "claude-sonnet-4-5-20250929": {
        "alias": "claude-sonnet-4-5",
        "multipliers": {OPENHANDS: "1.07", OHMYGPT: "1.04"},
        "tiers": [{"input": "3", "output": "15", "cache_write_5m": "3.75", "cache_write_1h": "6", "cache_read": ".3"}],
    },
    "gemini-3-pro-preview": {
        "alias": "gemini-3-pro",
        "multipliers": {OPENHANDS: "1.06", OHMYGPT: "1.045"},
        "tiers": [
            {"up_to": 200_000, "input": "2", "output": "12", "cache_read": "0.2", "reasoning": "12.5"},
            {"input": "4", "output": "18", "cache_read": "0.4", "reasoning": "18.75"},
        ],
        "web_search": "34.999999",
    },
}
_INSTEAD = {"cache_write_1h": "cache_write_5m", "cache_write_5m": "input", "cache_read": "input", "reasoning": "output"}

MODEL_IDS = tuple(_MODELS)
ALIASES = {model: str(terms["alias"]) for model, terms in _MODELS.items()}
CONTEXT_TOKENS = 1_000_000


def models_of(upstream: str) -> list[dict[str, Any]]:
    """The models as config.json has them."""
    return [
        {
            "name": model,
            "id": model,
            "id_aliases": [terms["alias"]],
            "upstream": upstream,
            "upstream_model_id": f"{upstream}/{model}",
            "billing_multiplier": float(terms["multipliers"][upstream]),
            "context_tokens": CONTEXT_TOKENS,
            "prices": [
                {"effective_from": _DAY, "tiers": [_written(tier) for tier in terms["tiers"]]}
                | ({"web_search": float(terms["web_search"])} if "web_search" in terms else {})
            ],
        }
        for model, terms in _MODELS.items()
    ]


def cost(model: str, upstream: str, usage: Usage) -> int:
    """Nano-dollars, in whole numbers throughout, halves to the even one."""
    terms = _MODELS[model]
    prompt = usage.input + usage.cache_write_5m + usage.cache_write_1h + usage.cache_read
    tier = next(tier for tier in terms["tiers"] if prompt <= tier.get("up_to", prompt))
    counts = usage.to_json()
    counts["output"] -= counts["reasoning"]
    thousands = counts.pop("web_search") * 1000  # of searches, where the others are per million
    scaled: int = sum(count * _scaled(_price(tier, kind)) for kind, count in counts.items())
    scaled += thousands * _scaled(terms.get("web_search", "0"))
    scaled *= _scaled(terms["multipliers"][upstream]) * 1000  # of USD per million tokens, a token has 1000 nano-dollars
    whole, rest = divmod(scaled, _ONE)
    return whole + (2 * rest > _ONE or (2 * rest == _ONE and whole % 2 == 1))


def _price(tier: dict[str, str], kind: str) -> str:
    while kind not in tier:
        kind = _INSTEAD[kind]
    return tier[kind]


def _scaled(number: str) -> int:
    scaled = Decimal(number).scaleb(_DIGITS)
    assert scaled == int(scaled), number
    return int(scaled)


def _written(tier: dict[str, Any]) -> dict[str, Any]:
    """A tier as config.json has it. (JSON's numbers are read as they are written there, not as floats.)"""
    prices = {kind: float(price) for kind, price in tier.items() if kind != "up_to"}
    return {"up_to_prompt_tokens": tier.get("up_to"), **prices}
