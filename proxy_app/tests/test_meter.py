"""What holds for the meters of all protocols."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy.core.meter import FLAGS, MAX_BODY, Meter, Reading
from goproxy.core.protocols import ANTHROPIC, OPENAI, PROTOCOLS, RESPONSES
from goproxy.core.sse import MAX_EVENT
from goproxy.core.usage import Usage
from goproxy.core.wire import WireProtocol
from tests.provider import ANTHROPIC_EVENTS, OPENAI_EVENTS
from tests.slicing import one_by_one, sliced
from tests.streams import (
    ANSWERS,
    GENERATED,
    MESSAGE_STOP,
    STREAMS,
    WORDS,
    Answer,
    anthropic_message,
    anthropic_stream,
    message_delta,
    message_start,
    openai_chunk,
    openai_completion,
    openai_content,
    openai_stream,
    openai_usage,
    response,
    responses_body,
    responses_content,
    responses_event,
    responses_stream,
    text_block,
)

EACH = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)


BODIES = {"anthropic": anthropic_message, "openai": openai_completion, "responses": responses_body}


def usage_of(protocol: WireProtocol, prompt: int, output: int) -> dict[str, Any]:
    """A usage object with these counts."""
    return openai_usage(prompt, output) if protocol is OPENAI else {"input_tokens": prompt, "output_tokens": output}


def reading(protocol: WireProtocol, pieces: list[bytes], *, stream: bool = True, ends: bool = True) -> Reading:
    """What a meter reads from these pieces."""
    meter = protocol.meter(stream=stream)
    for piece in pieces:
        meter.feed(piece)
    if ends:
        meter.end()
    return meter.reading()


def true_reading(answer: Answer, told: Reading) -> Reading:
    """What is true of an answer; the raw usage is compared elsewhere."""
    return Reading(
        usage=answer.usage,
        raw_usage=told.raw_usage,
        exact=answer.exact,
        ended=answer.ended,
        error=answer.error,
        flags=answer.flags,
        terms=told.terms,
        model=answer.model,
        generated_bytes=answer.generated_bytes,
        searches=answer.searches,
    )


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_the_truth_is_read(answer: Answer) -> None:
    protocol = PROTOCOLS[answer.protocol]
    told = reading(protocol, [answer.body], stream=answer.stream)
    assert told == true_reading(answer, told)
    assert reading(protocol, list(answer.pieces), stream=answer.stream) == told
    assert reading(protocol, one_by_one(answer.body), stream=answer.stream) == told


@pytest.mark.parametrize("answer", STREAMS, ids=str)
def test_what_is_called_exact_is_the_truth_wherever_the_stream_is_cut(answer: Answer) -> None:
    meter = PROTOCOLS[answer.protocol].meter(stream=True)
    generated = 0
    for byte in one_by_one(answer.body):
        meter.feed(byte)
        told = meter.reading()
        assert not told.exact or told.usage == answer.usage or answer.name in FINAL_TWICE
        assert told.generated_bytes >= generated
        generated = told.generated_bytes
    assert generated == answer.generated_bytes


FINAL_TWICE = ("usage twice, the later holds", "content after the usage", "a prompt of nothing after one of something")
"""Streams whose upstream says its final word more than once."""

PIECES = [piece for answer in STREAMS for piece in answer.pieces]
JUNK = st.binary(max_size=30) | st.sampled_from([b"data: ", b"\n\n", b"\r", b"event: error\n", b'"usage":{', b"}}"])
STREAM = st.lists(st.sampled_from(PIECES) | JUNK, max_size=12).map(b"".join)


@EACH
@given(pieces=sliced(STREAM), ends=st.booleans())
def test_every_slicing_reads_the_same(protocol: WireProtocol, pieces: list[bytes], ends: bool) -> None:
    told = reading(protocol, pieces, ends=ends)
    assert told == reading(protocol, [b"".join(pieces)], ends=ends)
    assert is_sound(told)


def the_long_way(protocol: WireProtocol, pieces: list[bytes], *, ends: bool) -> Reading:
    """What is read when no event is set aside unread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(protocol.meter(stream=True)), "_set_content_aside", lambda _, data, __: data)
        return reading(protocol, pieces, ends=ends)


