"""The one chunk that the client did not ask for is left out of its stream, and nothing else."""

from __future__ import annotations

import json
import re
import tracemalloc

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from goproxy.core.usage_chunk import MAX_HELD, UsageChunkFilter
from tests.slicing import one_by_one, sliced
from tests.streams import (
    DONE,
    OPENAI_STREAMS,
    WORDS,
    Answer,
    openai_choice,
    openai_chunk,
    openai_content,
    openai_stream,
    openai_usage,
)

USAGE = openai_chunk(usage=openai_usage(9, 7))


def passed(pieces: list[bytes]) -> bytes:
    """What passes, to the end."""
    chunks = UsageChunkFilter()
    return b"".join([*(chunks.feed(piece) for piece in pieces), chunks.end()])


def is_usage_chunk(event: bytes) -> bool:
    """Whether an event of tests/streams.py is one: said once more, for events that stand in one line."""
    try:
        chunk = json.loads(re.sub(rb"^\xef\xbb\xbf|^data: ", b"", event))
    except ValueError:
        return False
    return chunk.get("choices") == [] and bool(chunk.get("usage"))


@pytest.mark.parametrize("answer", OPENAI_STREAMS, ids=str)
def test_every_byte_but_the_usage_chunk_passes(answer: Answer) -> None:
    rest = b"".join(event for event in answer.pieces if not is_usage_chunk(event))
    assert passed([answer.body]) == rest
    assert passed(list(answer.pieces)) == rest
    assert passed(one_by_one(answer.body)) == rest


def test_there_are_streams_with_a_chunk_to_leave_out() -> None:
    assert sum(any(map(is_usage_chunk, answer.pieces)) for answer in OPENAI_STREAMS) > 10


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    "usage",
    [
        USAGE,
        USAGE.replace(b'"choices":[]', b'"choices" : [ ]'),
        USAGE.replace(b"data: ", b"event: x\nid: 1\ndata:"),
        USAGE.replace(b'"usage":', b'"usage":\ndata: '),
    ],
)
def test_it_is_left_out_however_it_is_written(usage: bytes, end: bytes) -> None:
    stream = [piece.replace(b"\n", end) for piece in (*openai_content(), usage, b": bye\n\n", DONE)]
    rest = b"".join([*stream[:-3], *stream[-2:]])
    assert passed([b"".join(stream)]) == passed(stream) == passed(one_by_one(b"".join(stream))) == rest


@pytest.mark.parametrize(
    "event",
    [
        openai_chunk(prompt_filter_results=[{"prompt_index": 0}]),
        openai_chunk(usage=None),
        openai_chunk([openai_choice(content='"choices":[],"usage":{}')]),
        openai_chunk([openai_choice("stop")], usage=openai_usage(9, 7)),
        openai_chunk(usage=openai_usage(9, 7), error={"message": "boom"}),
        USAGE.replace(b'"choices":[]', b'"choices":null'),
        USAGE.replace(b"}\n", b"\n"),
        USAGE.replace(b"data: ", b"data "),
        USAGE.replace(b"data: ", b": "),
        USAGE.replace(b'"usage"', b'"x":%b,"usage"' % (b"[" * 50_000)),
        b"\n\n\n",
        DONE,
    ],
)
def test_every_other_event_passes(event: bytes) -> None:
    assert passed([event, DONE]) == passed(one_by_one(event + DONE)) == event + DONE


def test_every_event_passes_with_its_last_byte() -> None:
    chunks = UsageChunkFilter()
    for event in (b": PROCESSING\n\n", *openai_content(), b"event: error\ndata: {}\r\n\r\n", DONE):
        assert chunks.feed(event[:3]) in (b"", event[:3])
        assert chunks.feed(event[3:]) in (event, event[3:])


def test_an_event_passes_as_soon_as_it_has_a_choice() -> None:
    chunks = UsageChunkFilter()
    event = openai_content()[1]
    at = event.index(b'"choices":[{') + len(b'"choices":[')
    assert [chunks.feed(byte) for byte in one_by_one(event[:at])] == [b""] * at
    assert chunks.feed(event[at : at + 1]) == event[: at + 1]
    assert chunks.feed(event[at + 1 :]) == event[at + 1 :]
    assert chunks.feed(USAGE) == b""
    assert chunks.feed(event[: at + 1]) == event[: at + 1]


def test_a_comment_passes_before_its_event() -> None:
    chunks = UsageChunkFilter()
    assert [chunks.feed(byte) for byte in one_by_one(b": ping\n")] == one_by_one(b": ping\n")
    assert chunks.feed(USAGE[:10]) == b""
    assert chunks.feed(USAGE[10:]) == b""


def test_an_event_that_is_too_long_passes() -> None:
    long = USAGE.replace(b'"usage":{', b'"usage":{"x":"%b",' % (b"x" * (MAX_HELD - len(USAGE) - 6)))
    assert len(long) == MAX_HELD + 1  # one of its bytes is the empty line's
    assert passed([long]) == passed(one_by_one(long)) == b""
    long = long.replace(b"x", b"xx", 1)
    assert passed([long]) == passed(one_by_one(long)) == long


def test_an_endless_event_is_not_kept() -> None:
    chunks = UsageChunkFilter()
    piece = b'data: {"x":' + b" " * 10_000
    tracemalloc.start()
    assert sum(len(chunks.feed(piece)) for _ in range(1000)) == 1000 * len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MAX_HELD


def test_what_was_held_back_passes_when_the_stream_breaks_off() -> None:
    assert passed([USAGE[:-20]]) == USAGE[:-20]
    assert passed([USAGE[:-2]]) == b""


PARTS = [*openai_stream(openai_usage(9, 7), WORDS[:1]), USAGE, USAGE[:40], USAGE[40:], b"\n", b"\r", b"\r\n", b": x"]
PARTS += [piece.replace(b"\n", b"\r\n") for piece in PARTS[:4]] + [b"data: ", b"x", b"\xef\xbb\xbf"]


@given(sliced(st.lists(st.sampled_from(PARTS), max_size=10).map(b"".join)))
def test_every_slicing_passes_the_same(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert passed(pieces) == passed([whole]) == passed(one_by_one(whole))


@given(sliced(st.binary(max_size=200)))
def test_any_other_bytes_pass(pieces: list[bytes]) -> None:
    assert passed(pieces) == b"".join(pieces)


def test_a_client_that_takes_the_first_choice_of_every_chunk_is_served() -> None:
    def send(_: httpx2.Request) -> httpx2.Response:
        body = passed(list(openai_stream(openai_usage(9, 7))))
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    client = OpenAI(api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(send)))
    with client.chat.completions.create(model="m", messages=[], stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "".join(WORDS)
