"""Answers of all protocols in every shape that usage comes in, with the true usage beside each.

What is true is written by hand, from the rules of the protocols: no code of goproxy was asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from goproxy.core.usage import Usage

OPUS = "claude-opus-4-5-20251101"
WORDS = ("Grü", "ße ", "\U0001f30d", ' "usage": {"output_tokens": 1} ', "a\\b\n\tc")
"""Content of two, three and four bytes a character, with escapes, and with what looks like usage but is none."""

GENERATED = sum(len(word.encode()) for word in WORDS)


@dataclass(frozen=True)
class Answer:
    """An answer as it comes, and what is true of it."""

    name: str
    protocol: str
    pieces: tuple[bytes, ...]
    """The events of a stream, each with the empty line that ends it; or the one piece of a JSON body."""

    usage: Usage | None
    """What the provider bills."""

    stream: bool = True
    exact: bool = True
    ended: bool = True
    flags: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    """Flags of the terms that it tells, where there is no price for them."""
    error: str | None = None
    model: str | None = OPUS
    generated_bytes: int = GENERATED
    searches: int = 0
    """Those that are seen to begin."""

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)

    def __str__(self) -> str:
        return f"{self.protocol}: {self.name}"


def _json(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def anthropic_event(name: str, **fields: Any) -> bytes:
    """One event of the Messages protocol."""
    return f"event: {name}\ndata: {_json({'type': name, **fields})}\n\n".encode()


def message_start(usage: Mapping[str, Any] | None, model: str = OPUS) -> bytes:
    """The first event."""
    head = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": model}
    return anthropic_event("message_start", message={**head, "stop_reason": None, "usage": usage})


def message_delta(usage: Mapping[str, Any] | None, stop_reason: str | None = "end_turn") -> bytes:
    """The event that has the cumulative usage."""
    return anthropic_event("message_delta", delta={"stop_reason": stop_reason, "stop_sequence": None}, usage=usage)


def text_block(words: Iterable[str] = WORDS) -> tuple[bytes, ...]:
    """The events of one block of text."""
    return (
        anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        anthropic_event("ping"),
        *(
            anthropic_event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in words
        ),
        anthropic_event("content_block_stop", index=0),
    )


MESSAGE_STOP = anthropic_event("message_stop")
OVERLOADED = anthropic_event("error", error={"type": "overloaded_error", "message": "Overloaded"})


def anthropic_stream(
    start: Mapping[str, Any] | None, *deltas: Mapping[str, Any] | None, words: Iterable[str] = WORDS
) -> tuple[bytes, ...]:
    """A whole stream: what message_start tells of usage, and what each message_delta tells."""
    *early, last = deltas
    return (
        message_start(start),
        *text_block(words),
        *(message_delta(usage, None) for usage in early),
        message_delta(last),
        MESSAGE_STOP,
    )


def anthropic_message(usage: Any, words: Iterable[str] = WORDS, **fields: Any) -> bytes:
    """A JSON body."""
    content = [{"type": "text", "text": "".join(words)}]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": OPUS, "content": content}
    return _json({**message, "stop_reason": "end_turn", "usage": usage, **fields}).encode()


def openai_chunk(choices: Sequence[Mapping[str, Any]] = (), **fields: Any) -> bytes:
    """One chunk of a chat completion."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": OPUS}
    return f"data: {_json({**head, 'choices': list(choices), **fields})}\n\n".encode()


