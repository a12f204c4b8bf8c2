"""The simulated model and its wire formats, without a socket: what is said, in which frames, at what usage."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from provider import anthropic, openai, responses
from provider.behaviour import Behaviour, Behaviours
from provider.model import Usage, answer, prompt_usage, words
from provider.wire import Context, Expectations, Frame, Refusal

CONTEXT = Context("req_0123456789", datetime(2026, 1, 1, tzinfo=UTC))
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}}}


def ask_anthropic(**extra: Any) -> Any:
    asked = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "how are you"}], **extra}
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    return anthropic.question(headers, json.dumps(asked).encode(), Expectations(("k",), ("m",)))


def ask_openai(**extra: Any) -> Any:
    asked = {"model": "m", "messages": [{"role": "user", "content": "how are you"}], **extra}
    return openai.question({"authorization": "Bearer k"}, json.dumps(asked).encode(), Expectations(("k",), ("m",)))


def ask_responses(**extra: Any) -> Any:
    asked = {"model": "m", "input": [{"role": "user", "content": "how are you"}], **extra}
    return responses.question({"authorization": "Bearer k"}, json.dumps(asked).encode(), Expectations(("k",), ("m",)))


def data_of(frames: list[Frame]) -> list[Any]:
    """Parse the JSON of each frame that has some."""
    lines = [line for frame in frames for line in frame.data.decode().split("\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_prompt_token_is_a_word_of_any_string_value() -> None:
    assert words({"role": "user", "content": [{"text": "three small words"}, 7, True]}) == 4


def test_the_words_of_a_marked_block_are_cache_writes() -> None:
    system = [
        {"text": "one two three", "cache_control": {"type": "ephemeral"}},
        {"text": "four five", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"text": "six"},
    ]
    assert prompt_usage(system) == Usage(input=1, cache_write_5m=4, cache_write_1h=4)


def test_an_output_token_is_a_delta_and_the_same_question_gets_the_same_words() -> None:
    first, second = (answer(ask_anthropic(), "openhands", 20, {}) for _ in range(2))
    assert first == second
    assert len(first.text) == first.usage.output == 20
    assert "".join(first.text).startswith("This is openhands, a simulated provider, answering as m:")


def test_max_tokens_ends_an_answer() -> None:
    said = answer(ask_anthropic(max_tokens=5), "openhands", 20, {})
    assert (said.usage.output, said.stop) == (5, "max_tokens")


def test_a_behaviour_replaces_single_numbers_of_the_usage() -> None:
    assert answer(ask_anthropic(), "openhands", 20, {"cache_read": 100}).usage == Usage(4, cache_read=100, output=20)


def test_anthropic_stream_has_the_events_in_their_order() -> None:
    events = data_of(anthropic.stream(answer(ask_anthropic(), "openhands", 3, {}), CONTEXT))
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["output_tokens"] == 1
    assert events[-2]["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 3,
    }


def test_anthropic_calls_a_tool_with_input_that_its_schema_accepts() -> None:
    asked = ask_anthropic(tools=[{"name": "weather", "input_schema": WEATHER}])
    events = data_of(anthropic.stream(answer(asked, "openhands", 12, {}), CONTEXT))
    pieces = [event["delta"]["partial_json"] for event in events if "partial_json" in event.get("delta", {})]
    assert json.loads("".join(pieces))["unit"] == "celsius"
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_anthropic_answers_in_words_once_the_tool_has_its_result() -> None:
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "21"}]}
    asked = ask_anthropic(tools=[{"name": "weather", "input_schema": WEATHER}], messages=[result])
    assert answer(asked, "openhands", 12, {}).stop == "end"


def test_anthropic_thinks_when_asked_to() -> None:
    whole = anthropic.whole(answer(ask_anthropic(thinking={"type": "enabled"}), "openhands", 12, {}), CONTEXT)
    assert [block["type"] for block in whole["content"]] == ["thinking", "text"]
    assert whole["usage"]["output_tokens"] == 12


def test_stream_and_whole_answer_say_the_same() -> None:
    said = answer(ask_anthropic(), "openhands", 15, {})
    events = data_of(anthropic.stream(said, CONTEXT))
    streamed = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert streamed == anthropic.whole(said, CONTEXT)["content"][0]["text"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        ({}, b"{}", 401, "x-api-key header is required"),
        ({"x-api-key": "other"}, b"{}", 401, "invalid x-api-key"),
        ({"authorization": "Bearer k"}, b"{}", 400, "anthropic-version: header is required"),
        ({"x-api-key": "k", "anthropic-version": "v"}, b"[", 400, "not valid JSON"),
        ({"x-api-key": "k", "anthropic-version": "v"}, b"{}", 400, "model: Field required"),
        ({"x-api-key": "k", "anthropic-version": "v"}, b'{"model":"m","messages":[{}]}', 400, "max_tokens"),
        (
            {"x-api-key": "k", "anthropic-version": "v"},
            b'{"model":"x","messages":[{}],"max_tokens":1}',
            404,
            "model: x",
        ),
    ],
)
def test_anthropic_refuses_as_the_real_api(headers: dict[str, str], body: bytes, status: int, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        anthropic.question(headers, body, Expectations(("k",), ("m",)))
    assert refused.value.status == status
    assert isinstance(refused.value.body, dict)
    assert message in refused.value.body["error"]["message"]


def test_openai_stream_ends_with_the_usage_only_where_it_was_asked_for() -> None:
    plain = openai.stream(answer(ask_openai(), "openhands", 3, {}), CONTEXT)
    asking = openai.stream(answer(ask_openai(stream_options={"include_usage": True}), "openhands", 3, {}), CONTEXT)
    assert plain[-1].data == asking[-1].data == b"data: [DONE]\n\n"
    assert not any("usage" in chunk for chunk in data_of(plain))
    assert [chunk["usage"] for chunk in data_of(asking)[:-1]] == [None] * (len(asking) - 2)
    last = data_of(asking)[-1]
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (4, 3)


def test_openai_counts_cached_tokens_as_prompt_tokens() -> None:
    used = openai.usage(Usage(input=10, cache_read=5, output=2))
    assert (used["prompt_tokens"], used["total_tokens"]) == (15, 17)
    assert used["prompt_tokens_details"]["cached_tokens"] == 5


def test_openai_calls_a_function() -> None:
    asked = ask_openai(tools=[{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}])
    whole = openai.whole(answer(asked, "openhands", 12, {}), CONTEXT)
    call = whole["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])["unit"]) == ("weather", "celsius")


def test_responses_tell_the_whole_answer_and_its_usage_in_the_last_event() -> None:
    said = answer(ask_responses(instructions="be kind"), "openhands", 3, {"cache_read": 2})
    events = data_of(responses.stream(said, CONTEXT))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == responses.whole(said, CONTEXT)
    used = events[-1]["response"]["usage"]
    assert (used["input_tokens"], used["input_tokens_details"]["cached_tokens"], used["output_tokens"]) == (8, 2, 3)


def test_responses_that_reach_their_limit_are_incomplete() -> None:
    said = answer(ask_responses(max_output_tokens=2), "openhands", 9, {})
    assert data_of(responses.stream(said, CONTEXT))[-1]["type"] == "response.incomplete"
    assert responses.whole(said, CONTEXT)["incomplete_details"] == {"reason": "max_output_tokens"}


def test_responses_call_a_function_until_it_has_its_result() -> None:
    tools = [{"type": "function", "name": "weather", "parameters": WEATHER}]
    said = answer(ask_responses(tools=tools), "openhands", 12, {})
    *_, call = responses.whole(said, CONTEXT)["output"]
    assert (call["name"], json.loads(call["arguments"])["unit"]) == ("weather", "celsius")
    events = data_of(responses.stream(said, CONTEXT))
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call["arguments"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "21"}
    assert ask_responses(tools=tools, input=[call, result]).tool is None


def test_a_held_stream_waits_behind_its_last_delta() -> None:
    tools = [{"type": "function", "name": "weather", "parameters": WEATHER}]
    parts = [frame.part for frame in responses.stream(answer(ask_responses(tools=tools), "v", 12, {}), CONTEXT)]
    assert "delta" not in parts[parts.index("end") :]


def test_an_exception_holds_for_the_requests_it_matches_and_is_used_up() -> None:
    behaviours = Behaviours(Behaviour(events=5))
    behaviours.add_exception({"match": "marker", "times": 2, "events": 50})
    assert behaviours.choose(b"other").events == 5
    assert [behaviours.choose(b"a marker").events for _ in range(3)] == [50, 50, 5]


@pytest.mark.parametrize("settings", [{"evnets": 3}, {"fault": "explode"}])
def test_a_wrong_setting_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown .*; there are: "):
        Behaviour().changed(settings)
