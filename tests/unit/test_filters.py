"""The filters that make config.json and keys.json, held against what the proxy reads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import pytest

from ansible_collections.trollllm.gateway.plugins.filter.goproxy_config import api_keyring, goproxy_config
from ansible_collections.trollllm.gateway.plugins.module_utils.inventory import CHAT_LIMITS, check
from ansible_collections.trollllm.gateway.plugins.module_utils.inventory import MULTIPLIER as WRITTEN_MULTIPLIER
from ansible_collections.trollllm.gateway.plugins.module_utils.price_book import STANDARD_TERMS
from goproxy.config import parse_config
from goproxy.control_plane.declared import Declaration
from goproxy.core.keys import digest
from goproxy.core.pricing import MULTIPLIER
from goproxy.core.protocols import OPENAI
from goproxy.core.terms import STANDARD
from real_ansible import Ansible
from sound_inventory import ALICE, BOB, Inventory


def test_the_config_of_an_upstream(inventory: Inventory) -> None:
    upstreams, problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    assert not problems
    assert goproxy_config(upstreams[0]) == {
        "upstream": "ohmygpt",
        "domain": "chat2.trollllm.xyz",
        "port": 8005,
        "endpoints": [
            {
                "name": "ohmygpt-anthropic",
                "protocol": "anthropic",
                "base_url": "https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg/v1/messages",
            }
        ],
        "multiplier_band": [1.04, 1.1],
        "models": [
            {
                "name": "Claude Opus 4.5",
                "id": "claude-opus-4-5-20251101",
                "id_aliases": ["claude-opus-4-5"],
                "upstream": "ohmygpt",
                "upstream_model_id": "omg/opus",
                "billing_multiplier": 1.1,
                "prices": upstreams[0]["models"][0]["prices"],
            }
        ],
        "timeouts": {"connect": 10, "first_byte": 300, "idle": 120, "total": 1800},
        "max_body_bytes": 8388608,
        "disconnect": {"policy": "abort"},
        "wallet": "omg",
    }


def test_the_proxy_and_the_inventory_take_the_same_multipliers() -> None:
    assert WRITTEN_MULTIPLIER.pattern == MULTIPLIER


def test_the_proxy_accepts_the_config_and_reads_the_same_numbers(inventory: Inventory) -> None:
    upstreams, _problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    for upstream in upstreams:
        read = parse_config(json.dumps(goproxy_config(upstream)).encode())
        assert (read.upstream, read.domain, read.port) == (upstream["name"], upstream["domain"], upstream["port"])
        assert [str(model.billing_multiplier) for model in read.models] == [
            str(model["multiplier"]) for model in upstream["models"]
        ]
        assert (read.wallet, read.include_usage) == (upstream["wallet"], upstream["include_usage"])
        assert (read.staleness_seconds, read.processes) == (upstream["staleness_seconds"], upstream["processes"])
        assert asdict(read.disconnect) == {
            "policy": upstream["disconnect"]["policy"],
            "seconds": upstream["disconnect"]["seconds"],
            "bytes": upstream["disconnect"]["max_mib"] * 1024 * 1024,
            "concurrent": upstream["disconnect"]["concurrent"],
        }
        for model, wanted in zip(read.models, upstream["models"], strict=True):
            assert model.context_tokens == wanted["context_tokens"]
            assert model.max_output_tokens == wanted["max_output_tokens"]
            tiers = [tier.prices for version in model.prices for tier in version.tiers]
            assert tiers == [
                {kind: Decimal(str(amount)) for kind, amount in tier.items() if kind != "up_to_prompt_tokens"}
                for price in wanted["prices"]
                for tier in price["tiers"]
            ]


def test_the_proxy_and_the_inventory_have_the_same_standard() -> None:
    assert {name: {*values} for name, values in STANDARD_TERMS.items()} == {
        name: values - {""} for name, values in STANDARD.items()
    }


def test_the_proxy_reads_the_prices_of_terms(inventory: Inventory) -> None:
    dear, dearer = {"input": 10, "output": 50.5}, {"input": 20, "output": 100}
    terms = [
        {"service_tier": "priority", **dear},
        {"speed": "fast", "inference_geo": "us", "tiers": [{"up_to_prompt_tokens": 9, **dear}, dearer]},
    ]
    inventory.spoil(("price_book", "opus", "prices", 0, "terms"), terms)
    upstreams, problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    assert not problems
    *others, version = parse_config(json.dumps(goproxy_config(upstreams[0])).encode()).models[0].prices
    assert not any(other.terms for other in others)
    assert {
        named: [(tier.up_to_prompt_tokens, str(tier.prices["output"])) for tier in tiers]
        for named, tiers in version.terms.items()
    } == {
        "service_tier=priority": [(None, "50.5")],
        "inference_geo=us,speed=fast": [(9, "50.5"), (None, "100")],
    }


def test_what_the_proxy_takes_by_itself_is_not_said(inventory: Inventory) -> None:
    """Every optional key, so that an image that does not know the newest of them yet can read the file."""
    inventory.spoil(("upstreams", "openhands", "chat_limit"), "either")
    asked = {"include_usage": True, "staleness_seconds": 3600, "processes": 1}
    for name, value in asked.items():
        inventory.spoil(("upstreams", "openhands", name), value)
    inventory.spoil(("upstreams", "openhands", "disconnect"), {"policy": "drain", "seconds": 600})
    upstreams, problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    assert not problems
    written = goproxy_config(upstreams[1])
    required = ("upstream", "domain", "port", "endpoints", "multiplier_band", "models", "timeouts", "max_body_bytes")
    assert tuple(written) == required
    for model in written["models"]:
        said = {"name", "id", "id_aliases", "upstream", "upstream_model_id", "billing_multiplier", "prices"}
        assert set(model) - said <= {"context_tokens", "max_output_tokens"}
    read = parse_config(json.dumps(written).encode())
    assert (read.include_usage, read.staleness_seconds, read.processes, read.wallet) == (*asked.values(), None)
    assert asdict(read.disconnect) == {"policy": "drain", "seconds": 600, "bytes": 16777216, "concurrent": 256}
    assert read.chat_limits == OPENAI.limits


@pytest.mark.parametrize("limit", CHAT_LIMITS)
def test_the_proxy_and_the_inventory_know_the_same_limits(inventory: Inventory, limit: str) -> None:
    inventory.spoil(("upstreams", "openhands", "chat_limit"), limit)
    upstreams, _problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    read = parse_config(json.dumps(goproxy_config(upstreams[1])).encode())
    assert read.chat_limits == (OPENAI.limits if limit == "either" else (limit,))


def test_the_longest_that_the_inventory_allows_is_allowed_by_the_proxy(inventory: Inventory) -> None:
    largest = {"policy": "drain", "seconds": 3600, "max_mib": 1024, "concurrent": 10000}
    inventory.spoil(("upstreams", "openhands", "disconnect"), largest)
    inventory.spoil(("upstreams", "openhands", "staleness_seconds"), 7 * 86400)
    inventory.spoil(("upstreams", "openhands", "processes"), 16)
    inventory.spoil(("price_book", "opus", "context_tokens"), 10**9)
    inventory.spoil(("price_book", "opus", "max_output_tokens"), 10**9)
    upstreams, problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    assert not problems
    read = parse_config(json.dumps(goproxy_config(upstreams[1])).encode())
    assert (read.disconnect.bytes, read.staleness_seconds, read.processes) == (2**30, 604800, 16)


def test_the_keyring_holds_digests_only() -> None:
    keyring = api_keyring({"bob": BOB, "alice": ALICE})
    assert keyring == {
        "keys": [
            {"account": "alice", "prefix": "tg-AbCd1234", "sha256": hashlib.sha256(ALICE.encode()).hexdigest()},
            {"account": "bob", "prefix": "a-key-of-bo", "sha256": hashlib.sha256(BOB.encode()).hexdigest()},
        ],
        "opening_credits": {},
    }
    assert not [key for key in (ALICE, BOB) if key in json.dumps(keyring)]


def test_the_backend_reads_the_keyring() -> None:
    keyring = api_keyring({"bob": BOB, "alice": ALICE}, {"bob": 0.1, "carol": 10})
    declared = Declaration.model_validate_json(json.dumps(keyring))
    assert {key.account: key.sha256 for key in declared.keys} == {"alice": digest(ALICE), "bob": digest(BOB)}
    assert declared.opening_credits == {"bob": 100_000_000, "carol": 10_000_000_000}


def test_templates_reach_both_filters_by_name(ansible: Ansible, inventory: Inventory, tmp_path: Path) -> None:
    upstreams, _problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    ansible.write("group_vars/all/main.yml", {"upstream": upstreams[1], "keys_of": {"bob": "{{ bobs }}"}, "bobs": BOB})
    content = {
        "config.json": "{{ upstream | trollllm.gateway.goproxy_config | to_nice_json }}\n",
        "keys.json": "{{ keys_of | trollllm.gateway.api_keyring | to_nice_json }}\n",
    }
    files = [{"path": path, "content": text} for path, text in content.items()]
    run = ansible.play([{"trollllm.gateway.file_tree": {"root": str(tmp_path / "root"), "files": files}}])
    assert run.code == 0, run.output
    config = (tmp_path / "root/config.json").read_bytes()
    assert json.loads(config) == goproxy_config(upstreams[1])
    assert b'"billing_multiplier": 1.08' in config
    assert parse_config(config).upstream == "openhands"
    (key,) = Declaration.model_validate_json((tmp_path / "root/keys.json").read_bytes()).keys
    assert (key.account, key.sha256) == ("bob", digest(BOB))


def test_an_opening_credit_is_the_operators_digits_in_nanodollars_and_0_is_none() -> None:
    written = api_keyring({"alice": ALICE, "bob": BOB}, {"alice": 0.1, "bob": 0})
    assert written["opening_credits"] == {"alice": 100_000_000}
    Declaration.model_validate(written)
