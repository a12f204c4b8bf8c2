"""What is particular to the meter of chat completions: the official client agrees, and it knows its end."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from goproxy.core import openai_meter
from goproxy.core.meter import Reading
from goproxy.core.openai_meter import OpenAIMeter
from goproxy.core.pricing import Tier, cost
from goproxy.core.usage import Usage
from tests.streams import (
    DONE,
    OPENAI_STREAMS,
    Answer,
    openai_choice,
    openai_chunk,
    openai_completion,
    openai_content,
    openai_stream,
    openai_usage,
)


def read(*pieces: bytes, stream: bool = True) -> Reading:
    """What a meter reads from these pieces, before the end of a stream or after that of a body."""
    meter = OpenAIMeter(stream=stream)
    for piece in pieces:
        meter.feed(piece)
    if not stream:
        meter.end()
    return meter.reading()


@pytest.mark.parametrize("answer", [answer for answer in OPENAI_STREAMS if answer.exact], ids=str)
def test_the_official_client_reads_the_same_counts(answer: Answer) -> None:
    def send(_: httpx2.Request) -> httpx2.Response:
        body = answer.body.removeprefix(b"\xef\xbb\xbf")
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    client = OpenAI(api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(send)))
    with client.chat.completions.create(model="m", messages=[], stream=True) as stream:
        *_, usage = (chunk.usage for chunk in stream if chunk.usage)
    told = read(answer.body).usage
    assert told is not None
    if not answer.flags:
        assert (told.prompt, told.output) == (usage.prompt_tokens, usage.completion_tokens)
        assert usage.total_tokens in (None, told.prompt + told.output)
    details = usage.prompt_tokens_details
    if details and details.cached_tokens is not None:
        assert told.cache_read == details.cached_tokens


def test_usage_is_final_in_a_chunk_without_choices() -> None:
    whole = openai_stream(openai_usage(9, 7))
    assert [read(*whole[: count + 1]).exact for count in range(len(whole))] == [False] * (len(whole) - 2) + [True, True]


def test_usage_beside_a_choice_is_final_when_the_stream_is_done() -> None:
    last = openai_chunk([openai_choice("stop")], usage=openai_usage(9, 7))
    assert not read(*openai_content(), last).exact
    assert read(*openai_content(), last, DONE).exact


def test_what_groq_tells_unasked_is_the_usage() -> None:
    last = openai_chunk([openai_choice("stop")], x_groq={"id": "req_1", "usage": openai_usage(9, 7)})
    told = read(openai_chunk([openai_choice()], x_groq={"id": "req_1"}), *openai_content()[:-1], last, DONE)
    assert (told.exact, told.usage) == (True, Usage(input=9, output=7))
    asked = openai_chunk([], usage=openai_usage(10, 8))
    assert read(*openai_content()[:-1], last, asked, DONE).usage == Usage(input=10, output=8)


STOP = openai_chunk([openai_choice("stop")])
WITH_STOP = openai_chunk([openai_choice("stop")], usage=openai_usage(9, 7))
BESIDE_NOTHING = openai_chunk([openai_choice()], usage=openai_usage(9, 7))
MORE = openai_chunk([openai_choice(content="more")])


@pytest.mark.parametrize(
    ("events", "exact"),
    [
        ((*openai_content()[:-1], WITH_STOP), True),
        ((*openai_content()[:-1], WITH_STOP.replace(b'"finish_reason":', b'"finish_reason": ')), True),
        ((*openai_content(), BESIDE_NOTHING), True),
        ((*openai_content()[:-1], STOP, b": a comment\n\n", BESIDE_NOTHING), True),
        ((*openai_content()[:-1], BESIDE_NOTHING, STOP), False),
        ((*openai_content()[:-1], BESIDE_NOTHING), False),
        ((*openai_content(['"finish_reason":"stop"'])[:-1], BESIDE_NOTHING), False),
        ((*openai_content()[:-1], WITH_STOP, MORE), False),
        ((*openai_content()[:-1], WITH_STOP, MORE, WITH_STOP), True),
    ],
)
def test_usage_of_a_finished_answer_is_final_when_the_body_ends_without_done(
    events: tuple[bytes, ...], exact: bool
) -> None:
    """Perplexity sends usage with every chunk, and no `[DONE]`."""
    for pieces in (events, [b"".join(events)]):
        meter = OpenAIMeter(stream=True)
        for piece in pieces:
            meter.feed(piece)
        assert not meter.reading().exact
        meter.end()
        told = meter.reading()
        assert (told.exact, told.ended, "final_usage_missing" in told.flags) == (exact, False, not exact)


def test_content_after_the_usage_makes_it_stale_until_it_is_told_again() -> None:
    usage = openai_chunk(usage=openai_usage(9, 7))
    more = openai_chunk([openai_choice(content="more")])
    assert read(usage).exact
    told = read(usage, more, DONE)
    assert (told.exact, told.flags) == (False, ("content_after_usage", "final_usage_missing"))
    told = read(usage, more, openai_chunk(usage=openai_usage(9, 8)), DONE)
    assert (told.exact, told.flags, told.usage) == (True, (), Usage(input=9, output=8))


def test_an_end_without_content_after_the_usage_changes_nothing() -> None:
    last = openai_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    for usage in (openai_chunk(usage=openai_usage(9, 7)), BESIDE_NOTHING):
        for pieces in ((*openai_content()[:-1], usage, last, DONE), (usage, last, DONE)):
            told = read(*pieces)
            assert (told.exact, told.flags, told.usage) == (True, (), Usage(input=9, output=7))
            assert read(b"".join(pieces)) == told
    assert read(openai_chunk(usage=openai_usage(9, 7)), last).exact, "it is final before the end, too"


@given(
    *(st.integers(0, 30) | st.none() for _ in range(3)),
    st.integers(0, 60),
    st.integers(0, 30),
    st.integers(0, 30),
    st.booleans(),
)
def test_the_kinds_come_to_the_counts_that_were_told(
    cached: int | None,
    written: int | None,
    reasoning: int | None,
    prompt: int,
    completion: int,
    off: int,
    has_total: bool,
) -> None:
    usage = openai_usage(
        prompt,
        completion,
        prompt + completion + off,
        prompt_tokens_details={"cached_tokens": cached, "cache_write_tokens": written},
        completion_tokens_details={"reasoning_tokens": reasoning},
    )
    if not has_total:
        del usage["total_tokens"]
    told = read(openai_completion(usage), stream=False)
    assert told.usage is not None
    assert told.exact == bool(told.usage.prompt and told.usage.output)
    assert ("zero_usage" in told.flags) != told.exact
    assert (told.usage.cache_read, told.usage.cache_write_5m) == (cached or 0, written or 0)
    assert ("cache_write_split_assumed" in told.flags) == bool(written)
    if not {*told.flags} - {"zero_usage", "cache_write_split_assumed"}:
        assert (told.usage.prompt, told.usage.output) == (prompt, completion)
        assert told.usage.reasoning == (reasoning or 0)
    elif "total_mismatch" not in told.flags:
        assert told.usage.prompt + told.usage.output == usage["total_tokens"]


@pytest.mark.parametrize("before", [b"data: ", b"data:", b": a comment\ndata: ", b"event: x\ndata: "])
@pytest.mark.parametrize("choices", [b"", b'"choices":[],'])
def test_content_after_the_usage_is_seen_whatever_event_told_it(before: bytes, choices: bytes) -> None:
    """And however the stream was cut: all of it may be read at once."""
    usage = b'%b{%b"usage":{"prompt_tokens":9,"completion_tokens":7}}\n\n' % (before, choices)
    content = openai_content(("x",))
    pieces = [*content, usage, *content, DONE]
    assert read(b"".join(pieces)) == read(*pieces)
    assert read(*pieces).flags == ("content_after_usage", "final_usage_missing")


@pytest.mark.parametrize("beside", [(), (openai_choice(content="x"),)])
def test_content_behind_usage_and_a_comment_in_one_piece_is_seen(beside: tuple[dict[str, Any], ...]) -> None:
    usage = openai_chunk(beside, usage=openai_usage(9, 7))
    pieces = [*openai_content(), usage, b": ping\n\n", openai_chunk([openai_choice(content="more")]), DONE]
    assert read(b"".join(pieces)) == read(*pieces)
    told = read(pieces[0], b"".join(pieces[1:]))
    assert (told.exact, told.flags) == (False, ("content_after_usage", "final_usage_missing"))


@pytest.mark.parametrize(
    ("details", "usage", "flags"),
    [
        ({"cache_read_input_tokens": 10}, Usage(input=90, cache_read=10, output=7), ()),
        (
            {"cache_read_input_tokens": 10, "prompt_tokens_details": {"cached_tokens": 0}},
            Usage(input=100, output=7),
            ("total_mismatch",),
        ),
        (
            {"cache_creation_input_tokens": 10, "prompt_tokens_details": {"cache_write_tokens": 0}},
            Usage(input=100, output=7),
            ("total_mismatch",),
        ),
        (
            {"cache_creation": {"ephemeral_1h_input_tokens": 5}, "prompt_tokens_details": {"cache_write_tokens": 5}},
            Usage(95, 0, 5, 0, 7),
            (),
        ),
        ({"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}, Usage(input=100, output=7), ()),
        (
            {"cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}},
            Usage(93, 3, 4, 0, 7),
            (),
        ),
        (
            {"prompt_tokens_details": {"cache_creation_tokens": 5}},
            Usage(95, 5, 0, 0, 7),
            ("cache_write_split_assumed",),
        ),
        (
            {"prompt_tokens_details": {"cache_write_tokens": 5}},
            Usage(95, 5, 0, 0, 7),
            ("cache_write_split_assumed",),
        ),
        ({"prompt_tokens_details": {"cache_write_tokens": 0}}, Usage(input=100, output=7), ()),
        ({"cached_tokens": 10}, Usage(input=90, cache_read=10, output=7), ()),  # Moonshot
        (
            {"prompt_cache_hit_tokens": 10, "prompt_cache_miss_tokens": 90},  # DeepSeek
            Usage(input=90, cache_read=10, output=7),
            (),
        ),
        (
            {  # DashScope
                "prompt_tokens_details": {
                    "cached_tokens": 10,
                    "cache_creation_input_tokens": 5,
                    "cache_creation": {"ephemeral_5m_input_tokens": 5},
                    "cache_type": "ephemeral",
                }
            },
            Usage(85, 5, 0, 10, 7),
            (),
        ),
        (
            {"prompt_tokens_details": {"cache_creation": {"ephemeral_1h_input_tokens": 5}}},
            Usage(95, 0, 5, 0, 7),
            (),
        ),
        ({"prompt_tokens_details": []}, Usage(input=100, output=7), ()),
        ({"completion_tokens_details": {"reasoning_tokens": 5}}, Usage(input=100, output=7, reasoning=5), ()),
        ({"completion_tokens_details": {"reasoning_tokens": 8}}, Usage(100, 0, 0, 0, 7, 7), ("total_mismatch",)),
        ({"completion_tokens_details": {"audio_tokens": 2}}, Usage(input=100, output=7), ("audio_tokens",)),
        ({"completion_tokens_details": {"image_tokens": 2}}, Usage(input=100, output=7), ("image_tokens",)),
        ({"completion_tokens_details": {"image_tokens": 0}}, Usage(input=100, output=7), ()),
        ({"server_tool_use": {"web_search_requests": 1}}, Usage(input=100, output=7, web_search=1), ()),
        ({"server_tool_use": {"other_requests": 1}}, Usage(input=100, output=7), ("server_tool_use",)),
        ({"prompt_tokens_details": {"web_search_requests": 2}}, Usage(input=100, output=7, web_search=2), ()),
        ({"num_search_queries": 3}, Usage(input=100, output=7, web_search=3), ()),
        (
            {"num_search_queries": 3, "prompt_tokens_details": {"web_search_requests": 2}},
            Usage(input=100, output=7, web_search=3),
            (),
        ),
        ({"num_search_queries": "2"}, Usage(input=100, output=7), ("invalid_usage",)),
        (
            {"citation_tokens": 50, "reasoning_tokens": 4, "num_search_queries": 3},  # Perplexity
            Usage(input=150, output=11, reasoning=4, web_search=3),
            ("reasoning_beside_output",),
        ),
        ({"reasoning_tokens": 8}, Usage(input=100, output=15, reasoning=8), ("reasoning_beside_output",)),
        ({"reasoning_tokens": 7}, Usage(input=100, output=7), ()),  # who knows whether it is in them
        ({"citation_tokens": None, "reasoning_tokens": None}, Usage(input=100, output=7), ()),
        (
            {"citation_tokens": 50, "reasoning_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 5}},
            Usage(input=100, output=7, reasoning=5),
            (),
        ),
        ({"citation_tokens": 225}, Usage(input=100, output=7), ()),  # LiteLLM's, of every answer of Perplexity's
        ({"reasoning_tokens": 0.0, "citation_tokens": ""}, Usage(input=100, output=7), ("invalid_usage",)),
    ],
)
def test_details_are_parts_whatever_they_are_called(
    details: dict[str, Any], usage: Usage, flags: tuple[str, ...]
) -> None:
    told = read(openai_completion(openai_usage(100, 7, **details)), stream=False)
    assert (told.usage, told.flags) == (usage, flags)


def test_what_deep_research_reads_and_thinks_is_charged() -> None:
    """Perplexity's published example, which cost 0.816 USD: neither stands in the total."""
    told = read(
        openai_completion(
            {
                **openai_usage(33, 11_395, 11_428),
                "citation_tokens": 19_028,
                "num_search_queries": 21,
                "reasoning_tokens": 193_947,
                "cost": {"reasoning_tokens_cost": 0.582, "total_cost": 0.816},
            }
        ),
        stream=False,
    )
    assert told.usage == Usage(input=19_061, output=205_342, reasoning=193_947, web_search=21)
    assert (told.exact, told.flags) == (True, ("reasoning_beside_output",))
    prices = {"input": Decimal(2), "output": Decimal(8), "reasoning": Decimal(3), "web_search": Decimal(5)}
    assert cost(told.usage, Tier(None, prices), Decimal(1)) == 816_123_000


