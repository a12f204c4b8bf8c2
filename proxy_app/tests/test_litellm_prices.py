"""LiteLLM's list of prices, made into entries of the price book. The inventory's own check of them: tests/unit."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from goproxy.cli import main

SAMPLE = Path(__file__).parent / "litellm_prices.json"
OPUS = """
  claude-opus-4-5-20251101:
    name: claude-opus-4-5-20251101
    id: claude-opus-4-5-20251101
    aliases: [claude-opus-4-5]
    context_tokens: 200000
    max_output_tokens: 64000
    prices:
      - effective_from: "2026-02-05"
        input: 5
        output: 25
        cache_write_5m: 6.25
        cache_write_1h: 10
        cache_read: 0.5
        web_search: 10
"""
SOUND = {
    "litellm_provider": "openai",
    "mode": "chat",
    "max_input_tokens": 1000,
    "max_output_tokens": 100,
    "input_cost_per_token": 1e-06,
    "output_cost_per_token": 2e-06,
}


def told(capsys: pytest.CaptureFixture[str], *asked: str, path: Path = SAMPLE) -> tuple[dict[str, Any], list[str]]:
    """The entries, and what was said beside them."""
    assert main(["price-book", str(path), *asked, "--day", "2026-02-05"]) == 0
    said = capsys.readouterr()
    return yaml.safe_load(said.out), said.err.splitlines()


def refused(capsys: pytest.CaptureFixture[str], *asked: str, path: Path = SAMPLE) -> list[str]:
    """What was said in place of entries, without the file's name and the last line."""
    assert main(["price-book", str(path), *asked]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    *problems, last = said.err.splitlines()
    assert last.startswith("Nothing was printed.")
    assert all(problem.startswith(f"{path}: ") for problem in problems)
    return [problem.removeprefix(f"{path}: ") for problem in problems]


def test_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    """The text as it is put into the file, the dearest search, and what has no place there as LiteLLM writes it."""
    assert main(["price-book", str(SAMPLE), "claude-opus-4-5-20251101", "--day", "2026-02-05"]) == 0
    assert capsys.readouterr() == (
        OPUS,
        "claude-opus-4-5-20251101: the price book has no field for input_cost_per_token_batches 2.5e-06, "
        'provider_specific_entry {"us": 1.1}\n',
    )


def test_prices_hold_from_today_where_no_day_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC).date()
    assert main(["price-book", str(SAMPLE), "gpt-4o"]) == 0
    day = yaml.safe_load(capsys.readouterr().out)["gpt-4o"]["prices"][0]["effective_from"]
    assert str(before) <= day <= str(datetime.now(UTC).date())