@EACH
@pytest.mark.parametrize("kept", [1, 100, 1000])
@settings(max_examples=60)
@given(pieces=sliced(STREAM), ends=st.booleans())
def test_what_is_set_aside_unread_changes_nothing(
    protocol: WireProtocol, kept: int, pieces: list[bytes], ends: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goproxy.core.meter._UNREAD", kept)
        patch.setattr("goproxy.core.meter._UNCOUNTED", kept)
        told = reading(protocol, pieces, ends=ends)
    assert told == the_long_way(protocol, [b"".join(pieces)], ends=ends)


@pytest.mark.parametrize("kept", [1, 100, 1000])
@pytest.mark.parametrize("answer", STREAMS, ids=str)
def test_the_truth_is_read_however_much_is_read_at_once(
    answer: Answer, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goproxy.core.meter._UNREAD", kept)
    monkeypatch.setattr("goproxy.core.meter._UNCOUNTED", kept)
    told = reading(PROTOCOLS[answer.protocol], list(answer.pieces))
    assert told == true_reading(answer, told)


@pytest.mark.parametrize("protocol", [ANTHROPIC, OPENAI])
def test_plain_content_is_set_aside(protocol: WireProtocol, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else the tests above would compare the long way with itself."""
    meter = protocol.meter(stream=True)
    seen: list[bytes] = []
    monkeypatch.setattr(meter, "_leave_uncounted", seen.append)
    events = ANTHROPIC_EVENTS if protocol is ANTHROPIC else OPENAI_EVENTS
    meter.feed(b"".join(events))
    meter.end()
    assert seen == [b"".join(events[3:5]) if protocol is ANTHROPIC else events[1]]


@EACH
@settings(max_examples=40)
@given(pieces=sliced(STREAM))
def test_every_slicing_reads_the_same_at_the_bound(protocol: WireProtocol, pieces: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goproxy.core.sse.MAX_EVENT", 120)
        told = reading(protocol, pieces)
        assert told == reading(protocol, [b"".join(pieces)]) == reading(protocol, one_by_one(b"".join(pieces)))
    assert is_sound(told)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("input_tokens", "output_tokens", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
        *("cache_creation", "cache_creation_input_tokens", "ephemeral_5m_input_tokens", "prompt_tokens_details"),
        *("iterations", "type", "server_tool_use", "service_tier"),
    ]
)
USAGE = st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON, max_size=3), max_size=5) | JSON
EVENT = st.dictionaries(
    st.sampled_from(
        ["type", "usage", "message", "delta", "error", "choices", "model", "object", "service_tier", "response", "item"]
    ),
    st.sampled_from(["message_start", "message_delta", "message_stop", "error", "response.completed"])
    | USAGE
    | st.just([]),
)


@EACH
@given(events=st.lists(EVENT, max_size=4), ends=st.booleans())
def test_any_json_in_any_place_is_read_or_flagged(protocol: WireProtocol, events: list[object], ends: bool) -> None:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    assert is_sound(reading(protocol, [text.encode()], ends=ends))
    for event in events:
        assert is_sound(reading(protocol, [json.dumps(event).encode()], stream=False, ends=ends))


@EACH
@given(data=st.binary(max_size=300), stream=st.booleans())
def test_any_bytes_are_read_or_flagged(protocol: WireProtocol, data: bytes, stream: bool) -> None:
    assert is_sound(reading(protocol, [data], stream=stream))


def is_sound(told: Reading) -> bool:
    """Whether a reading can be stored and priced, whatever it was read from."""
    stored = json.dumps(told.raw_usage, allow_nan=False)
    assert "\\u" not in stored
    assert set(told.flags) <= set(FLAGS)
    assert list(told.flags) == sorted(set(told.flags))
    assert not told.exact or told.usage
    for text in (told.error, told.model):
        assert text is None or (text.isprintable() and 0 < len(text) <= 100)
    if told.usage is not None:
        assert Usage.from_json(told.usage.to_json()) == told.usage
        assert told.usage.reasoning <= told.usage.output
    return True


def final(protocol: WireProtocol, usage: str) -> bytes:
    """A stream with this text for its final usage, and after that its end."""
    if protocol is ANTHROPIC:
        return message_delta({"X": 1}).replace(b'{"X":1}', usage.encode()) + MESSAGE_STOP
    if protocol is RESPONSES:
        ended = response({"X": 1}, user="chatcmpl-1")
        return responses_event("response.completed", response=ended).replace(b'{"X":1}', usage.encode())
    return openai_chunk(usage={"X": 1}).replace(b'{"X":1}', usage.encode()) + b"data: [DONE]\n\n"


NO_COUNTS = ("-1", "7.0", "7e0", "1e999", "NaN", "Infinity", '"7"', "true", "false", "[7]", "{}", "1000000001")


@pytest.mark.parametrize("number", [*NO_COUNTS, "20000001", "9" * 30, "9" * 5000])
@pytest.mark.parametrize(
    ("protocol", "field"), [(ANTHROPIC, "output_tokens"), (OPENAI, "completion_tokens"), (RESPONSES, "output_tokens")]
)
def test_what_is_no_count_is_flagged_and_the_last_good_one_stands(
    protocol: WireProtocol, field: str, number: str
) -> None:
    prompt = "prompt_tokens" if protocol is OPENAI else "input_tokens"
    good, bad = f'{{"{prompt}":9,"{field}":5}}', f'{{"{prompt}":9,"{field}":{number}}}'
    told = reading(protocol, [final(protocol, good) + final(protocol, bad)])
    assert told.usage == Usage(input=9, output=5)
    assert (told.exact, told.flags) == (False, ("invalid_usage",))
    assert is_sound(told)
    if len(number) > 20:  # no store takes such an integer
        assert told.raw_usage == {prompt: 9, field: number}
    told = reading(protocol, [final(protocol, bad) + final(protocol, good)])
    assert told.usage == Usage(input=9, output=5)
    assert (told.exact, told.flags) == (True, ("invalid_usage",))


@pytest.mark.parametrize(
    ("protocol", "field"), [(ANTHROPIC, "output_tokens"), (OPENAI, "completion_tokens"), (RESPONSES, "output_tokens")]
)
def test_the_largest_count_that_is_believed(protocol: WireProtocol, field: str) -> None:
    prompt = "prompt_tokens" if protocol is OPENAI else "input_tokens"
    told = reading(protocol, [final(protocol, f'{{"{prompt}":9,"{field}":20000000}}')])
    assert (told.usage, told.exact, told.flags) == (Usage(input=9, output=20_000_000), True, ())


@EACH
@pytest.mark.parametrize("usage", ["7", "[]", '"7"', "true", "7.5"])
def test_usage_that_is_no_object_is_flagged(protocol: WireProtocol, usage: str) -> None:
    told = reading(protocol, [final(protocol, usage)])
    assert (told.usage, told.raw_usage, told.exact) == (None, None, False)
    assert told.flags == ("final_usage_missing", "invalid_usage")


@EACH
def test_a_stream_whose_end_does_not_come_is_not_said_to_lack_its_usage(protocol: WireProtocol) -> None:
    """That it broke off is its outcome. One that HTTP says is whole came without it, whatever the protocol says."""
    cut = protocol.meter(stream=True)
    cut.feed(b'data: {"choices":[],"type":"ping"}\n\n')
    assert cut.reading().flags == ()
    cut.end()
    assert (cut.reading().ended, cut.reading().flags) == (False, ("final_usage_missing",))


@EACH
@pytest.mark.parametrize("text", [b"\xff\xfe", b"\x00", b"\x1f", b"\t"])
def test_text_that_no_json_may_have_does_not_hide_the_usage_beside_it(protocol: WireProtocol, text: bytes) -> None:
    usage = usage_of(protocol, 9, 7)
    event = final(protocol, json.dumps(usage)).replace(b'"stop_sequence":null', b'"stop_sequence":"%b"' % text)
    event = event.replace(b"chatcmpl-1", text)
    assert text in event
    told = reading(protocol, [event])
    assert (told.usage, told.exact, told.flags) == (Usage(input=9, output=7), True, ())


def test_the_raw_usage_is_merged_field_by_field() -> None:
    start = {"input_tokens": 9, "output_tokens": 1, "new_field": {"a": 1, "b": None, "c": "x"}, "cost": 0.10, "n": None}
    delta = {"output_tokens": 7, "input_tokens": None, "new_field": {"a": 2, "c": None}, "list": [1, None]}
    told = reading(ANTHROPIC, [b"".join(anthropic_stream(start, delta))])
    assert told.raw_usage == {
        "input_tokens": 9,
        "output_tokens": 7,
        "new_field": {"a": 2, "c": "x"},
        "cost": "0.1",
        "list": [1, None],
    }


def test_a_reading_does_not_change_afterwards() -> None:
    meter = ANTHROPIC.meter(stream=True)
    meter.feed(message_start({"input_tokens": 9, "cache_creation": {"ephemeral_5m_input_tokens": 1}}))
    before = meter.reading()
    meter.feed(message_delta({"input_tokens": 8, "cache_creation": {"ephemeral_5m_input_tokens": 2}}))
    assert before.raw_usage == {"input_tokens": 9, "cache_creation": {"ephemeral_5m_input_tokens": 1}}
    assert meter.reading().raw_usage == {"input_tokens": 8, "cache_creation": {"ephemeral_5m_input_tokens": 2}}


@pytest.mark.parametrize(
    "more", ['"x":"%s"' % ("x" * 70_000), '"x":"\\u0000"', '"x":"\\ud800"', '"ü":1', '"x":' + "[" * 9 + "]" * 9]
)
@EACH
def test_of_a_usage_that_cannot_be_stored_only_the_counts_are_kept(protocol: WireProtocol, more: str) -> None:
    names = ("prompt_tokens", "completion_tokens") if protocol is OPENAI else ("input_tokens", "output_tokens")
    told = reading(protocol, [final(protocol, f'{{"{names[0]}":9,"{names[1]}":7,{more}}}')])
    assert (told.usage, told.exact, told.flags) == (Usage(input=9, output=7), True, ("raw_usage_trimmed",))
    assert told.raw_usage == {names[0]: 9, names[1]: 7}


@EACH
def test_content_is_measured_and_not_parsed(protocol: WireProtocol, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    parse = Meter._parse

    def counted(self: Meter, data: bytes, flag: str) -> Mapping[str, Any] | None:
        parsed.append(data)
        return parse(self, data, flag)

    monkeypatch.setattr(Meter, "_parse", counted)
    words = ["usage error message_stop [DONE] ", *WORDS] * 100
    usage = usage_of(protocol, 9, 7)
    if protocol is ANTHROPIC:
        stream = anthropic_stream({"input_tokens": 9}, {"output_tokens": 7}, words=words)
    else:
        stream = (openai_stream if protocol is OPENAI else responses_stream)(usage, words=words)
    told = reading(protocol, list(stream))
    assert (told.usage, told.exact, told.flags) == (Usage(input=9, output=7), True, ())
    assert told.generated_bytes == sum(len(word.encode()) for word in words)
    assert len(parsed) <= 5


@EACH
def test_escaped_content_counts_as_what_it_means(protocol: WireProtocol) -> None:
    events = {"anthropic": text_block, "openai": openai_content, "responses": responses_content}[protocol.name](["X"])
    event = next(each for each in events if b'"delta"' in each and b'"X"' in each)
    escaped = event.replace(b'"X"', b'"\\u00fc\\n\\ud83c\\udf0d\\"\\\\"')
    assert reading(protocol, [escaped]).generated_bytes == 2 + 1 + 4 + 1 + 1


@EACH
def test_an_event_that_is_too_long_is_flagged_and_the_next_is_read(protocol: WireProtocol) -> None:
    usage = usage_of(protocol, 9, 7)
    told = reading(protocol, [b"data: " + b"x" * MAX_EVENT + b"\n\n" + final(protocol, json.dumps(usage))])
    assert (told.usage, told.exact, told.flags) == (Usage(input=9, output=7), True, ("oversized_event",))


@EACH
@pytest.mark.parametrize("stream", [True, False])
def test_an_endless_body_takes_no_more_memory_than_the_bound(protocol: WireProtocol, stream: bool) -> None:
    meter = protocol.meter(stream=stream)
    piece = b"{" * 65536
    tracemalloc.start()
    for _ in range(1000):
        meter.feed(piece)
    meter.end()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (5 * MAX_EVENT if stream else 3 * MAX_BODY)
    told = meter.reading()
    assert (told.usage, told.ended) == (None, False)
    assert "oversized_event" in told.flags if stream else told.flags == ("oversized_body",)


@EACH
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Bad gateway",
        b"[]",
        b"null",
        b'{"a":',
        b'{"a":}',
        b'{"a":1,}',
        gzip.compress(b"{}", mtime=0),
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_json_object_is_flagged(protocol: WireProtocol, data: bytes) -> None:
    told = reading(protocol, [data], stream=False)
    assert told == Reading(None, None, False, False, None, ("unparsed_body",), {}, None, 0)
    told = reading(protocol, [data], stream=True)
    assert told == Reading(None, None, False, False, None, ("no_event",), {}, None, 0, is_blank=not data)


@EACH
@pytest.mark.parametrize("before", [b"", b": keep-alive\n\n", b"\xef\xbb\xbf: x\r\nid: 1\r\n\r\n"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_body_in_place_of_events_is_read_as_one(protocol: WireProtocol, before: bytes, indent: int | None) -> None:
    error = json.dumps({"type": "error", "error": {"type": "new_api_error", "message": "x"}}, indent=indent).encode()
    usage = json.loads(BODIES[protocol.name](usage_of(protocol, 9, 7)))
    for slices in ([before + error], one_by_one(before + error.replace(b"\n", b"\r\n"))):
        told = reading(protocol, slices)
        assert (told.error, told.usage, told.flags, told.is_blank) == ("new_api_error", None, ("no_event",), False)
    told = reading(protocol, [before + json.dumps(usage, indent=indent).encode()])
    assert (told.usage, told.exact, told.flags) == (Usage(input=9, output=7), True, ("no_event",))
    assert reading(protocol, [error], ends=False).error is None


@EACH
def test_no_more_is_kept_of_what_is_no_event_than_may_be(protocol: WireProtocol) -> None:
    body = json.dumps({"type": "error", "error": {"type": "x", "message": ["y"] * 40_000}}, indent=1).encode()
    told = reading(protocol, [body])
    assert (told.error, told.flags, told.is_blank) == (None, ("no_event",), False)


@EACH
@pytest.mark.parametrize("data", [b": keep-alive\n\n" * 9, b"\n\n", b"id: 1\nretry: 2\n\n", b":"])
def test_comments_tell_nothing(protocol: WireProtocol, data: bytes) -> None:
    for slices in ([data], one_by_one(data)):
        assert reading(protocol, slices).is_blank
        assert not reading(protocol, slices, ends=False).is_blank
    assert not reading(protocol, [data + b"\ndata: x\n\n"]).is_blank


@EACH
def test_a_byte_order_mark_before_a_body_is_passed_over(protocol: WireProtocol) -> None:
    usage = usage_of(protocol, 9, 7)
    body = BODIES[protocol.name](usage)
    told = reading(protocol, [b"\xef\xbb\xbf" + body], stream=False)
    assert (told.usage, told.exact, told.flags) == (Usage(input=9, output=7), True, ())


LONG = "x" * MAX_BODY


@pytest.mark.parametrize("size", [1000, 100_000, 10**9])
@pytest.mark.parametrize(
    ("after", "told"),
    [
        ("", True),
        (',"x":{"usage":{"output_tokens":1,"completion_tokens":1}}', True),
        (',"x":"\\"usage\\":{\\"output_tokens\\":1}"', True),
        (',"x":"' + "x" * 40_000 + '"', True),
        (',"x":"' + "x" * 70_000 + '"', False),
    ],
)
@EACH
def test_of_a_body_that_is_too_long_the_usage_at_its_end_is_read(
    protocol: WireProtocol, after: str, told: bool, size: int
) -> None:
    usage = usage_of(protocol, 9, 7)
    body = BODIES[protocol.name](usage, words=[LONG])
    body = body.removesuffix(b"}") + after.encode() + b"}\n"
    seen = reading(protocol, [body[at : at + size] for at in range(0, len(body), size)], stream=False)
    assert (seen.usage, seen.exact, seen.flags) == (
        Usage(input=9, output=7) if told else None,
        told,
        ("oversized_body",),
    )


@pytest.mark.parametrize(
    "end",
    [
        '"}',
        '","x":[{"usage":{"prompt_tokens":9,"completion_tokens":7}}]}',
        '","x":{"usage":{"prompt_tokens":9,"completion_tokens":7}}}',
        '","\\"usage":{"prompt_tokens":9,"completion_tokens":7}}',
        '","usage":{"prompt_tokens":9,"completion_tokens":7}} x',
        '","usage":{"prompt_tokens":9,"completion_tokens":7}',
    ],
)
def test_what_only_looks_like_usage_at_the_end_is_none(end: str) -> None:
    told = reading(OPENAI, [b'{"choices":[],"content":"', LONG.encode(), end.encode()], stream=False)
    assert (told.usage, told.flags) == (None, ("oversized_body",))


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        (ANTHROPIC, anthropic_message({"input_tokens": 9, "output_tokens": 7})),
        (OPENAI, openai_completion(openai_usage(9, 7))),
    ],
)
def test_a_body_that_breaks_off_says_how_much_was_generated(protocol: WireProtocol, body: bytes) -> None:
    cut = body.index(WORDS[0].encode()) + 3
    meter = protocol.meter(stream=False)
    meter.feed(body[:cut])
    assert meter.reading() == Reading(None, None, False, False, None, (), {}, None, 3)
    meter.feed(body[cut:])
    assert meter.reading().generated_bytes == GENERATED
    assert (meter.reading().usage, meter.reading().ended) == (None, False)
    meter.end()
    assert (meter.reading().usage, meter.reading().exact) == (Usage(input=9, output=7), True)


@EACH
@pytest.mark.parametrize(
    ("told_type", "error"),
    [
        ('"overloaded_error"', "overloaded_error"),
        ('"x\\u0000y\\nz"', "xyz"),
        (json.dumps("e" * 300), "e" * 100),
        ("null", "error"),
        ('""', "error"),
        ("{}", "error"),
    ],
)
def test_the_type_of_an_error_is_a_word_that_can_be_shown(protocol: WireProtocol, told_type: str, error: str) -> None:
    body = f'{{"type":"error","error":{{"type":{told_type},"message":"secret"}}}}'.encode()
    for told in (
        reading(protocol, [body], stream=False),
        reading(protocol, [b"event: error\ndata: " + body + b"\n\n"]),
    ):
        assert (told.error, told.flags, told.exact) == (error, (), False)


@EACH
@pytest.mark.parametrize("data", [b"oops", b'{"error":}'])
def test_an_error_event_that_cannot_be_read_is_an_error(protocol: WireProtocol, data: bytes) -> None:
    told = reading(protocol, [b"event: error\ndata: " + data + b"\n\n"])
    assert (told.error, told.flags) == ("error", ("unparsed_event",))


def test_every_flag_is_explained() -> None:
    assert list(FLAGS) == sorted(FLAGS)
    assert all(text.endswith(".") for text in FLAGS.values())
