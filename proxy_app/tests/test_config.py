"""config.json: what is read of it, and what is said of one that is not in order."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.config import ConfigError, Disconnect, load_config, parse_config
from tests.gateway import OPUS, config_document

Document = dict[str, Any]
TIER = "models.0.prices.0.tiers.0"
TERMS = "models.0.prices.0.terms"
IN_TERMS = "models[0].prices[0].terms"
TIERS = [{"up_to_prompt_tokens": None, "input": 2, "output": 12}]


def problems_of(document: Any) -> list[str]:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ConfigError) as refused:
        parse_config(data)
    return refused.value.problems


def test_a_configuration_is_read() -> None:
    config = parse_config(json.dumps(config_document()).encode())
    assert (config.upstream, config.domain, config.port) == ("openhands", "chat.trollllm.xyz", 8004)
    assert config.endpoints["anthropic"].base_url == "https://llm-proxy.app.all-hands.dev/v1/messages"
    assert config.multiplier_band == (Decimal("1.06"), Decimal("1.08"))
    assert config.models_by_name["claude-opus-4-5"] is config.models_by_name["claude-opus-4-5-20251101"]
    assert (config.timeouts.connect, config.timeouts.total, config.max_body_bytes) == (10, 60, 1048576)


def test_money_is_read_without_floats() -> None:
    text = json.dumps(config_document()).replace("1.08", "1.0799999999999999999999", 1)
    document = text.replace("6.25", "6.250000000000000000001")
    (model,) = parse_config(document.replace("[1.06, 1.0799999999999999999999]", "[1.06, 1.08]").encode()).models
    assert model.prices[0].tiers[0].prices["cache_write_5m"] == Decimal("6.250000000000000000001")
    assert model.billing_multiplier == Decimal("1.08")


def test_prices_are_put_in_order_of_their_days() -> None:
    tier = OPUS["prices"][0]["tiers"]
    prices = [{"effective_from": day, "tiers": tier} for day in ("2026-10-07", "2025-11-24")]
    config = parse_config(json.dumps(config_document(models=[OPUS | {"prices": prices}])).encode())
    days = [version.effective_from for version in config.models[0].prices]
    assert days == [date(2025, 11, 24), date(2026, 10, 7)]


def test_plain_http_is_for_loopback_only() -> None:
    for host in ("127.0.0.1:8080", "[::1]:8080", "localhost"):
        endpoint = {"name": "e", "protocol": "anthropic", "base_url": f"http://{host}/v1/messages"}
        parse_config(json.dumps(config_document(endpoints=[endpoint])).encode())


def test_what_a_configuration_need_not_say() -> None:
    config = parse_config(json.dumps(config_document()).encode())
    assert (config.models[0].context_tokens, config.models[0].max_output_tokens) == (200_000, 64_000)
    assert (config.wallet, config.include_usage, config.staleness_seconds, config.processes) == (None, True, 3600, 1)
    assert config.disconnect == Disconnect("drain", 600, 16 * 1024 * 1024, 256)
    assert config.chat_limits == ("max_tokens", "max_completion_tokens")
    partly = parse_config(json.dumps(config_document(disconnect={"seconds": 7})).encode())
    assert partly.disconnect == Disconnect("drain", 7, 16 * 1024 * 1024, 256)


def test_what_a_configuration_may_say() -> None:
    document = copy.deepcopy(
        config_document(
            wallet="openhands",
            include_usage=False,
            chat_limit="max_tokens",
            disconnect={"policy": "abort", "seconds": 1, "bytes": 2, "concurrent": 3},
            staleness_seconds=60,
            processes=4,
        )
    )
    document["models"][0] |= {"context_tokens": 1_048_576, "max_output_tokens": 65_536}
    change(f"{TIER}.reasoning", 3)(document)
    config = parse_config(json.dumps(document).encode())
    assert (config.models[0].context_tokens, config.models[0].max_output_tokens) == (1_048_576, 65_536)
    assert (config.wallet, config.include_usage, config.staleness_seconds) == ("openhands", False, 60)
    assert (config.processes, config.chat_limits) == (4, ("max_tokens",))
    assert config.disconnect == Disconnect("abort", 1, 2, 3)
    assert config.models[0].prices[0].tiers[0].price("reasoning") == 3


@pytest.mark.parametrize("number", ["1e999999999", "1e-999999999", "0e-999999999", "1" + 41 * "0"])
def test_a_number_that_would_fill_the_memory_is_none(number: str) -> None:
    text = json.dumps(config_document()).replace('"input": 5', f'"input": {number}')
    (found,) = problems_of(text.encode())
    assert found.startswith("models[0].prices[0].tiers[0].input: ")
    assert found.endswith("will not do; expected a number")


def change(path: str, value: Any) -> Callable[[Document], None]:
    """Set the field at `path`; `...` removes it."""

    def apply(document: Document) -> None:
        *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        target: Any = document
        for step in parents:
            target = target[step]
        if value is ...:
            del target[last]
        else:
            target[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("upstream", ..., "upstream: is missing; expected lower-case letters"),
        ("upstream", "Open Hands", 'upstream: "Open Hands" will not do; expected lower-case letters'),
        ("domain", "chat", 'domain: "chat" will not do; expected a host name'),
        ("port", 0, "port: 0 will not do; expected a whole number from 1 to 65535"),
        ("port", True, "port: true will not do; expected a whole number"),
        ("port", "8004", 'port: "8004" will not do; expected a whole number'),
        ("prot", 1, "prot: is not known; expected only chat_limit, disconnect"),
        ("endpoints", [], "endpoints: [] will not do; expected a list with at least one object"),
        ("endpoints.0", 7, "endpoints[0]: 7 is not an object; expected an object"),
        ("endpoints.0.protocol", "grpc", 'endpoints[0].protocol: "grpc" will not do; expected anthropic or openai'),
        ("endpoints.0.protocol", "openai", "endpoints[0].protocol: 'openai' has a second endpoint"),
        ("endpoints.0.base_url", "http://provider.example/v1", "endpoints[0].base_url: 'http://provider.example/v1'"),
        ("endpoints.0.base_url", "https://h/v1/", "endpoints[0].base_url: 'https://h/v1/' is not an endpoint's URL"),
        ("endpoints.0.base_url", "https://h/v1?a=b", "endpoints[0].base_url: "),
        ("endpoints.0.base_url", "https://u:p@h/v1", "endpoints[0].base_url: "),
        ("endpoints.0.base_url", "https://h", "endpoints[0].base_url: "),
        ("endpoints.0.base_url", "https://b\u00fccher.example/v1", "endpoints[0].base_url: "),
        ("endpoints.0.base_url", "https://xn--/v1", "endpoints[0].base_url: "),
        ("endpoints.0.base_url", "https://h\\x/v1", "endpoints[0].base_url: "),
        ("endpoints.0.base_url", "https://[/v1", "endpoints[0].base_url: "),
        ("endpoints.0.base_url", "https://h:99999/v1", "endpoints[0].base_url: "),
        ("multiplier_band", [1.08, 1.06], "multiplier_band: [1.08, 1.06] is not a band; expected [lowest, highest]"),
        ("multiplier_band", [1], "multiplier_band: [1] is not a band"),
        ("multiplier_band", "1.06-1.08", 'multiplier_band: "1.06-1.08" will not do; expected a list of numbers'),
        ("models.0.upstream", "ohmygpt", "models[0].upstream: 'ohmygpt' is another upstream; expected 'openhands'"),
        (
            "models.0.billing_multiplier",
            1.2,
            "models[0].billing_multiplier: 1.2 is outside multiplier_band; expected a number from 1.06 to 1.08",
        ),
        ("models.0.billing_multiplier", 1.05, "models[0].billing_multiplier: 1.05 is outside multiplier_band"),
        (
            "models.0.billing_multiplier",
            1e-19,
            "models[0].billing_multiplier: 1E-19 is longer than the ledger takes; expected a number with at most 9",
        ),
        (
            "models.0.billing_multiplier",
            10**9,
            "models[0].billing_multiplier: 1000000000 is longer than the ledger takes",
        ),
        ("models.0.billing_multiplier", ..., "models[0].billing_multiplier: is missing; expected a number"),
        ("models.0.id", "has space", 'models[0].id: "has space" will not do; expected the id'),
        ("models.0.id_aliases", "x", 'models[0].id_aliases: "x" will not do; expected a list'),
        ("models.0.id_aliases", ["ok", 3], "models[0].id_aliases: 3 will not do"),
        ("models.0.prices", [], "models[0].prices: [] will not do; expected a list with at least one object"),
        (
            "models.0.prices.0.effective_from",
            "2025-02-30",
            "models[0].prices[0].effective_from: '2025-02-30' is no day",
        ),
        ("models.0.prices.0.effective_from", "20250101", 'models[0].prices[0].effective_from: "20250101" will not do'),
        (f"{TIER}.input", ..., "models[0].prices[0].tiers[0].input: is missing; expected a number"),
        (f"{TIER}.output", "25", 'models[0].prices[0].tiers[0].output: "25" will not do; expected a number'),
        (f"{TIER}.cache_read", -1, "models[0].prices[0].tiers[0].cache_read: -1 is below 0; expected USD"),
        ("models.0.prices.0.web_search", -1, "models[0].prices[0].web_search: -1 is below 0; expected USD per 1,000"),
        (f"{TIER}.cached", 1, "models[0].prices[0].tiers[0].cached: is not known; expected only "),
        (f"{TIER}.up_to_prompt_tokens", 200000, "models[0].prices[0].tiers: up_to_prompt_tokens [200000] do not cover"),
        (TERMS, [], f"{IN_TERMS}: [] will not do; expected a list with at least one object"),
        (TERMS, [{"tiers": TIERS}], f"{IN_TERMS}[0].service_tier: is missing; expected one or more of inference_geo"),
        (
            TERMS,
            [{"speed": "standard", "service_tier": "default", "tiers": TIERS}],
            f"{IN_TERMS}[0].service_tier: 'default' is standard, and has the price of the version; expected a value",
        ),
        (
            TERMS,
            [{"speed": "fast", "tiers": TIERS}, {"speed": "fast", "service_tier": "auto", "tiers": TIERS}],
            f"{IN_TERMS}[1].service_tier: speed=fast has another entry; expected one entry for the same",
        ),
        (TERMS, [{"speed": "a,b", "tiers": TIERS}], f'{IN_TERMS}[0].speed: "a,b" will not do; expected a value of it'),
        (TERMS, [{"speed": 2, "tiers": TIERS}], f"{IN_TERMS}[0].speed: 2 will not do; expected a value of it"),
        (TERMS, [{"speed": "fast"}], f"{IN_TERMS}[0].tiers: is missing; expected a list of objects"),
        (TERMS, [{"speed": "x", "colour": 1, "tiers": TIERS}], f"{IN_TERMS}[0].colour: is not known; expected only"),
        ("timeouts", ..., "timeouts: is missing; expected an object"),
        ("timeouts.idle", 0, "timeouts.idle: 0 is not above 0; expected a number of seconds"),
        ("timeouts.idle", 61, "timeouts.idle: 61 is longer than total; expected at most 60 s, or a longer total"),
        ("timeouts.connect", 21, "timeouts.connect: 21 is longer than first_byte"),
        ("max_body_bytes", 1.5, 'max_body_bytes: "1.5" will not do; expected a whole number'),
        ("models.0.context_tokens", 0, "models[0].context_tokens: 0 will not do; expected a whole number from 1 to"),
        ("models.0.context_tokens", None, "models[0].context_tokens: null will not do; expected a whole number"),
        ("models.0.max_output_tokens", "64k", 'models[0].max_output_tokens: "64k" will not do; expected a whole'),
        (
            "models.0.max_output_tokens",
            200001,
            "models[0].max_output_tokens: 200001 is more than context_tokens; expected at most 200000",
        ),
        (f"{TIER}.reasoning", -1, "models[0].prices[0].tiers[0].reasoning: -1 is below 0; expected USD"),
        ("wallet", "Main", 'wallet: "Main" will not do; expected lower-case letters, digits and hyphens'),
        ("wallet", "alice/main", 'wallet: "alice/main" will not do'),
        ("include_usage", 1, "include_usage: 1 will not do; expected true or false"),
        ("include_usage", "yes", 'include_usage: "yes" will not do; expected true or false'),
        ("chat_limit", "n", 'chat_limit: "n" will not do; expected either or max_completion_tokens or max_tokens'),
        ("disconnect", "drain", 'disconnect: "drain" is not an object; expected an object'),
        ("disconnect", {"policy": "ignore"}, 'disconnect.policy: "ignore" will not do; expected abort or drain'),
        ("disconnect", {"seconds": 0}, "disconnect.seconds: 0 will not do; expected a whole number from 1 to 3600"),
        ("disconnect", {"bytes": 0.5}, 'disconnect.bytes: "0.5" will not do; expected a whole number'),
        ("disconnect", {"concurrent": -1}, "disconnect.concurrent: -1 will not do; expected a whole number from 1"),
        ("disconnect", {"max_mib": 1}, "disconnect.max_mib: is not known; expected only bytes, concurrent, policy"),
        ("processes", 0, "processes: 0 will not do; expected a whole number from 1 to 16"),
        ("staleness_seconds", 0, "staleness_seconds: 0 will not do; expected a whole number from 1 to 604800"),
    ],
)
def test_one_wrong_field_is_one_problem_that_names_it(path: str, value: Any, problem: str) -> None:
    document = copy.deepcopy(config_document())
    change(path, value)(document)
    (found,) = problems_of(document)
    assert found.startswith(problem)


def test_all_problems_are_told_at_once() -> None:
    document = copy.deepcopy(config_document(port=-1, upstream="Wrong"))
    change("models.0.billing_multiplier", 9)(document)
    change("timeouts.total", 1)(document)
    paths = [problem.partition(":")[0] for problem in problems_of(document)]
    assert paths == [
        "upstream",
        "port",
        "models[0].billing_multiplier",
        "timeouts.first_byte",
        "timeouts.idle",
    ]


def test_tiers_must_rise_to_an_open_end() -> None:
    tier: dict[str, int | None] = {"input": 2, "output": 12}
    limits: list[list[int | None]] = [[None, 200], [200, 100, None], [200, 200, None], [None, None], [100, 200]]
    for wrong in limits:
        document = copy.deepcopy(config_document())
        tiers = [tier | {"up_to_prompt_tokens": limit} for limit in wrong]
        change("models.0.prices.0.tiers", tiers)(document)
        (found,) = problems_of(document)
        assert "do not cover every prompt once; expected ascending limits, and null in the last tier only" in found


def test_a_name_stands_for_one_model() -> None:
    other = OPUS | {"name": "Other", "id": "other", "id_aliases": ["claude-opus-4-5"]}
    (found,) = problems_of(config_document(models=[OPUS, other]))
    assert found.startswith("models[1]: 'claude-opus-4-5' already names 'Claude Opus 4.5'")


def test_terms_have_prices_of_their_own() -> None:
    document = copy.deepcopy(config_document())
    fast = {"speed": "fast", "inference_geo": "us", "service_tier": "auto", "tiers": [TIERS[0] | {"input": 30.5}]}
    change(TERMS, [fast, {"service_tier": "flex", "tiers": TIERS}])(document)
    (version,) = parse_config(json.dumps(document).encode()).models[0].prices
    found = {terms: [str(tier.prices["input"]) for tier in tiers] for terms, tiers in version.terms.items()}
    assert found == {"inference_geo=us,speed=fast": ["30.5"], "service_tier=flex": ["2"]}


def test_a_search_costs_the_same_at_any_length_and_on_any_terms() -> None:
    document = copy.deepcopy(config_document())
    long = [{"up_to_prompt_tokens": 100, "input": 1, "output": 6}, *TIERS]
    change("models.0.prices.0.tiers", long)(document)
    change(TERMS, [{"service_tier": "flex", "tiers": TIERS}])(document)
    change("models.0.prices.0.web_search", 10.5)(document)
    (version,) = parse_config(json.dumps(document).encode()).models[0].prices
    tiers = [tier for of_terms in (version.tiers, *version.terms.values()) for tier in of_terms]
    assert [str(tier.prices["web_search"]) for tier in tiers] == ["10.5"] * 3


def test_two_prices_of_one_day() -> None:
    (found,) = problems_of(config_document(models=[OPUS | {"prices": OPUS["prices"] * 2}]))
    assert found.startswith("models[0].prices: two versions begin on one day")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the document: is not valid JSON"),
        (b"{", "the document: is not valid JSON"),
        (b'{"port": 1e99999999999999999999}', "the document: has a number with an exponent that is out of all bounds"),
        (b"\xff\xfe", "the document: is not valid JSON"),
        (b"[]", "the document: [] is not an object; expected an object"),
        (b'{"port": NaN}', "the document: is not valid JSON (NaN is not a JSON number)"),
        (b'{"port": 1, "port": 2}', "port: the name stands 2 times in one object; expected each name once"),
    ],
)
def test_what_is_no_document(data: bytes, problem: str) -> None:
    (found,) = problems_of(data)
    assert found.startswith(problem)
    assert "\n" not in found


@given(st.data())
def test_a_configuration_of_any_shape_is_read_or_refused(data: st.DataObject) -> None:
    document = copy.deepcopy(config_document())
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for step in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, step))
            walk(node[step])

    walk(document)
    node, step = data.draw(st.sampled_from(places))
    wrong: st.SearchStrategy[Any] = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just([]) | st.just({})
    )
    node[step] = data.draw(wrong)
    try:
        parse_config(json.dumps(document).encode())
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - whether it raises is not the point, what it raises is


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read: No such file"):
        load_config(tmp_path / "config.json")