def test_it_runs_without_anything_installed() -> None:
    code = f"import sys; sys.path.insert(0, {str(SAMPLE.parents[1])!r}); from goproxy.cli import main; sys.exit(main())"
    command = [sys.executable, "-I", "-S", "-c", code, "price-book", str(SAMPLE), "claude-opus-4-5-20251101"]
    done = subprocess.run([*command, "--day", "2026-02-05"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, OPUS)


def test_tiers(capsys: pytest.CaptureFixture[str]) -> None:
    book, notes = told(capsys, "claude-sonnet-4-5", "xai/grok-4")
    low = {"input": 3, "output": 15, "cache_write_5m": 3.75, "cache_write_1h": 6, "cache_read": 0.3}
    high = {"input": 6, "output": 22.5, "cache_write_5m": 7.5, "cache_write_1h": 12, "cache_read": 0.6}
    assert book["claude-sonnet-4-5"]["prices"] == [
        {"effective_from": "2026-02-05", "tiers": [{"up_to_prompt_tokens": 200000, **low}, high]}
    ]
    assert book["grok-4"]["prices"][0]["tiers"][0]["up_to_prompt_tokens"] == 127999  # xAI's dearer one begins with it
    assert notes == []


def test_terms(capsys: pytest.CaptureFixture[str]) -> None:
    """What a tier of theirs lacks is never cheaper than what it has for the tier, or for the term, alone."""
    book, notes = told(capsys, "gpt-5.4")
    assert book["gpt-5.4"]["max_output_tokens"] == 128000
    assert book["gpt-5.4"]["prices"][0]["terms"] == [
        {
            "service_tier": "priority",
            "tiers": [
                {"up_to_prompt_tokens": 272000, "input": 5.5, "output": 30, "cache_read": 0.5},
                {"input": 5.5, "output": 30, "cache_read": 0.5},
            ],
        },
        {
            "service_tier": "flex",
            "tiers": [
                {"up_to_prompt_tokens": 272000, "input": 1.25, "output": 7.5, "cache_read": 0.125},
                {"input": 2.5, "output": 11.25, "cache_read": 0.25},
            ],
        },
    ]
    assert notes == [
        "gpt-5.4: LiteLLM lacks prices for prompts above 272000 tokens with service_tier priority; taken is the "
        "dearest of what it has for a part of that: input 5.5, output 30, cache_read 0.5"
    ]


def test_a_service_without_a_price_of_its_output_has_no_terms(capsys: pytest.CaptureFixture[str]) -> None:
    book, notes = told(capsys, "gpt-4o")
    assert book["gpt-4o"]["prices"] == [{"effective_from": "2026-02-05", "input": 2.5, "output": 10}]
    assert notes == [
        "gpt-4o: no terms for service_tier priority, without output_cost_per_token_priority; it has input 4.25"
    ]


def test_reasoning(capsys: pytest.CaptureFixture[str]) -> None:
    """It has a price where that is not the output's."""
    book, notes = told(capsys, "perplexity/sonar-deep-research", "gpt-5.4")
    assert book["sonar-deep-research"]["prices"][0]["reasoning"] == 3
    assert notes[0].endswith("the price book has no field for citation_cost_per_token 2e-06")
    assert all("reasoning" not in tier for tier in book["gpt-5.4"]["prices"][0]["tiers"])


def test_what_is_free_and_what_is_a_float_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    book, notes = told(capsys, "openrouter/deepseek/deepseek-chat:free")
    assert book["deepseek/deepseek-chat:free"]["prices"] == [
        {"effective_from": "2026-02-05", "input": 0, "output": 0.4}
    ]
    assert notes == [
        "openrouter/deepseek/deepseek-chat:free: output_cost_per_token is 0.4 per million tokens, and not exactly "
        "0.40000000000000003",
        "openrouter/deepseek/deepseek-chat:free: input would be free of charge: a price of 0",
    ]


def test_an_alias_is_the_name_without_the_only_date(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    both, _ = told(capsys, "claude-opus-4-5-20251101", "claude-opus-4-5")
    assert all("aliases" not in model for model in both.values())
    two_dates, _ = told(capsys, "gpt-4o-2024-11-20")
    assert "aliases" not in two_dates["gpt-4o-2024-11-20"]
    other = tmp_path / "prices.json"
    other.write_text(json.dumps({"m-20250101": SOUND, "m": SOUND | {"output_cost_per_token": 3e-06}}))
    other_price, _ = told(capsys, "m-20250101", path=other)
    assert "aliases" not in other_price["m-20250101"]
    other.write_text(json.dumps({"openai/m-20250101": SOUND, "openai/m": SOUND, "m-20250202": SOUND, "m": SOUND}))
    twice, _ = told(capsys, "openai/m-20250101", "m-20250202", path=other)
    assert [model.get("aliases") for model in twice.values()] == [["m"], None]


def test_a_pattern_takes_what_is_served_here(capsys: pytest.CaptureFixture[str]) -> None:
    book, notes = told(capsys, "gpt-*", "gpt-4o")
    assert list(book) == ["gpt-5.4", "gpt-4o-2024-05-13", "gpt-4o-2024-11-20", "gpt-4o"]
    assert notes[0] == "gpt-*: without gpt-image-1 (image_generation), which are not served here"
    assert refused(capsys, "*-image-*", "mistral-*") == [
        "*-image-*: names none that is served here, but gpt-image-1 (image_generation); expected models of mode chat",
        "mistral-*: is not in the file; expected a name of it, or a pattern such as 'claude-*'",
    ]


def test_a_name_with_its_provider_is_found_as_litellm_finds_it(capsys: pytest.CaptureFixture[str]) -> None:
    book, _ = told(capsys, "anthropic/claude-sonnet-4-5", "azure/gpt-4o")
    assert list(book) == ["claude-sonnet-4-5", "gpt-4o"]
    long = "fireworks_ai/accounts/fireworks/models/gpt-4o-mini"
    assert refused(capsys, "azure/claude-sonnet-4.5", "openai/claude-sonnet-4-5", long) == [
        "azure/claude-sonnet-4.5: is not in the file; expected a name of it: claude-sonnet-4-5",
        "openai/claude-sonnet-4-5: is not in the file; expected a name of it: claude-sonnet-4-5 or claude-opus-4-5",
        f"{long}: is not in the file; expected a name of it: gpt-4o",
    ]


def test_two_models_of_one_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "gpt-4o", "azure/gpt-4o") == [
        "azure/gpt-4o: has the id gpt-4o, and gpt-4o has it, too; expected one of them at a time"
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mode": "embedding"}, 'mode: "embedding" is not served here; expected chat or responses'),
        ({"mode": None}, "mode: null is not served here; expected chat or responses"),
        ({"max_input_tokens": None}, "max_input_tokens: is missing; expected a whole number from 1 to 1000000000"),
        ({"max_output_tokens": None}, "max_output_tokens: is missing; expected a whole number from 1 to 1000000000"),
        ({"max_output_tokens": 2000}, "max_output_tokens: 2000 is more than max_input_tokens; expected at most 1000"),
        (
            {"input_cost_per_token": None},
            "input_cost_per_token: is missing; expected USD per token, as the provider states it",
        ),
        (
            {"output_cost_per_token": None},
            "output_cost_per_token: is missing; expected USD per token, as the provider states it",
        ),
        (
            {"input_cost_per_token": None, "output_cost_per_token": None, "input_cost_per_second": 0.002},
            "input_cost_per_token: is missing: it has input_cost_per_second 0.002; expected a price by tokens",
        ),
        ({"input_cost_per_token": "1e-06"}, 'input_cost_per_token: "1e-06" will not do; expected a number'),
        (
            {"output_cost_per_token": -1e-06},
            "output_cost_per_token: is -1 USD per million tokens; expected 0, or 0.001 and more",
        ),
        (
            {"output_cost_per_token": 9e-10},
            "output_cost_per_token: is 0.0009 USD per million tokens; expected 0, or 0.001 and more",
        ),
        (
            {"search_context_cost_per_query": {"search_context_size_low": 1e-05}},
            "search_context_cost_per_query.search_context_size_low: is 0.01 USD per thousand searches; "
            "expected 0, or 0.1 and more",
        ),
        (
            {"search_context_cost_per_query": 5},
            "search_context_cost_per_query: 5 is not an object; expected an object",
        ),
        (
            {"tiered_pricing": []},
            "tiered_pricing: is not read here; expected an entry that you write by hand, with these as tiers",
        ),
    ],
)
def test_a_model_that_cannot_be_had(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """A sound one beside it is not printed, either."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"sound": SOUND, "m": SOUND | change}))
    assert refused(capsys, "sound", "m", path=path) == [f"m.{said}"]


def test_an_id_that_ansible_would_evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"{{lookup('pipe','id')}}": SOUND, "no": 1}))
    assert refused(capsys, "{{*", "no", path=path) == [
        "{{lookup('pipe','id')}}.id: \"{{lookup('pipe','id')}}\" is none that the price book takes; "
        "expected letters, digits and ._:/@~+-",
        "no: 1 is not an object; expected an object",
    ]


def test_an_id_that_yaml_takes_for_something_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    names = ["no", "On", "1e3", "5.1", "~x", "@cf/m", "m:free", "null", "openai/2025-01-01"]
    path.write_text(json.dumps(dict.fromkeys(names, SOUND)))
    book, _ = told(capsys, *names, path=path)
    ids = [*names[:-1], "2025-01-01"]
    assert [(key, model["id"]) for key, model in book.items()] == list(zip(ids, ids, strict=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "the document: is no object; expected LiteLLM's model_prices_and_context_window.json"),
        ("{", "the document: is not valid JSON"),
        ('{"m": {"mode": "chat", "mode": "chat"}}', "mode: the name stands 2 times in one object; expected each"),
    ],
)
def test_a_file_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content)
    assert refused(capsys, "m", path=path)[0].startswith(said)


def test_mistakes_of_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["price-book", str(tmp_path / "absent"), "m"]) == 1
    assert capsys.readouterr() == ("", f"{tmp_path}/absent: cannot be read: No such file or directory\n")
    assert main(["price-book", str(SAMPLE), "gpt-4o", "--day", "2026-02-30"]) == 1
    assert capsys.readouterr() == ("", "--day: '2026-02-30' is no day; expected one such as 2025-11-24\n")