def openai_choice(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """One choice of a chunk."""
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def openai_usage(prompt: int, completion: int, total: int | None = None, **more: Any) -> dict[str, Any]:
    """A usage object; the total is right unless another is given."""
    total = prompt + completion if total is None else total
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


DONE = b"data: [DONE]\n\n"


def openai_content(words: Iterable[str] = WORDS, **fields: Any) -> tuple[bytes, ...]:
    """The chunks up to the one that has the finish_reason."""
    return (
        openai_chunk([openai_choice(role="assistant", content="")], **fields),
        *(openai_chunk([openai_choice(content=word)], **fields) for word in words),
        openai_chunk([openai_choice("stop")], **fields),
    )


def openai_stream(usage: Any, words: Iterable[str] = WORDS, **fields: Any) -> tuple[bytes, ...]:
    """A whole stream with include_usage."""
    return (*openai_content(words, usage=None, **fields), openai_chunk(usage=usage, **fields), DONE)


def openai_completion(usage: Any, words: Iterable[str] = WORDS, **fields: Any) -> bytes:
    """A JSON body."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": OPUS}
    return _json({**head, "choices": [choice], "usage": usage, **fields}).encode()


def responses_event(kind: str, **fields: Any) -> bytes:
    """One event of the Responses protocol."""
    return f"event: {kind}\ndata: {_json({'type': kind, 'sequence_number': 1, **fields})}\n\n".encode()


def response(
    usage: Any, status: str = "completed", output: Sequence[Mapping[str, Any]] = (), **fields: Any
) -> dict[str, Any]:
    """The object that streams and bodies tell."""
    head = {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None, "model": OPUS}
    more = {"incomplete_details": None, "parallel_tool_calls": True, "text": {"format": {"type": "text"}}}
    return {**head, **more, "output": list(output), "service_tier": "default", "usage": usage, **fields}


def responses_usage(prompt: int, output: int, cached: int = 0, written: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """A usage object whose total is right."""
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + output,
    }


def said(words: Iterable[str] = WORDS) -> dict[str, Any]:
    """The item of a message."""
    part = {"type": "output_text", "annotations": [], "text": "".join(words)}
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}


def searched(action: str = "search") -> dict[str, Any]:
    """The item of a search of the web."""
    return {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": action, "query": "x"}}


def responses_content(words: Iterable[str] = WORDS, more: Sequence[Mapping[str, Any]] = ()) -> tuple[bytes, ...]:
    """The events up to the one that ends the response. `more`: items beside the message."""
    words, place = tuple(words), {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "annotations": [], "text": ""}
    return (
        responses_event("response.created", response=response(None, "in_progress")),
        responses_event("response.in_progress", response=response(None, "in_progress")),
        *(
            responses_event(f"response.output_item.{step}", output_index=1, item=item)
            for item in more
            for step in ("added", "done")
        ),
        responses_event("response.output_item.added", output_index=0, item=said(()) | {"content": []}),
        responses_event("response.content_part.added", **place, part=part),
        *(
            responses_event("response.output_text.delta", **place, delta=word, logprobs=[], obfuscation="x7")
            for word in words
        ),
        responses_event("response.output_text.done", **place, text="".join(words)),
        responses_event("response.content_part.done", **place, part=part | {"text": "".join(words)}),
        responses_event("response.output_item.done", output_index=0, item=said(words)),
    )


def responses_stream(
    usage: Any,
    words: Iterable[str] = WORDS,
    more: Sequence[Mapping[str, Any]] = (),
    end: str = "completed",
    **fields: Any,
) -> tuple[bytes, ...]:
    """A whole stream."""
    words = tuple(words)
    whole = response(usage, end, (*more, said(words)), **fields)
    return (*responses_content(words, more), responses_event(f"response.{end}", response=whole))


def responses_body(usage: Any, words: Iterable[str] = WORDS, **fields: Any) -> bytes:
    """A JSON body."""
    return _json(response(usage, **({"output": [said(words)]} | fields))).encode()


def _anthropic(name: str, pieces: tuple[bytes, ...], usage: Usage | None, *flags: str, **facts: Any) -> Answer:
    return Answer(name, "anthropic", pieces, usage, flags=flags, **facts)


def _openai(name: str, pieces: tuple[bytes, ...], usage: Usage | None, *flags: str, **facts: Any) -> Answer:
    return Answer(name, "openai", pieces, usage, flags=flags, **facts)


def _responses(name: str, pieces: tuple[bytes, ...], usage: Usage | None, *flags: str, **facts: Any) -> Answer:
    return Answer(name, "responses", pieces, usage, flags=flags, **facts)


_START = {"input_tokens": 9, "output_tokens": 1}
_SPLIT = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 20}
_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_CACHED = {
    **_START,
    "cache_creation_input_tokens": 120,
    "cache_read_input_tokens": 1000,
    "cache_creation": _SPLIT,
    "service_tier": "standard",
    "inference_geo": "not_available",
}
_THINKING_AND_TOOL = (
    anthropic_event(
        "content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}
    ),
    anthropic_event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm\u00fc"}),
    anthropic_event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2lnbmF0dXJl"}),
    anthropic_event("content_block_stop", index=0),
    anthropic_event(
        "content_block_start", index=1, content_block={"type": "tool_use", "id": "t", "name": "n", "input": {}}
    ),
    anthropic_event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": '{"a":'}),
    anthropic_event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "1}"}),
    anthropic_event("content_block_stop", index=1),
)

ANTHROPIC_STREAMS: tuple[Answer, ...] = (
    _anthropic("plain", anthropic_stream(_START, {"output_tokens": 7}), Usage(input=9, output=7)),
    _anthropic(
        "cache, with its split",
        anthropic_stream(_CACHED, {"output_tokens": 7}),
        Usage(9, 100, 20, 1000, 7),
    ),
    _anthropic(
        "cumulative in every message_delta",
        anthropic_stream(_CACHED, {"output_tokens": 3}, {"output_tokens": 5}, {"input_tokens": 11, "output_tokens": 8}),
        Usage(11, 100, 20, 1000, 8),
    ),
    _anthropic(
        "message_delta repeats all counts",
        anthropic_stream(
            _CACHED,
            {**_START, "cache_creation_input_tokens": 120, "cache_read_input_tokens": 1000, "output_tokens": 8},
        ),
        Usage(9, 100, 20, 1000, 8),
    ),
    _anthropic(
        "explicit zeros replace, null does not",
        anthropic_stream(
            {**_CACHED, "cache_creation_input_tokens": None},
            {"input_tokens": 8, "output_tokens": 0, "cache_read_input_tokens": 0, "cache_creation": None},
            words=(),
        ),
        Usage(8, 100, 20, 0, 0),
        generated_bytes=0,
    ),
    _anthropic(
        "no output, though there was some",
        anthropic_stream(_START, {"output_tokens": 0}),
        Usage(input=9),
        "zero_usage",
        exact=False,
    ),
    _anthropic(
        "a prompt of nothing after one of something",
        anthropic_stream(
            _CACHED,
            {**dict.fromkeys(_PROMPT, 0), "cache_creation": dict.fromkeys(_SPLIT, 0), "output_tokens": 7},
        ),
        Usage(9, 100, 20, 1000, 7),
        "prompt_vanished",
    ),
    _anthropic(
        "a prompt that turns out to be in the cache",
        anthropic_stream(_START, {"input_tokens": 0, "output_tokens": 7, "cache_read_input_tokens": 9}),
        Usage(0, 0, 0, 9, 7),
    ),
    _anthropic(
        "cache writes grow above the known split",
        anthropic_stream(_CACHED, {"output_tokens": 7, "cache_creation_input_tokens": 150}),
        Usage(9, 130, 20, 1000, 7),
        "cache_write_split_assumed",
    ),
    _anthropic(
        "cache writes without a split",
        anthropic_stream({**_START, "cache_creation_input_tokens": 120}, {"output_tokens": 7}),
        Usage(9, 120, 0, 0, 7),
        "cache_write_split_assumed",
    ),
    _anthropic(
        "cache writes below their split",
        anthropic_stream(_CACHED, {"output_tokens": 7, "cache_creation_input_tokens": 15}),
        Usage(9, 0, 15, 1000, 7),
        "total_mismatch",
    ),
    _anthropic(
        "thinking and a tool",
        (
            message_start(_START),
            *_THINKING_AND_TOOL,
            message_delta({"output_tokens": 70, "output_tokens_details": {"thinking_tokens": 40}}, "tool_use"),
            MESSAGE_STOP,
        ),
        Usage(input=9, output=70, reasoning=40),
        generated_bytes=4 + 7,
    ),
    _anthropic(
        "server tools",
        anthropic_stream(_START, {"output_tokens": 7, "server_tool_use": {"web_search_requests": 2}}),
        Usage(input=9, output=7, web_search=2),
        unpriced=("web_search_unpriced",),
    ),
    _anthropic(
        "searches, each told anew",
        anthropic_stream(
            {**_START, "server_tool_use": {"web_search_requests": 0}},
            {"output_tokens": 3, "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0}},
            {"output_tokens": 7, "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 4}},
        ),
        Usage(input=9, output=7, web_search=3),
        unpriced=("web_search_unpriced",),
    ),
    _anthropic(
        "a tool with a fee",
        anthropic_stream(_START, {"output_tokens": 7, "server_tool_use": {"code_execution_requests": 2}}),
        Usage(input=9, output=7),
        "server_tool_use",
    ),
    _anthropic(
        "no server tool was used",
        anthropic_stream({**_START, "server_tool_use": {"web_search_requests": 0}}, {"output_tokens": 7}),
        Usage(input=9, output=7),
    ),
    _anthropic(
        "priority tier, bound to a region, fast",
        anthropic_stream(
            {**_START, "service_tier": "priority", "inference_geo": "us", "speed": "fast"}, {"output_tokens": 7}
        ),
        Usage(input=9, output=7),
        unpriced=("inference_geo_other", "service_tier_priority", "speed_other"),
    ),
    _anthropic(
        "a compaction, and an advisor of another model",
        anthropic_stream(
            _START,
            {
                "output_tokens": 7,
                "iterations": [
                    {"type": "compaction", "input_tokens": 1800, "output_tokens": 35, "cache_read_input_tokens": 5},
                    {"type": "message", "input_tokens": 9, "output_tokens": 7},
                    {"type": "advisor_message", "model": "other", "input_tokens": 1, "output_tokens": 1},
                ],
            },
        ),
        Usage(input=1809, cache_read=5, output=42),
        "other_model_usage",
    ),
    _anthropic(
        "an advisor of the same model",
        anthropic_stream(
            _START,
            {
                "output_tokens": 7,
                "iterations": [
                    {"type": "message", "input_tokens": 9, "output_tokens": 7},
                    {"type": "advisor_message", "model": OPUS, "input_tokens": 800, "output_tokens": 60},
                ],
            },
        ),
        Usage(input=809, output=67),
    ),
    _anthropic(
        "no message_stop",
        anthropic_stream(_START, {"output_tokens": 7})[:-1],
        Usage(input=9, output=7),
        ended=False,
    ),
    _anthropic(
        "cut before message_delta",
        anthropic_stream(_CACHED, {"output_tokens": 7})[:-2],
        Usage(9, 100, 20, 1000, 1),
        "final_usage_missing",
        exact=False,
        ended=False,
    ),
    _anthropic(
        "ends without message_delta",
        (message_start(_START), *text_block(), MESSAGE_STOP),
        Usage(input=9, output=1),
        "final_usage_missing",
        exact=False,
    ),
    _anthropic(
        "a message_delta without usage",
        anthropic_stream(_START, None),
        Usage(input=9, output=1),
        "final_usage_missing",
        exact=False,
    ),
    _anthropic(
        "message_start without usage",
        anthropic_stream(None, {"output_tokens": 7}),
        Usage(output=7),
        "incomplete_usage",
        exact=False,
    ),
    _anthropic("no usage at all", anthropic_stream(None, None), None, "final_usage_missing", exact=False),
    _anthropic(
        "an error after some content",
        (message_start(_START), *text_block(), OVERLOADED),
        Usage(input=9, output=1),
        exact=False,
        ended=False,
        error="overloaded_error",
    ),
    _anthropic(
        "an error at once",
        (OVERLOADED,),
        None,
        exact=False,
        ended=False,
        error="overloaded_error",
        model=None,
        generated_bytes=0,
    ),
    _anthropic(
        "unknown events, comments and an OpenAI end",
        (
            b": hello\n\n",
            message_start(_START),
            anthropic_event("vibe_check", mood={"usage": 3}),
            b"event: nothing\n\n",
            b"id: 3\nretry: 10\ndata:\n\n",
            *text_block(),
            message_delta({"output_tokens": 7}),
            MESSAGE_STOP,
            DONE,
        ),
        Usage(input=9, output=7),
    ),
    _anthropic(
        "data over many lines, and no event lines",
        (
            *(piece.partition(b"\n")[2] for piece in (message_start(_START), *text_block())),
            b'data: {"type": "message_delta",\ndata:"delta": {"stop_reason":\ndata:  "end_turn"},\n'
            b'data: "usage": {"output_tokens"\ndata::7}}\n\n',
            MESSAGE_STOP,
        ),
        Usage(input=9, output=7),
    ),
    _anthropic(
        "byte order mark, CR LF and CR",
        (
            b"\xef\xbb\xbf" + message_start(_START).replace(b"\n", b"\r\n"),
            *(piece.replace(b"\n", b"\r") for piece in text_block()),
            message_delta({"output_tokens": 7}).replace(b"\n", b"\r\n"),
            MESSAGE_STOP,
        ),
        Usage(input=9, output=7),
    ),
    _anthropic(
        "the last event is not ended by an empty line",
        (*anthropic_stream(_START, {"output_tokens": 7})[:-1], MESSAGE_STOP[:-2]),
        Usage(input=9, output=7),
    ),
    _anthropic(
        "broken events beside whole ones",
        (
            message_start(_START),
            b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":99\n\n',
            b"data: \x00\xff\xfe\n\n",
            *text_block(),
            message_delta({"output_tokens": 7}),
            MESSAGE_STOP,
        ),
        Usage(input=9, output=7),
        "unparsed_event",
    ),
)

ANTHROPIC_BODIES: tuple[Answer, ...] = (
    _anthropic(
        "JSON",
        (anthropic_message({**_CACHED, "output_tokens": 7}),),
        Usage(9, 100, 20, 1000, 7),
        stream=False,
    ),
    _anthropic(
        "JSON error",
        (b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow down"},"request_id":"req_1"}',),
        None,
        stream=False,
        exact=False,
        error="rate_limit_error",
        model=None,
        generated_bytes=0,
    ),
)

_OPENAI = openai_usage(1129, 7)
_LITELLM = {
    **_OPENAI,
    "cache_creation_input_tokens": 120,
    "cache_read_input_tokens": 1000,
    "prompt_tokens_details": {
        "cached_tokens": 1000,
        "audio_tokens": None,
        "cache_creation_tokens": 120,
        "cache_creation_token_details": _SPLIT,
    },
}

OPENAI_STREAMS: tuple[Answer, ...] = (
    _openai("plain", openai_stream(_OPENAI), Usage(input=1129, output=7)),
    _openai(
        "all details",
        openai_stream(
            {
                **_OPENAI,
                "prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 29, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 4, "rejected_prediction_tokens": 2},
            }
        ),
        Usage(100, 29, 0, 1000, 7, 4),
        "cache_write_split_assumed",
    ),
    _openai(
        "explicit zeros and nulls",  # an upstream that does not count; its answers are not free
        openai_stream(openai_usage(0, 0, prompt_tokens_details=None)),
        Usage(),
        "zero_usage",
        exact=False,
    ),
    _openai(
        "no prompt, which there cannot be",
        openai_stream(openai_usage(0, 7)),
        Usage(output=7),
        "zero_usage",
        exact=False,
    ),
    _openai("an empty answer", openai_stream(openai_usage(9, 0), words=()), Usage(input=9), generated_bytes=0),
    _openai("nothing at all", openai_stream(openai_usage(0, 0), words=()), Usage(), generated_bytes=0),
    _openai("Anthropic's cache within", openai_stream(_LITELLM), Usage(9, 100, 20, 1000, 7)),
    _openai(
        "Anthropic's cache within, without a split",
        openai_stream({**_OPENAI, "cache_creation_input_tokens": 120, "cache_read_input_tokens": 1000}),
        Usage(9, 120, 0, 1000, 7),
        "cache_write_split_assumed",
    ),
    _openai(
        "Anthropic's cache beside the prompt, by the total",
        openai_stream(
            openai_usage(
                *(9, 7, 1136),
                cache_creation_input_tokens=120,
                cache_read_input_tokens=1000,
                cache_creation=_SPLIT,
            )
        ),
        Usage(9, 100, 20, 1000, 7),
        "prompt_excludes_cache",
    ),
    _openai(
        "more cache than prompt",
        openai_stream(openai_usage(9, 7, prompt_tokens_details={"cached_tokens": 10})),
        Usage(input=9, cache_read=10, output=7),
        "total_mismatch",
    ),
    _openai(
        "two names, two counts",
        openai_stream({**_LITELLM, "cache_read_input_tokens": 999}),
        Usage(9, 100, 20, 1000, 7),
        "total_mismatch",
    ),
    _openai(
        "reasoning beside the output, by the total",
        openai_stream(openai_usage(21, 10, 91, completion_tokens_details={"reasoning_tokens": 60})),
        Usage(input=21, output=70, reasoning=60),
        "reasoning_beside_output",
    ),
    _openai(
        "reasoning that only the total has",
        openai_stream(openai_usage(21, 10, 90)),
        Usage(input=21, output=69, reasoning=59),
        "reasoning_by_total",
    ),
    _openai(
        "reasoning that only the total has, and a prompt from a cache",
        openai_stream(openai_usage(2000, 10, 2310, prompt_tokens_details={"cached_tokens": 1500})),
        Usage(input=500, cache_read=1500, output=310, reasoning=300),
        "reasoning_by_total",
    ),
    _openai(
        "reasoning and cache beside, by the total",
        openai_stream(
            openai_usage(
                *(21, 10, 1091),
                prompt_tokens_details={"cached_tokens": 1000},
                completion_tokens_details={"reasoning_tokens": 60},
            )
        ),
        Usage(input=21, cache_read=1000, output=70, reasoning=60),
        *("prompt_excludes_cache", "reasoning_beside_output"),
    ),
    _openai(
        "reasoning that only the total has, and a cache that cannot be in the prompt",
        openai_stream(openai_usage(21, 10, 1091, prompt_tokens_details={"cached_tokens": 1000})),
        Usage(input=21, cache_read=1000, output=70, reasoning=60),
        *("prompt_excludes_cache", "reasoning_by_total"),
    ),
    _openai(
        "a total that nothing explains",
        openai_stream(openai_usage(21, 10, 90, completion_tokens_details={"reasoning_tokens": 3})),
        Usage(input=21, output=10, reasoning=3),
        "total_mismatch",
    ),
    _openai(
        "a total of less than its parts",
        openai_stream(openai_usage(21, 10, 20)),
        Usage(input=21, output=10),
        "total_mismatch",
    ),
    _openai(
        "a prompt of nothing after one of something",
        (*openai_content(), openai_chunk(usage=openai_usage(5, 5)), openai_chunk(usage=openai_usage(0, 7)), DONE),
        Usage(input=5, output=7),
        "prompt_vanished",
        "total_mismatch",
    ),
    _openai(
        "audio",
        openai_stream({**_OPENAI, "prompt_tokens_details": {"audio_tokens": 12}}),
        Usage(input=1129, output=7),
        "audio_tokens",
    ),
    _openai(
        "usage twice, the later holds",
        (
            *openai_content(),
            openai_chunk(usage=openai_usage(5, 5)),
            openai_chunk(usage=_OPENAI),
            DONE,
        ),
        Usage(input=1129, output=7),
    ),
    _openai(
        "usage in the chunk of the last choice",
        (*openai_content()[:-1], openai_chunk([openai_choice("stop")], usage=_OPENAI), DONE),
        Usage(input=1129, output=7),
    ),
    _openai(
        "usage in every chunk",
        (
            *(
                openai_chunk([openai_choice(content=word)], usage=openai_usage(9, number))
                for number, word in enumerate(WORDS)
            ),
            openai_chunk([openai_choice("stop")], usage=openai_usage(9, 7)),
            DONE,
        ),
        Usage(input=9, output=7),
    ),
    _openai(
        "usage in every chunk, cut",
        tuple(
            openai_chunk([openai_choice(content=word)], usage=openai_usage(9, number))
            for number, word in enumerate(WORDS)
        ),
        Usage(input=9, output=4),
        "final_usage_missing",
        exact=False,
        ended=False,
    ),
    _openai(
        "content after the usage",
        (openai_chunk(usage=openai_usage(9, 0)), *openai_content(), DONE),
        Usage(input=9),
        *("content_after_usage", "final_usage_missing"),
        exact=False,
    ),
    _openai("no usage asked for", (*openai_content(), DONE), None, "final_usage_missing", exact=False),
    _openai("usage null only", (*openai_content(usage=None), DONE), None, "final_usage_missing", exact=False),
    _openai("cut before the usage", openai_stream(_OPENAI)[:-2], None, "final_usage_missing", exact=False, ended=False),
    _openai("no [DONE]", openai_stream(_OPENAI)[:-1], Usage(input=1129, output=7), ended=False),
    _openai(
        "half of a usage",
        openai_stream({"completion_tokens": 7}),
        Usage(output=7),
        "incomplete_usage",
        exact=False,
    ),
    _openai(
        "an error after some content",
        (*openai_content(), b'data: {"error":{"message":"boom","type":"server_error","code":null}}\n\n'),
        None,
        exact=False,
        ended=False,
        error="server_error",
    ),
    _openai(
        "an error that has a code only",
        (b'data: {"error":{"code":502,"message":"boom"}}\n\n', DONE),
        None,
        exact=False,
        error="502",
        model=None,
        generated_bytes=0,
    ),
    _openai(
        "reasoning by two names, tool arguments",
        (
            openai_chunk([openai_choice(reasoning="Hm.", reasoning_content="Hm.")]),
            openai_chunk([openai_choice(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": '{"a":'}}])]),
            openai_chunk([openai_choice(refusal="No")]),
            *openai_stream(_OPENAI, words=()),
        ),
        Usage(input=1129, output=7),
        generated_bytes=3 + 5 + 2,
    ),
    _openai(
        "priority tier",
        openai_stream(_OPENAI, service_tier="priority"),
        Usage(input=1129, output=7),
        unpriced=("service_tier_priority",),
    ),
    _openai(
        "default tier, comments, CR LF, a byte order mark",
        (
            b"\xef\xbb\xbf: PROCESSING\r\n\r\n",
            *(piece.replace(b"\n", b"\r\n") for piece in openai_stream(_OPENAI, service_tier="default")),
        ),
        Usage(input=1129, output=7),
    ),
)

OPENAI_BODIES: tuple[Answer, ...] = (
    _openai("JSON", (openai_completion(_LITELLM),), Usage(9, 100, 20, 1000, 7), stream=False),
    _openai(
        "JSON without usage",
        (openai_completion(None),),
        None,
        "final_usage_missing",
        stream=False,
        exact=False,
    ),
    _openai(
        "JSON error",
        (b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"model_not_found"}}',),
        None,
        stream=False,
        exact=False,
        error="invalid_request_error",
        model=None,
        generated_bytes=0,
    ),
)

_RESPONSES = responses_usage(1129, 7, cached=1000, reasoning=3)
_TOLD = Usage(input=129, cache_read=1000, output=7, reasoning=3)

RESPONSES_STREAMS: tuple[Answer, ...] = (
    _responses("a message", responses_stream(_RESPONSES), _TOLD),
    _responses("incomplete", responses_stream(_RESPONSES, end="incomplete"), _TOLD),
    _responses(
        "as gateways send it: without names, [DONE] behind",
        (*(piece.partition(b"\n")[2] for piece in responses_stream(_RESPONSES)), DONE),
        _TOLD,
    ),
    _responses(
        "with spaces, CR LF, a keepalive and a comment",
        (
            b": hello\r\n\r\n",
            b'event: keepalive\r\ndata: {"type": "keepalive", "sequence_number": 1}\r\n\r\n',
            *(
                piece.replace(b'"type":"', b'"type": "').replace(b"\n", b"\r\n")
                for piece in responses_stream(_RESPONSES)
            ),
        ),
        _TOLD,
    ),
    _responses(
        "written to a cache",
        responses_stream(responses_usage(120, 7, 10, 100)),
        Usage(10, 100, 0, 10, 7),
        "cache_write_split_assumed",
    ),
    _responses("no details", responses_stream({"input_tokens": 9, "output_tokens": 7}), Usage(input=9, output=7)),
    _responses(
        "searches, one of which opens a page",
        responses_stream(_RESPONSES, more=[searched(), searched("open_page"), searched()]),
        replace(_TOLD, web_search=2),
        searches=2,
        unpriced=("web_search_unpriced",),
    ),
    _responses(
        "searches by the provider's own count",
        responses_stream(_RESPONSES, more=[searched()], tool_usage={"web_search": {"num_requests": 3}}),
        replace(_TOLD, web_search=3),
        searches=1,
        unpriced=("web_search_unpriced",),
    ),
    _responses(
        "searches by LiteLLM's and Anthropic's names",
        responses_stream(
            _RESPONSES
            | {
                "input_tokens_details": {"cached_tokens": 1000, "web_search_requests": 0},
                "server_tool_use": {"web_search_requests": 2},
            }
        ),
        replace(_TOLD, web_search=2),
        unpriced=("web_search_unpriced",),
    ),
    _responses(
        "an item told twice",
        (*responses_content(more=[searched()]), *responses_stream(_RESPONSES, words=(), more=[searched()])),
        replace(_TOLD, web_search=1),
        searches=1,
        unpriced=("web_search_unpriced",),
    ),
    _responses(
        "tools of xAI's",
        responses_stream(_RESPONSES | {"server_side_tool_usage_details": {"x_search_calls": 2}}),
        _TOLD,
        "server_tool_use",
    ),
    _responses(
        "written for half an hour and for twelve",
        responses_stream(
            responses_usage(150, 7)
            | {
                "input_tokens_details": {
                    "cached_tokens": 10,
                    "cache_write_tokens": 120,
                    "cache_write_tokens_details": {"ttl_30m_tokens": 100, "ttl_12h_tokens": 20},
                }
            }
        ),
        Usage(20, 100, 20, 10, 7),
    ),
    _responses(
        "a tool whose fee is not known",
        responses_stream(_RESPONSES, more=[{"id": "ci_1", "type": "code_interpreter_call", "status": "completed"}]),
        _TOLD,
        "server_tool_use",
    ),
    _responses(
        "thinking, arguments and a refusal",
        (
            responses_event("response.reasoning_summary_text.delta", item_id="rs_1", delta="Hm."),
            responses_event("response.function_call_arguments.delta", item_id="fc_1", delta='{"a":'),
            responses_event("response.refusal.delta", item_id="msg_1", delta="No"),
            *responses_stream(_RESPONSES, words=()),
        ),
        _TOLD,
        generated_bytes=3 + 5 + 2,
    ),
    _responses(
        "cached more than there was",
        responses_stream(responses_usage(9, 7, cached=10)),
        Usage(input=9, cache_read=10, output=7),
        "total_mismatch",
    ),
    _responses(
        "a total that does not fit",
        responses_stream(responses_usage(9, 7) | {"total_tokens": 17}),
        Usage(input=9, output=7),
        "total_mismatch",
    ),
    _responses(
        "cut before the end",
        responses_content(),
        None,
        "final_usage_missing",
        exact=False,
        ended=False,
    ),
    _responses("no usage", responses_stream(None), None, "final_usage_missing", exact=False),
    _responses(
        "half of a usage",
        responses_stream({"output_tokens": 7}),
        Usage(output=7),
        "incomplete_usage",
        exact=False,
    ),
    _responses(
        "failed",
        responses_stream(None, end="failed", error={"code": "rate_limit_exceeded", "message": "no"}),
        None,
        exact=False,
        error="rate_limit_exceeded",
    ),
    _responses(
        "an error event after some content",
        (*responses_content(), responses_event("error", code="server_error", message="boom", param=None)),
        None,
        exact=False,
        ended=False,
        error="server_error",
    ),
    _responses(
        "an error as api.openai.com sends it",
        (responses_event("error", error={"type": "insufficient_quota", "code": "x", "message": "boom"}),),
        None,
        exact=False,
        ended=False,
        error="insufficient_quota",
        model=None,
        generated_bytes=0,
    ),
    _responses(
        "an error of a gateway, without a type of its own",
        (*responses_content(), b'data: {"error":{"message":"boom","type":"server_error","code":null}}\n\n'),
        None,
        exact=False,
        ended=False,
        error="server_error",
    ),
    _responses(
        "priority tier",
        responses_stream(_RESPONSES, service_tier="priority"),
        _TOLD,
        unpriced=("service_tier_priority",),
    ),
)

RESPONSES_BODIES: tuple[Answer, ...] = (
    _responses("JSON", (responses_body(_RESPONSES),), _TOLD, stream=False),
    _responses(
        "JSON with searches",
        (responses_body(_RESPONSES, output=[searched(), said(), searched("find_in_page")]),),
        replace(_TOLD, web_search=1),
        searches=1,
        unpriced=("web_search_unpriced",),
        stream=False,
    ),
    _responses("JSON without usage", (responses_body(None),), None, "final_usage_missing", stream=False, exact=False),
    _responses(
        "JSON error",
        (b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"model_not_found"}}',),
        None,
        stream=False,
        exact=False,
        error="invalid_request_error",
        model=None,
        generated_bytes=0,
    ),
)

STREAMS = (*ANTHROPIC_STREAMS, *OPENAI_STREAMS, *RESPONSES_STREAMS)
ANSWERS = (*STREAMS, *ANTHROPIC_BODIES, *OPENAI_BODIES, *RESPONSES_BODIES)
