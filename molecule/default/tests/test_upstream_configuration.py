"""Requirement: Independent upstream configuration files."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from testinfra.host import Host
from witness.specification import OHMYGPT, OPENHANDS, Upstream

FOLDER = "/opt/trollllm/goproxy"


def load(host: Host, upstream: Upstream) -> dict[str, Any]:
    """Given the file goproxy/config-<name>-prod.json, when the configuration is loaded."""
    text = host.file(f"{FOLDER}/{upstream.config_file}").content_string
    return dict(json.loads(text, parse_float=Decimal))


def test_config_openhands_prod_json_configured_for_openhands_upstream(host: Host) -> None:
    """Then: the port is 8004, and endpoint openhands-anthropic points to llm-proxy.app.all-hands.dev/v1/messages.

    All models have "upstream": "openhands"; they include Claude Opus 4.5, Sonnet 4.5, Haiku 4.5 and Gemini 3 Pro
    Preview; billing multipliers are set (1.06-1.08).
    """
    config = load(host, OPENHANDS)
    assert config["port"] == 8004
    assert endpoints(config)["openhands-anthropic"] == "https://llm-proxy.app.all-hands.dev/v1/messages"
    assert endpoints(config)["openhands-openai"] == "https://llm-proxy.app.all-hands.dev/v1/chat/completions"
    assert endpoints(config)["openhands-responses"] == "https://llm-proxy.app.all-hands.dev/v1/responses"
    assert_models(config, OPENHANDS)


def test_config_ohmygpt_prod_json_configured_for_ohmygpt_upstream(host: Host) -> None:
    """Then: the port is 8005, and endpoint ohmygpt-anthropic points to apic1.ohmycdn.com and its path.

    All models have "upstream": "ohmygpt"; they include Claude Opus 4.5, Sonnet 4.5 and Haiku 4.5; billing multipliers
    are set (1.04-1.1).
    """
    config = load(host, OHMYGPT)
    assert config["port"] == 8005
    assert endpoints(config) == {"ohmygpt-anthropic": "https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg/v1/messages"}
    assert_models(config, OHMYGPT)


@pytest.mark.parametrize(("upstream", "other"), [(OPENHANDS, OHMYGPT), (OHMYGPT, OPENHANDS)], ids=str)
def test_each_goproxy_instance_uses_a_separate_configuration_file(
    upstream: Upstream, other: Upstream, host: Host
) -> None:
    """Nothing of one upstream stands in the file of the other."""
    text = host.file(f"{FOLDER}/{upstream.config_file}").content_string
    assert [
        word for word in (other.name, other.provider_host, f'"{other.domain}"', str(other.port)) if word in text
    ] == []


def endpoints(config: dict[str, Any]) -> dict[str, str]:
    """Give where each endpoint points to, by its name."""
    return {endpoint["name"]: endpoint["base_url"] for endpoint in config["endpoints"]}


def assert_models(config: dict[str, Any], upstream: Upstream) -> None:
    """The models are those of the specification, of this upstream, and priced within its band."""
    assert {model["name"] for model in config["models"]} >= upstream.models
    assert {model["upstream"] for model in config["models"]} == {upstream.name}
    lowest, highest = upstream.multipliers
    for model in config["models"]:
        assert lowest <= model["billing_multiplier"] <= highest, model["name"]
        assert model["prices"], model["name"]
