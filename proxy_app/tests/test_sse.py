"""Events out of bytes, in any slicing."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core import sse
from goproxy.core.sse import MAX_EVENT, TAIL, Event, EventReader, plain_events
from tests.slicing import one_by_one, sliced

PARTS = [b"\n", b"\r", b"\r\n", b"data:", b"data: ", b"data", b"event: x", b"event", b":", b" ", b"id: 1"]
PARTS += [b"\xef\xbb\xbf", b"\x00", b"\xf0\x9f\x8c\x8d", b"y", b"datax: 1", b"abcdefgh"]
TEXTS = st.lists(st.sampled_from(PARTS) | st.binary(max_size=4), max_size=40).map(b"".join)


def read(pieces: list[bytes]) -> list[Event]:
    """All events of a stream that came in these pieces."""
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)] + reader.end()


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"data: a\n\n", [Event(b"", b"a")]),
        (b"data:a\n\n", [Event(b"", b"a")]),
        (b"data:  a \n\n", [Event(b"", b" a ")]),
        (b"data\n\n", [Event(b"", b"")]),
        (b"data: a\ndata\ndata: b\n\n", [Event(b"", b"a\n\nb")]),
        (b"event: e\ndata: a\n\ndata: b\n\n", [Event(b"e", b"a"), Event(b"", b"b")]),
        (b"event: e\nevent: f\ndata: a\n\n", [Event(b"f", b"a")]),
        (b"event: e\n\ndata: a\n\n", [Event(b"", b"a")]),
        (b": comment\ndata: a\n:\nid: 1\nretry: 2\nother: 3\nDATA: 4\n\n", [Event(b"", b"a")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\r\n", [Event(b"", b"a"), Event(b"", b"b"), Event(b"", b"c")]),
        (b"data: a\r\ndata: b\n\r", [Event(b"", b"a\nb")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(b"", b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: \xef\xbb\xbf\x00\xff\n\n", [Event(b"", b"\xef\xbb\xbf\x00\xff")]),
        (b"data: a", [Event(b"", b"a")]),
        (b"data: a\n", [Event(b"", b"a")]),
        (b"\xef\xbb", []),
    ],
)
def test_events_are_read_as_the_standard_says(text: bytes, events: list[Event]) -> None:
    assert read([text]) == events
    assert read(one_by_one(text)) == events


@given(TEXTS)
def test_a_second_reading_of_the_standard_agrees(text: bytes) -> None:
    events: list[Event] = []
    name, data = b"", None
    for line in [*re.split(rb"\r\n|\r|\n", text.removeprefix(b"\xef\xbb\xbf")), b""]:
        field, _, value = line.partition(b":")
        if not line:
            if data is not None:
                events.append(Event(name, data))
            name, data = b"", None
        elif field == b"data":
            data = value.removeprefix(b" ") if data is None else data + b"\n" + value.removeprefix(b" ")
        elif field == b"event":
            name = value.removeprefix(b" ")
    assert read([text]) == events


@given(sliced(TEXTS))
def test_every_slicing_gives_the_same(pieces: list[bytes]) -> None:
    assert read(pieces) == read([b"".join(pieces)]) == read(one_by_one(b"".join(pieces)))


@given(sliced(TEXTS))
def test_every_slicing_gives_the_same_at_the_bound(pieces: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sse, "MAX_EVENT", 12)
        patch.setattr(sse, "TAIL", 9)
        events = read(pieces)
        assert events == read([b"".join(pieces)]) == read(one_by_one(b"".join(pieces)))
    assert all(len(event.data) <= 12 for event in events)


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"data: %b\n\ndata: b\n\n" % (b"a" * (MAX_EVENT - 6)), [Event(b"", b"a" * (MAX_EVENT - 6)), Event(b"", b"b")]),
        (b"data: %b\n\ndata: b\n\n" % (b"a" * (MAX_EVENT - 5)), [Event(b"", b"a" * TAIL, False), Event(b"", b"b")]),
        (b"event: e\ndata: a\n" + b"data: aa\n" * (MAX_EVENT // 3 + 1) + b"\ndata: b\n\n", None),
        (b"event: %b\ndata: a\n\ndata: b\n\n" % (b"e" * MAX_EVENT), [Event(b"", b"e" * TAIL, False), Event(b"", b"b")]),
        (b":%b\ndata: b\n\n" % (b" " * 2 * MAX_EVENT), [Event(b"", b"b")]),
    ],
)
def test_what_is_too_long_is_skipped_to_its_end(text: bytes, events: list[Event] | None) -> None:
    events = events or [Event(b"e", b"", False), Event(b"", b"b")]
    assert read([text]) == events
    assert read([text[at : at + 70_001] for at in range(0, len(text), 70_001)]) == events


@pytest.mark.parametrize(
    "piece", [b"x" * 65536, b"data: " + b"x" * 65530, b"data: %b\n" % (b"x" * 65529), b"data:\r" * 999]
)
def test_an_endless_line_or_event_takes_no_more_memory_than_the_bound(piece: bytes) -> None:
    reader = EventReader()
    tracemalloc.start()
    for _ in range(400):
        reader.feed(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * MAX_EVENT


LINES = st.sampled_from(
    ["data: a", "data: ", "data:b", "data", "event: e", "event:", ": c", "id: 1", "", "", "event: data: x"]
)


@given(st.lists(LINES, max_size=9), st.booleans())
def test_plain_events_are_read_as_the_reader_reads_them(lines: list[str], ends: bool) -> None:
    """Or left to it."""
    data = "\n".join([*lines, "", ""] if ends else lines).encode()
    plain = plain_events(data)
    if plain is not None:
        assert [Event(name, content) for name, content in plain] == EventReader().feed(data)


def test_the_events_of_a_provider_are_plain() -> None:
    assert plain_events(b'event: ping\ndata: {"type": "ping"}\n\ndata: [DONE]\n\n') == [
        (b"ping", b'{"type": "ping"}'),
        (b"", b"[DONE]"),
    ]
