"""The two inventories of the repository: the specification's facts stand in them, and none of them stands twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_ansible import REPOSITORY, Ansible

EXAMPLE = REPOSITORY / "inventory/example/group_vars/all"
DEMO = REPOSITORY / "inventory/demo/group_vars/all"
SHARED = ["price_book.yml", "upstreams/ohmygpt.yml", "upstreams/openhands.yml"]


def validate(ansible: Ansible, inventory: str) -> dict[str, Any]:
    """playbooks/validate.yml on an inventory: the task that checks, and the fact that it set."""
    ansible.write("fact.yml", [{"hosts": "gateway", "gather_facts": False, "tasks": [
        {"trollllm.gateway.check_inventory": None, "register": "checked", "ignore_errors": True},
        {"ansible.builtin.debug": {"msg": "{{ checked }}"}},
    ]}])  # fmt: skip
    run = ansible.playbook("fact.yml", "-i", str(REPOSITORY / "inventory" / inventory))
    checked: dict[str, Any] = run.result["msg"]
    return checked


@pytest.fixture
def ansible(tmp_path: Path) -> Ansible:
    place = Ansible(tmp_path)
    place.write("hosts.yml", {"all": {}})
    return place


def test_the_example_lacks_only_what_is_the_operators_own(ansible: Ansible) -> None:
    assert [problem.rpartition("; ")[0] for problem in validate(ansible, "example")["problems"]] == [
        'gateway_acme_email: is "admin@example.com", a placeholder',
        "gateway_api_keys: alice: is a placeholder",
        "gateway_dns_credentials: api_token: is a placeholder",
        "gateway_ipv4: is 203.0.113.10, a placeholder (an address for documentation)",
        "gateway_operator_token: is a placeholder",
        "ohmygpt: api_key: is a placeholder",
        "openhands: api_key: is a placeholder",
    ]


def test_the_demo_holds_the_two_upstreams_of_the_specification(ansible: Ansible) -> None:
    checked = validate(ansible, "demo")
    assert checked["failed"] is False, checked["msg"]
    ohmygpt, openhands = checked["ansible_facts"]["goproxy_upstreams"]
    assert {key: openhands[key] for key in ("name", "domain", "port", "service", "multiplier_band")} == {
        "name": "openhands",
        "domain": "chat.trollllm.xyz",
        "port": 8004,
        "service": "goproxy-openhands",
        "multiplier_band": [1.06, 1.08],
    }
    assert {endpoint["name"]: endpoint["base_url"] for endpoint in openhands["endpoints"]} == {
        "openhands-anthropic": "https://llm-proxy.app.all-hands.dev/v1/messages",
        "openhands-openai": "https://llm-proxy.app.all-hands.dev/v1/chat/completions",
        "openhands-responses": "https://llm-proxy.app.all-hands.dev/v1/responses",
    }
    assert [model["name"] for model in openhands["models"]] == [
        "Claude Opus 4.5",
        "Claude Sonnet 4.5",
        "Claude Haiku 4.5",
        "Gemini 3 Pro Preview",
    ]
    assert all(1.06 <= model["multiplier"] <= 1.08 for model in openhands["models"])
    assert {key: ohmygpt[key] for key in ("name", "domain", "port", "service", "multiplier_band")} == {
        "name": "ohmygpt",
        "domain": "chat2.trollllm.xyz",
        "port": 8005,
        "service": "goproxy-ohmygpt",
        "multiplier_band": [1.04, 1.1],
    }
    assert {endpoint["name"]: endpoint["base_url"] for endpoint in ohmygpt["endpoints"]} == {
        "ohmygpt-anthropic": "https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg/v1/messages"
    }
    assert [model["name"] for model in ohmygpt["models"]] == [
        "Claude Opus 4.5",
        "Claude Sonnet 4.5",
        "Claude Haiku 4.5",
    ]
    assert all(1.04 <= model["multiplier"] <= 1.1 for model in ohmygpt["models"])
    assert all(300 <= upstream["ttl"] <= 3600 for upstream in (ohmygpt, openhands))


def test_list_prices() -> None:
    book = yaml.safe_load((EXAMPLE / "price_book.yml").read_text())["goproxy_price_book"]
    kinds = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
    assert {model["id"]: tuple(model["prices"][0].get(kind) for kind in kinds) for model in book.values()} == {
        "claude-opus-4-5-20251101": (5, 6.25, 10, 0.5, 25),
        "claude-sonnet-4-5-20250929": (3, 3.75, 6, 0.3, 15),
        "claude-haiku-4-5-20251001": (1, 1.25, 2, 0.1, 5),
        "gemini-3-pro-preview": (None,) * 5,
    }
    tiers = book["gemini-3-pro-preview"]["prices"][0]["tiers"]
    assert [(tier.get("up_to_prompt_tokens"), tier["input"], tier["cache_read"], tier["output"]) for tier in tiers] == [
        (200000, 2, 0.2, 12),
        (None, 4, 0.4, 18),
    ]


@pytest.mark.parametrize("path", SHARED)
def test_no_fact_stands_twice(path: str) -> None:
    link = DEMO / path
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == EXAMPLE / path


def test_adding_an_upstream_is_adding_a_file(ansible: Ansible) -> None:
    copy = ansible.directory / "inventory"
    subprocess.run(["cp", "-rL", str(REPOSITORY / "inventory/demo"), str(copy)], check=True)
    third = {**yaml.safe_load((EXAMPLE / "upstreams/ohmygpt.yml").read_text())["goproxy_upstream__ohmygpt"]}
    third |= {"domain": "chat3.{{ gateway_zone }}", "port": 8006}
    (copy / "group_vars/all/upstreams/my_third.yml").write_text(yaml.safe_dump({"goproxy_upstream__my_third": third}))
    names = [upstream["name"] for upstream in validate(ansible, str(copy))["ansible_facts"]["goproxy_upstreams"]]
    assert names == ["my-third", "ohmygpt", "openhands"]
    (copy / "group_vars/all/upstreams/ohmygpt.yml").unlink()
    names = [upstream["name"] for upstream in validate(ansible, str(copy))["ansible_facts"]["goproxy_upstreams"]]
    assert names == ["my-third", "openhands"]


def test_the_way_to_encrypt_that_the_vault_file_tells(ansible: Ansible) -> None:
    vault = ansible.write("vault.yml", (EXAMPLE / "vault.yml").read_text())
    assert "ansible-vault encrypt inventory/<yours>/group_vars/all/vault.yml" in vault.read_text()
    password = ansible.write("password", "correct horse battery staple\n")
    program = Path(sys.executable).with_name("ansible-vault")
    command = [str(program), "encrypt", str(vault), "--vault-password-file", str(password)]
    subprocess.run(command, check=True, capture_output=True)
    assert "CHANGE-ME" not in vault.read_text()
