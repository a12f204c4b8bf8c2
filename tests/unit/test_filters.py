"""The filters that make config.json and keys.json, held against what the proxy reads."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from pathlib import Path

from ansible_collections.trollllm.gateway.plugins.filter.goproxy_config import api_keyring, goproxy_config
from ansible_collections.trollllm.gateway.plugins.module_utils.inventory import check
from goproxy.config import parse_config
from goproxy.core.keys import read_key_file
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
    }


def test_the_proxy_accepts_the_config_and_reads_the_same_numbers(inventory: Inventory) -> None:
    upstreams, _problems = check(inventory.upstreams, inventory.price_book, inventory.settings)
    for upstream in upstreams:
        read = parse_config(json.dumps(goproxy_config(upstream)).encode())
        assert (read.upstream, read.domain, read.port) == (upstream["name"], upstream["domain"], upstream["port"])
        assert [str(model.billing_multiplier) for model in read.models] == [
            str(model["multiplier"]) for model in upstream["models"]
        ]
        for model, wanted in zip(read.models, upstream["models"], strict=True):
            tiers = [tier.prices for version in model.prices for tier in version.tiers]
            assert tiers == [
                {kind: Decimal(str(amount)) for kind, amount in tier.items() if kind != "up_to_prompt_tokens"}
                for price in wanted["prices"]
                for tier in price["tiers"]
            ]


def test_the_keyring_holds_digests_only() -> None:
    keyring = api_keyring({"bob": BOB, "alice": ALICE})
    assert keyring == {
        "keys": [
            {"account": "alice", "prefix": "tg-AbCd1234", "sha256": hashlib.sha256(ALICE.encode()).hexdigest()},
            {"account": "bob", "prefix": "a-key-of-bo", "sha256": hashlib.sha256(BOB.encode()).hexdigest()},
        ]
    }
    assert not [key for key in (ALICE, BOB) if key in json.dumps(keyring)]


def test_the_proxy_finds_the_accounts_in_the_keyring() -> None:
    keys = read_key_file(json.dumps(api_keyring({"bob": BOB, "alice": ALICE})).encode())
    assert (keys.account_of(ALICE), keys.account_of(BOB), keys.account_of("tg-other")) == ("alice", "bob", None)


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
    assert read_key_file((tmp_path / "root/keys.json").read_bytes()).account_of(BOB) == "bob"
