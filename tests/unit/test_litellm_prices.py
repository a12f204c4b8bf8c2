"""What is made of LiteLLM's list of prices, through the inventory's check and the proxy's pricing."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import yaml

from ansible_collections.trollllm.gateway.plugins.filter.goproxy_config import goproxy_config
from ansible_collections.trollllm.gateway.plugins.module_utils.inventory import check
from goproxy.config import Model, parse_config
from goproxy.core.pricing import price
from goproxy.core.usage import Usage
from goproxy.litellm_prices import entries
from real_ansible import REPOSITORY
from sound_inventory import Inventory

SAMPLE = (REPOSITORY / "proxy_app/tests/litellm_prices.json").read_bytes()
EXAMPLE = (REPOSITORY / "inventory/example/group_vars/all/price_book.yml").read_text()
DAY = date(2026, 2, 5)
ALL = ["claude-opus-4-5-20251101", "claude-sonnet-4-5", "gpt-*", "xai/*", "perplexity/*", "openrouter/*"]


def served(inventory: Inventory, *asked: str) -> dict[str, Model]:
    """The models as the proxy has them, from an inventory with them alone."""
    inventory.price_book = yaml.safe_load(entries(SAMPLE, asked, DAY).yaml)
    inventory.upstreams = {"openhands": inventory.upstreams["openhands"]}
    inventory.upstreams["openhands"]["models"] = {key: {"multiplier": 1.08} for key in inventory.price_book}
    upstreams, problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    assert problems == []
    return {model.id: model for model in parse_config(json.dumps(goproxy_config(upstreams[0])).encode()).models}


def test_the_inventory_takes_all_of_them(inventory: Inventory) -> None:
    models = served(inventory, *ALL)
    assert len(models) == 9
    assert models["claude-opus-4-5-20251101"].id_aliases == ("claude-opus-4-5",)
    assert models["claude-opus-4-5-20251101"].prices[0].tiers[0].prices["web_search"] == 10


def test_they_are_put_below_what_is_in_the_file() -> None:
    text = EXAMPLE + entries(SAMPLE, ["gpt-5.4"], DAY).yaml
    book = yaml.safe_load(text)["goproxy_price_book"]
    assert list(book)[-2:] == ["gemini-3-pro-preview", "gpt-5.4"]
    assert text.count("goproxy_price_book:") == 1


def test_what_a_long_prompt_costs(inventory: Inventory) -> None:
    """150,000 tokens at 6 USD per million, 50,001 from the cache at 0.6, an answer of 1,000 at 22.5; times 1.08."""
    model = served(inventory, "claude-sonnet-4-5")["claude-sonnet-4-5"]
    long = Usage(input=150_000, cache_read=50_001, output=1_000)
    priced = price(long, model.prices, model.billing_multiplier, DAY)
    assert priced.tier_up_to is None
    assert priced.cost == round((150_000 * 6_000 + 50_001 * 600 + 1_000 * 22_500) * Decimal("1.08")) == 1_028_700_648
    shorter = Usage(input=150_000, cache_read=50_000, output=1_000)
    assert price(shorter, model.prices, model.billing_multiplier, DAY).tier_up_to == 200_000


def test_what_a_long_prompt_costs_on_other_terms(inventory: Inventory) -> None:
    """300,000 tokens at 2.5 USD per million, and 1,000 at 11.25; times 1.08."""
    model = served(inventory, "gpt-5.4")["gpt-5.4"]
    usage = Usage(input=300_000, output=1_000)
    priced = price(usage, model.prices, model.billing_multiplier, DAY, "service_tier=flex")
    assert (priced.cost, priced.unpriced) == (822_150_000, frozenset())