INCOMPLETE = ("incomplete_usage", "part_by_total")


@pytest.mark.parametrize(
    ("told", "usage", "flags"),
    [
        ('"prompt_tokens":100000.0,"completion_tokens":50,"total_tokens":100050', (100_000, 50), INCOMPLETE),
        ('"completion_tokens":50,"total_tokens":100050', (100_000, 50), INCOMPLETE),
        ('"prompt_tokens":100000,"total_tokens":100050', (100_000, 50), INCOMPLETE),
        ('"prompt_tokens":100000,"completion_tokens":"50","total_tokens":100050', (100_000, 50), INCOMPLETE),
        ('"prompt_tokens":60,"total_tokens":50', (60, 0), INCOMPLETE),
        ('"prompt_tokens":60,"completion_tokens":5,"total_tokens":65.0', (60, 5), ()),
        ('"total_tokens":50', (0, 0), ("incomplete_usage",)),
    ],
)
def test_a_total_stands_in_for_the_one_part_that_was_not_told(
    told: str, usage: tuple[int, int], flags: tuple[str, ...]
) -> None:
    """And says nothing of reasoning then."""
    reading = read(openai_completion("X").replace(b'"X"', f"{{{told}}}".encode()), stream=False)
    assert reading.usage == Usage(input=usage[0], output=usage[1])
    assert ({*reading.flags} - {"invalid_usage"}, reading.exact) == ({*flags}, False)


