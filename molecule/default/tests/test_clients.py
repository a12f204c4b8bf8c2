"""What a user's programs see: the official Python clients, unmodified but for base URL, CA and key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import anthropic
import openai
import pytest
from witness.connection import Connection
from witness.edge import Edge
from witness.provider import Provider, sent_by
from witness.specification import OHMYGPT, OPENHANDS, Upstream
from witness.user import ANTHROPIC_PATH, MODEL, OPENAI_PATH, RESPONSES_PATH, User, body, marker

Providers = Mapping[str, Provider]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPERATORS_HEADERS = (
    "anthropic-ratelimit-",
    "anthropic-organization-id",
    "openai-organization",
    "x-ratelimit-",
    "set-cookie",
)


def question(content: str) -> list[Any]:
    """Give the messages of a request."""
    return [{"role": "user", "content": content}]


# --- anthropic, through both domains


def test_anthropic_client_gets_a_message(upstream: Upstream, user: User, providers: Providers) -> None:
    """The text and the usage are the provider's."""
    content = marker()
    message = user.anthropic(upstream.domain).messages.create(model=MODEL, max_tokens=500, messages=question(content))
    received = providers[upstream.name].received(content)
    assert message.model_dump(mode="json", exclude_unset=True) == json.loads(sent_by(received))
    assert message.usage.output_tokens == received["usage"]["output_tokens"]
    assert message.model == MODEL


