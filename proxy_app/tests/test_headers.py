"""Which headers pass, in each direction."""

from __future__ import annotations

import pytest

from goproxy.core.headers import AnswerHead, Headers, UnsendableHeader, to_upstream

OURS = [("Content-Type", "application/json"), ("Accept-Encoding", "identity")]


def to_client(headers: Headers) -> Headers:
    """What of an answer's headers the client gets."""
    return AnswerHead((name.encode(), value.encode(errors="surrogateescape")) for name, value in headers).to_client


def test_what_the_client_says_to_the_model_passes_in_order() -> None:
    said = [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "a,b"),
        ("anthropic-beta", "c"),
        ("User-Agent", "claude-cli/2.0"),
        ("X-Stainless-Lang", "python"),
        ("X-Unknown", "grüße\twelt"),
    ]
    assert to_upstream(said) == [*said, *OURS]


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer"),
        *("Transfer-Encoding", "Upgrade", "Host", "Content-Length", "Expect", "Cookie", "Authorization", "X-API-Key"),
        *("X-Forwarded-For", "X-Forwarded-Proto", "X-FORWARDED-HOST", "X-Real-IP", "Forwarded", "Accept-Encoding"),
        *("api-key", "x-goog-api-key", "x-litellm-api-key", "OpenAI-Organization", "OpenAI-Project"),
        *("Content-Type", "Range", "X-HTTP-Method-Override", "X-LiteLLM-Timeout", "x-litellm-num-retries"),
        *("X-Goog-FieldMask", "X-Vertex-AI-LLM-Shared-Request-Type", "X-Amzn-Bedrock-Service-Tier"),
        *("azureml-model-deployment", "x-portkey-config"),
    ],
)
def test_what_stays_on_this_side(name: str) -> None:
    assert to_upstream([(name, "v")]) == OURS


def test_what_connection_names_is_hop_by_hop_too() -> None:
    headers = [("Connection", "close, X-Hop"), ("x-hop", "1"), ("X-Stays", "1")]
    assert to_upstream(headers)[0] == ("X-Stays", "1")
    assert to_client(headers) == [("X-Stays", "1")]


@pytest.mark.parametrize("value", ["a\r\nb", "a\x00b", "a\udcffb", "\x7f"])
def test_a_header_that_would_break_the_request_is_refused_by_name(value: str) -> None:
    with pytest.raises(UnsendableHeader, match="X-Odd"):
        to_upstream([("X-Odd", value)])


def test_an_answers_headers_pass() -> None:
    said = [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Content-Length", "7"),
        ("Retry-After", "3"),
        ("retry-after-ms", "250"),
        ("x-should-retry", "true"),
        ("Content-Encoding", "gzip"),
        ("Date", "Mon, 23 Nov 2026 12:00:00 GMT"),
        ("openai-processing-ms", "12"),
        ("Vary", "Origin"),
        ("Vary", "Accept"),
    ]
    assert to_client(said) == said


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Transfer-Encoding", "Keep-Alive", "Upgrade", "Trailer", "Set-Cookie", "Server"),
        *("anthropic-organization-id", "openai-organization", "openai-project", "request-id", "x-request-id"),
        *("anthropic-ratelimit-requests-remaining", "Anthropic-RateLimit-Tokens-Reset", "x-ratelimit-limit-tokens"),
        *("anthropic-workspace-id", "anthropic-priority-input-tokens-limit", "anthropic-fast-output-tokens-limit"),
        *("x-litellm-key-spend", "x-litellm-response-cost", "llm_provider-anthropic-organization-id"),
    ],
)
def test_what_is_the_operators_own_or_hop_by_hop_is_withheld(name: str) -> None:
    assert to_client([(name, "v")]) == []


def test_an_answers_header_that_cannot_be_written_is_left_out() -> None:
    assert to_client([("X-Odd", "a\x00b"), ("X-Odd", "\udcff"), ("X-Fine", "1")]) == [("X-Fine", "1")]