@pytest.mark.parametrize(
    ("tier", "terms"),
    [
        ("default", {"service_tier": "default"}),
        ("scale", {"service_tier": "scale"}),
        (None, {}),
        (7, {}),
    ],
)
def test_the_service_tier_is_read(tier: Any, terms: dict[str, str]) -> None:
    for usage in (openai_usage(9, 7), openai_usage(9, 7) | {"service_tier": "of a gateway"}):
        told = terms or ({"service_tier": "of a gateway"} if "service_tier" in usage else {})
        assert read(*openai_stream(usage, service_tier=tier)).terms == told
        assert read(openai_completion(usage, service_tier=tier), stream=False).terms == told


def test_what_a_gateway_passes_on_of_anthropics_terms_is_read() -> None:
    usage = openai_usage(9, 7) | {"speed": "fast", "inference_geo": "us"}
    assert read(*openai_stream(usage)).terms == {"speed": "fast", "inference_geo": "us"}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b'data: {"error":{"message":"m","type":"server_error","code":"c"}}\n\n', "server_error"),
        (b'data: {"error":{"message":"m","type":null,"code":"rate_limit"}}\n\n', "rate_limit"),
        (b'data: {"error":"secret prompt"}\n\n', "error"),
        (b'data: {"object":"error","message":"m","type":"BadRequestError","code":400}\n\n', "BadRequestError"),
        (b'event: error\ndata: {"message":"m"}\n\n', "error"),
        (openai_chunk([openai_choice("error")], error={"code": 502, "message": "m"}), "502"),
        (openai_chunk([openai_choice("stop")], error=None), None),
    ],
)
def test_errors_are_seen(event: bytes, error: str | None) -> None:
    assert read(*openai_content(), event).error == error