def test_anthropic_client_streams_a_message(upstream: Upstream, user: User, providers: Providers) -> None:
    """Word by word, and the sum is the whole message with its final usage."""
    content = marker()
    client = user.anthropic(upstream.domain)
    with client.messages.stream(model=MODEL, max_tokens=500, messages=question(content)) as stream:
        words = list(stream.text_stream)
        message = stream.get_final_message()
    received = providers[upstream.name].received(content)
    assert message.content[0].type == "text"
    assert "".join(words) == message.content[0].text
    assert message.usage.output_tokens == received["usage"]["output_tokens"] == len(words)
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_anthropic_client_uses_a_tool(upstream: Upstream, streaming: bool, user: User, providers: Providers) -> None:
    """The model calls the tool, gets its result, and answers in words."""
    client, content = user.anthropic(upstream.domain), marker()
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 500,
        "messages": question(f"What is the weather in Hà Nội? {content}"),
        "tools": [{"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER}],
    }
    if streaming:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    call = message.content[-1]
    assert message.stop_reason == call.type == "tool_use"
    assert (call.name, list(call.input)) == ("weather", ["city"])
    assert providers[upstream.name].received(content)["body"]["tools"] == asked["tools"]

    result = [{"type": "tool_result", "tool_use_id": call.id, "content": "31 °C"}]
    turns = [{"role": "assistant", "content": message.content}, {"role": "user", "content": result}]
    answered = client.messages.create(**{**asked, "messages": [*asked["messages"], *turns]})
    assert answered.stop_reason == "end_turn"


def test_anthropic_client_sends_a_system_prompt(upstream: Upstream, user: User, providers: Providers) -> None:
    """A system prompt in blocks, with a cache mark, reaches the provider as it is and comes back as usage."""
    content = marker()
    system = [{"type": "text", "text": "You are kind.", "cache_control": {"type": "ephemeral"}}]
    message = user.anthropic(upstream.domain).messages.create(
        model=MODEL,
        max_tokens=500,
        system=system,  # type: ignore[arg-type]
        messages=question(content),
    )
    assert providers[upstream.name].received(content)["body"]["system"] == system
    assert (message.usage.cache_creation_input_tokens or 0) > 0


def test_anthropic_client_counts_tokens(upstream: Upstream, user: User) -> None:
    """The count is the one that a message's usage has."""
    client = user.anthropic(upstream.domain)
    counted = client.messages.count_tokens(model=MODEL, messages=question("one two three"))
    used = client.messages.create(model=MODEL, max_tokens=5, messages=question("one two three"))
    assert counted.input_tokens == used.usage.input_tokens > 3


def test_anthropic_client_may_send_its_key_as_a_bearer_token(
    upstream: Upstream, connection: Connection, edge: Edge
) -> None:
    """As Claude Code does with ANTHROPIC_AUTH_TOKEN."""
    client = anthropic.Anthropic(
        base_url=f"https://{upstream.domain}", auth_token=connection.api_key, http_client=edge.client(), max_retries=0
    )
    assert client.messages.create(model=MODEL, max_tokens=5, messages=question("Hello")).content


def test_anthropic_client_lists_the_models(upstream: Upstream, user: User) -> None:
    """The catalogue of the domain, in the shape that the client understands."""
    models = {model.display_name for model in user.anthropic(upstream.domain).models.list()}
    assert models >= upstream.models


# --- openai, through chat.trollllm.xyz


def test_openai_client_gets_a_completion(user: User, providers: Providers) -> None:
    """The text and the usage are the provider's."""
    content = marker()
    completion = user.openai(OPENHANDS.domain).chat.completions.create(model=MODEL, messages=question(content))
    received = providers["openhands"].received(content)
    assert (received["host"], received["path"]) == (OPENHANDS.provider_host, OPENAI_PATH)
    assert completion.model_dump(mode="json", exclude_unset=True) == json.loads(sent_by(received))


def test_openai_client_streams_a_completion(user: User, providers: Providers) -> None:
    """Word by word, with the usage at the end where it was asked for."""
    content = marker()
    chunks = list(
        user.openai(OPENHANDS.domain).chat.completions.create(
            model=MODEL, messages=question(content), stream=True, stream_options={"include_usage": True}
        )
    )
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == len(words)
    assert chunks[-1].usage.model_dump(exclude_unset=True) == providers["openhands"].received(content)["usage"]


def test_openai_client_streams_without_usage_where_none_was_asked_for(user: User) -> None:
    """No chunk without choices: some clients index choices[0]."""
    chunks = user.openai(OPENHANDS.domain).chat.completions.create(model=MODEL, messages=question("Hello"), stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_openai_client_calls_a_function(user: User) -> None:
    """The arguments are whole JSON."""
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    completion = user.openai(OPENHANDS.domain).chat.completions.create(
        model=MODEL, messages=question("What is the weather?"), tools=[tool]
    )
    calls: Any = completion.choices[0].message.tool_calls
    assert list(json.loads(calls[0].function.arguments)) == ["city"]


def test_openai_client_gets_a_response(user: User, providers: Providers) -> None:
    """The text and the usage are the provider's."""
    content = marker()
    response = user.openai(OPENHANDS.domain).responses.create(model=MODEL, input=question(content))
    received = providers["openhands"].received(content)
    assert (received["host"], received["path"]) == (OPENHANDS.provider_host, RESPONSES_PATH)
    assert response.model_dump(mode="json", exclude_unset=True) == json.loads(sent_by(received))


def test_openai_client_streams_responses_and_uses_a_tool(user: User, providers: Providers) -> None:
    """As Codex does: nothing is stored, and the conversation goes along with each turn."""
    client, asked, result = user.openai(OPENHANDS.domain), question("What is the weather in Hà Nội?"), marker()
    tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
    with client.responses.stream(model=MODEL, input=asked, tools=[tool], store=False) as stream:
        call: Any = stream.until_done().get_final_response().output[-1]
    assert (call.type, list(json.loads(call.arguments))) == ("function_call", ["city"])

    told = {name: getattr(call, name) for name in ("type", "call_id", "name", "arguments")}
    turns: Any = [*asked, told, {"type": "function_call_output", "call_id": call.call_id, "output": f"31 °C {result}"}]
    with client.responses.stream(model=MODEL, input=turns, tools=[tool], store=False) as stream:
        words = [event.delta for event in stream if event.type == "response.output_text.delta"]
        answered = stream.get_final_response()
    assert "".join(words) == answered.output_text
    assert answered.usage
    assert answered.usage.output_tokens == providers["openhands"].received(result)["usage"]["output_tokens"]


def test_openai_client_is_told_in_openais_shape_that_ohmygpt_has_no_openai_endpoint(
    user: User, providers: Providers
) -> None:
    """Through chat2.trollllm.xyz: 404, an error object that the client understands, and no request to the provider."""
    with pytest.raises(openai.NotFoundError) as refused:
        user.openai(OHMYGPT.domain).chat.completions.create(model=MODEL, messages=question("Hello"))
    assert_openai_shape(refused.value)
    assert "ohmygpt" in str(refused.value)
    assert providers["ohmygpt"].requests() == []


# --- every byte, and at once


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize(
    ("chosen", "path"),
    [
        (OPENHANDS, ANTHROPIC_PATH),
        (OHMYGPT, ANTHROPIC_PATH),
        (OPENHANDS, OPENAI_PATH),
        (OPENHANDS, RESPONSES_PATH),
    ],
    ids=["openhands-anthropic", "ohmygpt-anthropic", "openhands-openai", "openhands-responses"],
)
def test_bytes_at_the_client_equal_bytes_sent_by_the_provider(
    chosen: Upstream, path: str, streaming: bool, user: User, providers: Providers
) -> None:
    """And bytes at the provider equal bytes sent by the client: odd spaces, unknown fields, every character."""
    content = marker()
    asked = body(
        f'Größe 流れ "{content}"', stream=streaming, stream_options={"include_usage": True}, not_known=[1.50, None]
    )
    if path != OPENAI_PATH or not streaming:
        del asked["stream_options"]
    if path == RESPONSES_PATH:
        asked["input"], asked["max_output_tokens"] = asked.pop("messages"), asked.pop("max_tokens")
    sent = json.dumps(asked, indent=3, ensure_ascii=False).encode() + b"\n"
    with user.http.stream(
        "POST", f"https://{chosen.domain}{path}", content=sent, headers=credentials(user, path)
    ) as answer:
        arrived = b"".join(answer.iter_raw())
    received = providers[chosen.name].received(content)
    assert answer.status_code == 200
    assert arrived == sent_by(received)
    assert (received["received_bytes"], received["received_sha256"]) == (len(sent), hashlib.sha256(sent).hexdigest())


def test_first_event_reaches_the_client_before_the_provider_has_sent_its_last(
    upstream: Upstream, user: User, providers: Providers
) -> None:
    """Through nginx and TLS: each event comes when it is sent, not when the answer is complete.

    The provider falls silent after ten events, and goes on only when the client has all of them.
    """
    content, provider = marker(), providers[upstream.name]
    provider.behave_towards(content, events=20, gap_ms=20, fault="stall", after=10)
    with user.stream(upstream.domain, body(content, stream=True)) as answer:
        pieces, arrived = answer.iter_raw(), b""
        while arrived.count(b"\n\n") < 10:
            arrived += next(pieces)
        so_far = provider.so_far(content)
        assert so_far["ended"] is None
        assert arrived == sent_by(so_far)
        provider.release(content)
        arrived += b"".join(pieces)
    assert arrived.count(b"\n\n") == 26
    assert arrived == sent_by(provider.received(content))


def test_headers_of_the_clients_request_reach_the_provider_and_the_operators_do_not_come_back(
    upstream: Upstream, user: User, providers: Providers, connection: Connection
) -> None:
    """anthropic-beta and anthropic-version arrive as they were; of keys, each side sees its own only."""
    content = marker()
    beta = "fine-grained-tool-streaming-2025-05-14,interleaved-thinking-2025-05-14"
    answer = user.post(upstream.domain, ANTHROPIC_PATH, body(content), {"anthropic-beta": beta})
    received = providers[upstream.name].received(content)
    assert received["headers"]["anthropic-beta"] == beta
    assert received["headers"]["anthropic-version"] == "2023-06-01"
    assert connection.secrets[upstream.name] in " ".join(received["headers"].values())
    assert connection.api_key not in str(received)
    assert not [name for name in answer.headers if name.startswith(OPERATORS_HEADERS)]
    assert answer.headers["x-request-id"]


# --- refusals that the clients understand


@pytest.mark.parametrize("key", ["tg-not-a-key", "sk-ant-something-else"])
def test_wrong_key_is_an_authentication_error(upstream: Upstream, key: str, user: User, providers: Providers) -> None:
    """401, in the shape of the client's own API, before any provider is asked."""
    with pytest.raises(anthropic.AuthenticationError) as refused:
        user.anthropic(upstream.domain, key).messages.create(model=MODEL, max_tokens=5, messages=question("Hello"))
    assert_anthropic_shape(refused.value, "authentication_error")
    with pytest.raises(openai.AuthenticationError) as unknown:
        user.openai(upstream.domain, key).chat.completions.create(model=MODEL, messages=question("Hello"))
    assert_openai_shape(unknown.value)
    assert providers[upstream.name].requests() == []


def test_unknown_model_is_not_found(upstream: Upstream, user: User, providers: Providers) -> None:
    """404 that names the model, before any provider is asked."""
    with pytest.raises(anthropic.NotFoundError, match="claude-none") as refused:
        user.anthropic(upstream.domain).messages.create(model="claude-none", max_tokens=5, messages=question("Hello"))
    assert_anthropic_shape(refused.value, "not_found_error")
    with pytest.raises(openai.NotFoundError) as unknown:
        user.openai(upstream.domain).chat.completions.create(model="claude-none", messages=question("Hello"))
    assert_openai_shape(unknown.value)
    assert providers[upstream.name].requests() == []


def test_oversize_body_is_too_large(upstream: Upstream, user: User, providers: Providers) -> None:
    """413 for a body over 32 MiB, while one just below it passes."""
    client = user.anthropic(upstream.domain)
    with pytest.raises(anthropic.APIStatusError) as refused:
        client.messages.create(model=MODEL, max_tokens=5, messages=question("x" * (33 << 20)))
    assert refused.value.status_code == 413
    assert_anthropic_shape(refused.value, "request_too_large")
    assert providers[upstream.name].requests() == []
    assert client.messages.create(model=MODEL, max_tokens=5, messages=question("x" * (31 << 20))).content


def test_a_provider_that_cannot_be_reached_is_a_server_error(user: User, providers: Providers) -> None:
    """Of the 5xx family, in the shape of the client's own API, so that the client may try again."""
    providers["openhands"].behave(fault="refuse")
    with pytest.raises(anthropic.InternalServerError) as refused:
        user.anthropic(OPENHANDS.domain).messages.create(model=MODEL, max_tokens=5, messages=question("Hello"))
    assert_anthropic_shape(refused.value)
    with pytest.raises(openai.InternalServerError) as unreachable:
        user.openai(OPENHANDS.domain).chat.completions.create(model=MODEL, messages=question("Hello"))
    assert_openai_shape(unreachable.value)


def test_a_providers_own_refusal_arrives_as_it_is(upstream: Upstream, user: User, providers: Providers) -> None:
    """Status, body and retry-after are the provider's: the client waits as long as it was told."""
    content = marker()
    providers[upstream.name].behave_towards(content, fault="status", status=429, headers={"retry-after": "7"})
    answer = user.ask(upstream.domain, content)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.content == sent_by(providers[upstream.name].received(content))


def credentials(user: User, path: str) -> dict[str, str]:
    """Give the key as the clients of that path send it."""
    if path == ANTHROPIC_PATH:
        return {**user.headers, "content-type": "application/json"}
    return {"authorization": f"Bearer {user.api_key}", "content-type": "application/json"}


def assert_anthropic_shape(refused: anthropic.APIStatusError, kind: str | None = None) -> None:
    """The body is Anthropic's error object."""
    shape: Any = refused.body
    assert shape["type"] == "error"
    assert kind in (None, shape["error"]["type"])
    assert shape["error"]["message"]


def assert_openai_shape(refused: openai.APIStatusError) -> None:
    """The body is OpenAI's error object; the client gives what stands in `error`."""
    shape: Any = refused.body
    assert set(shape) >= {"message", "type", "param", "code"}
    assert shape["message"]
