"""The official Python clients against a simulated provider, over TLS: they cannot tell it from the real one."""

from __future__ import annotations

import base64
import ssl

import anthropic
import httpx2
import openai
import pytest

import conftest
from conftest import KEY, Running

CLAUDE, GPT = conftest.MODELS
QUESTION = "how are you"


@pytest.fixture
def claude(provider: Running) -> anthropic.Anthropic:
    """Give Anthropic's client."""
    transport = httpx2.Client(verify=ssl.create_default_context(cafile=provider.ca), trust_env=False)
    return anthropic.Anthropic(api_key=KEY, base_url=provider.url, http_client=transport, max_retries=0)


@pytest.fixture
def gpt(provider: Running) -> openai.OpenAI:
    """Give OpenAI's client."""
    transport = httpx2.Client(verify=ssl.create_default_context(cafile=provider.ca), trust_env=False)
    return openai.OpenAI(api_key=KEY, base_url=f"{provider.url}/v1", http_client=transport, max_retries=0)


def test_anthropic_message(provider: Running, claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(model=CLAUDE, max_tokens=100, messages=[{"role": "user", "content": QUESTION}])
    assert message.content[0].type == "text"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (4, 12)
    record = provider.requests()[0]
    assert (record["method"], record["path"], record["status"]) == ("POST", "/v1/messages", 200)
    assert record["usage"]["output_tokens"] == 12
    assert record["complete"]


def test_anthropic_stream(claude: anthropic.Anthropic) -> None:
    question = {"role": "user", "content": QUESTION}
    with claude.messages.stream(model=CLAUDE, max_tokens=100, messages=[question]) as stream:  # type: ignore[list-item]
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text.startswith("This is openhands, a simulated provider")
    assert message.usage.output_tokens == 12
    assert message.stop_reason == "end_turn"


def test_anthropic_counts_tokens(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model=CLAUDE, messages=[{"role": "user", "content": QUESTION}])
    assert counted.input_tokens == 4


def test_anthropic_answers_carry_the_headers_of_the_operators_account(claude: anthropic.Anthropic) -> None:
    question = {"role": "user", "content": QUESTION}
    answer = claude.messages.with_raw_response.create(model=CLAUDE, max_tokens=9, messages=[question])  # type: ignore[list-item]
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["anthropic-organization-id"]
    assert answer.headers["anthropic-ratelimit-input-tokens-limit"]


def test_openai_completion(gpt: openai.OpenAI) -> None:
    completion = gpt.chat.completions.create(model=GPT, messages=[{"role": "user", "content": QUESTION}])
    assert completion.usage
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 12)


def test_openai_stream(gpt: openai.OpenAI) -> None:
    chunks = list(
        gpt.chat.completions.create(
            model=GPT,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("This is openhands")
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 16


def test_openai_response(gpt: openai.OpenAI) -> None:
    response = gpt.responses.create(model=GPT, input=QUESTION, instructions="be kind")
    assert response.output_text.startswith("This is openhands")
    assert response.usage
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 12)


def test_openai_response_stream(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(model=GPT, input=QUESTION) as stream:
        words = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert "".join(words) == response.output_text
    assert response.usage
    assert (response.status, response.usage.output_tokens) == ("completed", len(words))


def test_errors_are_those_of_the_real_apis(claude: anthropic.Anthropic, gpt: openai.OpenAI) -> None:
    with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
        claude.with_options(api_key="wrong").messages.create(model=CLAUDE, max_tokens=1, messages=[])
    with pytest.raises(anthropic.NotFoundError, match="model: none"):
        claude.messages.create(model="none", max_tokens=1, messages=[{"role": "user", "content": QUESTION}])
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        gpt.with_options(api_key="wrong").chat.completions.create(model=GPT, messages=[])
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        gpt.chat.completions.create(model="none", messages=[{"role": "user", "content": QUESTION}])
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        gpt.responses.create(model="none", input=QUESTION)
    with pytest.raises(openai.BadRequestError, match="Missing required parameter: 'input'"):
        gpt.responses.create(model=GPT)
    with pytest.raises(anthropic.ContentTooLargeError):
        claude.messages.create(model=CLAUDE, max_tokens=1, messages=[{"role": "user", "content": "x" * (33 << 20)}])


def test_the_record_holds_exactly_the_bytes_that_were_sent(provider: Running) -> None:
    asked = {"model": CLAUDE, "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    trusted = ssl.create_default_context(cafile=provider.ca)
    with httpx2.Client(verify=trusted, trust_env=False) as client:
        received = client.post(f"{provider.url}/v1/messages", json=asked, headers=headers).content
    assert base64.b64decode(provider.requests()[0]["sent"]) == received
    assert provider.requests()[0]["body"] == asked