def test_a_long_piece_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each event has a word in it that keeps it from being put aside."""
    looked_at = 0

    class Counting:
        def search(self, data: bytes, *span: int) -> re.Match[bytes] | None:
            nonlocal looked_at
            looked_at += (span[1] - span[0]) if span else len(data)
            return found(data, *span)

    found = openai_meter._TELLS_USAGE.search
    monkeypatch.setattr(openai_meter, "_TELLS_USAGE", Counting())
    meter = OpenAIMeter(stream=True)
    piece = b'data: {"choices":[],"error":null}\n\n: a comment\n\n' * 1000
    meter.feed(openai_chunk([]))
    meter.reading()
    meter.feed(piece)
    meter.reading()
    assert looked_at < 2 * len(piece)


def test_the_model_is_the_first_that_is_named() -> None:
    nameless = [openai_chunk(model="")] * 3
    assert read(*nameless, openai_chunk(model="a"), openai_chunk(model="b")).model == "a"
    assert read(*[openai_chunk([openai_choice(content="x")], model="")] * 20, openai_chunk(model="a")).model is None


def test_arguments_of_tools_and_several_choices_are_content() -> None:
    chunk = openai_chunk(
        [
            openai_choice(tool_calls=[{"index": 0, "function": {"arguments": '{"x":'}}], function_call=None),
            {**openai_choice(content="abc", reasoning_content="de", reasoning=None), "index": 1},
        ]
    )
    assert read(chunk).generated_bytes == len('{"x":' + "abc" + "de")
