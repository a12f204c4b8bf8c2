"""What is particular to the meter of the Messages protocol: the official client agrees, and it knows its end."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core.anthropic_meter import AnthropicMeter
from goproxy.core.meter import Reading
from goproxy.core.usage import MAX_TOKENS, Usage, cache_writes
from tests.streams import (
    ANTHROPIC_STREAMS,
    MESSAGE_STOP,
    OVERLOADED,
    Answer,
    anthropic_event,
    anthropic_message,
    anthropic_stream,
    message_delta,
    message_start,
    text_block,
)

START = {"input_tokens": 9, "output_tokens": 1}


def read(*pieces: bytes, stream: bool = True) -> Reading:
    """What a meter reads from these pieces, before the end."""
    meter = AnthropicMeter(stream=stream)
    for piece in pieces:
        meter.feed(piece)
    return meter.reading()


BEYOND_THE_CLIENT = ("broken events", "data over many lines", "unknown events", "a prompt of nothing")
"""What this meter reads past, and the official client does not."""


@pytest.mark.parametrize(
    "answer",
    [each for each in ANTHROPIC_STREAMS if each.exact and not each.name.startswith(BEYOND_THE_CLIENT)],
    ids=str,
)
def test_the_official_client_reads_the_same_counts(answer: Answer) -> None:
    def send(_: httpx2.Request) -> httpx2.Response:
        # The client splits at two ends of line of the same kind, and takes no byte order mark.
        body = answer.body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body + b"\n\n")

    client = Anthropic(api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(send)))
    with client.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}]) as stream:
        usage = stream.get_final_message().usage
    told = read(answer.body).raw_usage
    assert told is not None
    assert usage.input_tokens == told["input_tokens"]
    assert usage.output_tokens == told["output_tokens"]
    assert usage.cache_read_input_tokens == told.get("cache_read_input_tokens")


def test_usage_is_final_with_a_stop_reason_or_the_stop() -> None:
    whole = anthropic_stream(START, {"output_tokens": 3}, {"output_tokens": 5}, {"output_tokens": 7})
    read_by_event = [read(*whole[: count + 1]) for count in range(len(whole))]
    usages = [reading.usage and reading.usage.output for reading in read_by_event]
    assert usages == [1] * (len(whole) - 4) + [3, 5, 7, 7]
    assert [reading.exact for reading in read_by_event] == [False] * (len(whole) - 2) + [True, True]
    assert [reading.ended for reading in read_by_event] == [False] * (len(whole) - 1) + [True]


def test_the_stop_ends_a_stream_that_gave_no_reason() -> None:
    stream = (message_start(START), message_delta({"output_tokens": 7}, None))
    assert not read(*stream).exact
    assert read(*stream, MESSAGE_STOP).exact


def test_a_stop_that_cannot_be_read_is_none() -> None:
    assert not read(message_start(START), b"event: message_stop\ndata: oops\n\n").ended


@pytest.mark.parametrize(
    ("category", "words", "flags"),
    [
        ("cyber", (), ("refused_unbilled",)),
        (None, (), ("refused_unbilled",)),
        (["bio"], (), ("refused_unbilled",)),
        ("bio", (), ()),
        ("cyber", ("I ",), ()),
    ],
)
def test_a_refusal_before_any_output_is_flagged_where_it_is_not_billed(
    category: Any, words: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    usage = {"input_tokens": 412, "output_tokens": len(words)}
    details = {"type": "refusal", "category": category, "explanation": "x"}
    blocks = text_block(words) if words else ()
    delta = {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    end = anthropic_event("message_delta", delta=delta, usage={"output_tokens": len(words)})
    streamed = read(message_start({**usage, "output_tokens": 0}), *blocks, end, MESSAGE_STOP)
    meter = AnthropicMeter(stream=False)
    content = [{"type": "text", "text": word} for word in words]
    meter.feed(anthropic_message(usage, content=content, stop_reason="refusal", stop_details=details))
    meter.end()
    for reading in (streamed, meter.reading()):
        assert (reading.exact, reading.flags) == (True, flags)
        assert reading.usage == Usage(input=412, output=len(words))


def test_an_error_keeps_what_was_told() -> None:
    told = read(message_start(START), *text_block(), message_delta({"output_tokens": 5}, None), OVERLOADED)
    assert (told.usage, told.exact, told.error) == (Usage(input=9, output=5), False, "overloaded_error")


def test_an_error_that_quotes_an_event_of_content_is_an_error() -> None:
    quoting = {"type": "overloaded_error", "message": 'at {"type":"content_block_delta"}'}
    assert read(anthropic_event("error", error=quoting)).error == "overloaded_error"


def test_content_with_an_error_in_it_is_read_alike_however_it_comes() -> None:
    block = anthropic_event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
    spoiled = block.replace(b'"text":"a"', b'"text"data: {"error":{}}')
    stream = b"".join(anthropic_stream(START, {"output_tokens": 7})).replace(block, spoiled) + spoiled
    assert read(stream) == read(*[stream[at : at + 1] for at in range(len(stream))])
    assert "unparsed_event" in read(stream).flags


def test_a_second_error_changes_nothing() -> None:
    other = anthropic_event("error", error={"type": "api_error", "message": ""})
    assert read(OVERLOADED, other).error == "overloaded_error"


def test_the_type_in_the_data_says_what_an_event_is() -> None:
    start = message_start(START).replace(b"event: message_start", b"event: content_block_delta")
    assert read(start).usage == Usage(input=9, output=1)


def test_usage_beside_what_looks_like_a_content_block_is_read() -> None:
    delta = message_delta({"output_tokens": 7}).replace(
        b'"stop_sequence":null', b'"stop_sequence":"content_block_delta"'
    )
    assert read(message_start(START), delta).usage == Usage(input=9, output=7)


def test_usage_in_a_content_block_is_content() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "n", "input": {"usage": {"output_tokens": 99}}}
    block = anthropic_event("content_block_start", index=0, content_block=tool)
    told = read(
        message_start(START), block, anthropic_event("content_block_delta", index=0, usage={"output_tokens": 99})
    )
    assert told.usage == Usage(input=9, output=1)


@pytest.mark.parametrize("kind", [b"content_block_de\x87lta", b"content_block_delta2", b"content_block_delt"])
def test_what_only_begins_like_content_is_read_the_same_alone_and_in_one_piece(kind: bytes) -> None:
    block = text_block()
    other = block[2].replace(b'"content_block_delta"', b'"%b"' % kind)
    events = [message_start(START), *block[:3], other, *block[3:]]
    meter = AnthropicMeter(stream=True)
    for event in events:
        meter.feed(event)
        meter.usage()  # this reads it
    assert meter.reading() == read(b"".join(events))


@given(st.integers(0, 50) | st.none(), st.integers(0, 50) | st.none(), st.integers(0, 50) | st.none())
def test_cache_writes_come_to_their_total(total: int | None, short: int | None, long: int | None) -> None:
    flags: set[str] = set()
    for_5m, for_1h = cache_writes(total, short, long, flags)
    parts = (short or 0) + (long or 0)
    assert for_5m >= 0 <= for_1h
    assert for_5m + for_1h == (parts if total is None else total)
    assert for_1h <= (long or 0)
    assert flags == (
        set()
        if total is None or total == parts
        else {"cache_write_split_assumed"}
        if total > parts
        else {"total_mismatch"}
    )


@pytest.mark.parametrize(
    ("field", "value", "flags"),
    [
        ("server_tool_use", {"web_search_requests": 0, "web_fetch_requests": None}, ()),
        ("server_tool_use", {"web_search_requests": 0, "web_fetch_requests": 1}, ()),
        ("server_tool_use", {"web_search_requests": 0, "code_execution_requests": 1}, ("server_tool_use",)),
        ("server_tool_use", {"web_search_requests": "1"}, ("invalid_usage",)),
        ("server_tool_use", 3, ("server_tool_use",)),
        ("output_tokens_details", {"thinking_tokens": 8}, ("total_mismatch",)),
        ("iterations", [{"type": "message", "input_tokens": 3}], ()),
        ("iterations", [{"type": "fallback_message"}], ("other_model_usage",)),
        ("iterations", [{"type": "compaction", "input_tokens": -1}, 7, None, {}], ("invalid_usage",)),
        ("iterations", {"type": "compaction"}, ()),
    ],
)
def test_what_may_change_the_price_is_flagged(field: str, value: Any, flags: tuple[str, ...]) -> None:
    usage = {"input_tokens": 9, "output_tokens": 7, field: value}
    meter = AnthropicMeter(stream=False)
    meter.feed(anthropic_message(usage))
    meter.end()
    told = meter.reading()
    assert told.flags == flags
    assert told.usage == Usage(input=9, output=7, reasoning=7 if field == "output_tokens_details" else 0)


def test_terms_are_told_by_the_last_word() -> None:
    start = START | {"service_tier": "priority", "inference_geo": "us", "speed": "fast"}
    told = read(message_start(start), message_delta({"output_tokens": 7, "speed": "standard", "inference_geo": None}))
    assert told.terms == {"service_tier": "priority", "inference_geo": "us", "speed": "standard"}
    assert read(message_start(START | {"service_tier": ["priority"], "speed": 2})).terms == {}


def test_terms_are_read_of_usage_that_is_too_long_to_be_kept() -> None:
    told = read(message_start(START | {"speed": "fast", "more": "x" * 70_000}))
    assert ("raw_usage_trimmed" in told.flags, told.terms) == (True, {"speed": "fast"})


def test_compactions_are_replaced_and_not_added_from_event_to_event() -> None:
    def delta(*inputs: int) -> bytes:
        iterations = [{"type": "compaction", "input_tokens": count, "output_tokens": 1} for count in inputs]
        return message_delta({"output_tokens": 7, "iterations": iterations})

    told = read(message_start(START), delta(100), delta(100, 200), message_delta({"output_tokens": 7}), MESSAGE_STOP)
    assert told.usage == Usage(input=9 + 300, output=7 + 2)


def test_compactions_that_come_to_more_than_any_request_are_no_count() -> None:
    compaction = {"type": "compaction", "input_tokens": MAX_TOKENS // 2 + 1, "output_tokens": 1}
    for count, times, flags in ((1, 1, ()), (2, 1, ("invalid_usage",))):
        delta = message_delta({"output_tokens": 7, "iterations": [compaction] * count})
        told = read(message_start(START), delta, MESSAGE_STOP)
        assert told.flags == flags
        assert told.usage == Usage(input=9 + times * (MAX_TOKENS // 2 + 1), output=7 + times)


@pytest.mark.parametrize(
    ("iterations", "writes", "flags"),
    [
        ([{"short": 10}, {"long": 5}], (10, 5), ()),
        ([{"short": 10}, {"long": 4}], (15, 0), ("cache_write_split_assumed",)),  # they are not of this total
        ([{"short": 10}, {"long": 5, "total": 9}], (15, 0), ("cache_write_split_assumed",)),  # nor a sum themselves
        ([{"short": -1}, {"long": 15}], (15, 0), ("cache_write_split_assumed",)),
        ([], (15, 0), ("cache_write_split_assumed",)),
    ],
)
def test_iterations_tell_for_how_long_they_wrote(
    iterations: list[dict[str, int]], writes: tuple[int, int], flags: tuple[str, ...]
) -> None:
    told = [
        {
            "type": "message",
            "cache_creation_input_tokens": of.get("total", sum(of.values())),
            "cache_creation": {
                "ephemeral_5m_input_tokens": of.get("short", 0),
                "ephemeral_1h_input_tokens": of.get("long", 0),
            },
        }
        for of in iterations
    ]
    usage = {"output_tokens": 7, "cache_creation_input_tokens": 15, "iterations": told}
    seen = read(message_start(START), message_delta(usage), MESSAGE_STOP)
    assert (seen.usage, seen.flags) == (Usage(9, *writes, 0, 7), flags)


def test_a_number_with_a_fraction_is_kept_as_it_was_written_wherever_it_stands() -> None:
    delta = message_delta({"output_tokens": 7, "iterations": [{"type": "message", "costs": [{"usd": 0.25}]}]})
    told = read(message_start(START), delta.replace(b"0.25", b"0.250"), MESSAGE_STOP)
    assert told.raw_usage is not None
    assert told.raw_usage["iterations"] == [{"type": "message", "costs": [{"usd": "0.250"}]}]
    assert (told.exact, told.flags) == (True, ())
