"""Answers of all protocols: a provider decides what it bills, and words it in one of the shapes that usage comes in.

The wording is that of `tests/streams.py`. What is billed is drawn first, so that nothing of goproxy has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from goproxy.core.usage import Usage
from tests.streams import (
    DONE,
    MESSAGE_STOP,
    OVERLOADED,
    anthropic_event,
    anthropic_message,
    anthropic_stream,
    message_delta,
    message_start,
    openai_choice,
    openai_chunk,
    openai_completion,
    openai_content,
    openai_stream,
    openai_usage,
    responses_body,
    responses_event,
    responses_stream,
    responses_usage,
    searched,
    text_block,
)

WORDS = ("Grü", "ße ", "\U0001f30d", ' "usage": {"output_tokens": 1} ')
ERRORS = {
    "anthropic": OVERLOADED,
    "openai": b'data: {"error":{"message":"boom","type":"server_error","param":null,"code":null}}\n\n',
    "responses": responses_event("error", code="server_error", message="boom", param=None),
}

_INPUT, _OUTPUT = ("input",), ("output",)
_CACHE = ("cache_write_5m", "cache_write_1h", "cache_read")
_MAGNITUDES = {"output": 4.8, "reasoning": 4.8, "web_search": 1}
Pieces = tuple[bytes, ...]


@dataclass(frozen=True)
class Shape:
    """One way to tell usage."""

    name: str
    protocol: str
    kinds: tuple[str, ...]
    """What it can tell; other kinds are 0."""
    word: Callable[[Usage, Random], Pieces]
    """The events of a stream, or the one piece of a JSON body."""
    is_stream: bool = True
    is_cut: bool = True
    """Used for answers that break off too: each piece is one event, and one of them makes the usage final."""

    def draw(self, chance: Random) -> Usage:
        """What is billed for an answer."""
        counts = {kind: _count(chance, _MAGNITUDES.get(kind, 5.2)) for kind in self.kinds}
        counts["output"] = max(counts["output"], 1)  # there are words in each answer, and no prompt is empty
        if "reasoning" in counts:
            counts["reasoning"] = min(counts["reasoning"], counts["output"])
        usage = Usage(**counts)
        return usage if usage.prompt else replace(usage, input=1)


def is_usage_chunk(piece: bytes) -> bool:
    """Whether it is the one that OpenAI sends to those who ask for usage."""
    return b'"choices":[]' in piece and b'"usage":{' in piece


def final_after(shape: Shape, pieces: Pieces) -> int:
    """After so many events of a stream the provider's last word on the usage has been said."""
    if shape.protocol == "anthropic":
        is_last_word: Callable[[bytes], bool] = lambda piece: b'"stop_reason":"' in piece  # noqa: E731
    elif shape.protocol == "responses":
        is_last_word = lambda piece: piece.startswith(b"event: response.completed\n")  # noqa: E731
    elif any(map(is_usage_chunk, pieces)):
        is_last_word = is_usage_chunk
    else:
        return len(pieces)  # [DONE] says that no other usage follows
    return max(number for number, piece in enumerate(pieces, 1) if is_last_word(piece))


def _count(chance: Random, magnitude: float) -> int:
    """0, or a number of any magnitude up to this power of ten."""
    return 0 if chance.random() < 0.1 else int(10 ** chance.uniform(0, magnitude))


def _first(usage: Usage, **more: Any) -> dict[str, Any]:
    return {"input_tokens": usage.input, "output_tokens": min(1, usage.output), **more}


def _cached(usage: Usage) -> dict[str, Any]:
    return {
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
    }


def _split(usage: Usage) -> dict[str, Any]:
    return {"ephemeral_5m_input_tokens": usage.cache_write_5m, "ephemeral_1h_input_tokens": usage.cache_write_1h}


def _plain(usage: Usage, _: Random) -> Pieces:
    return anthropic_stream(_first(usage), {"output_tokens": usage.output}, words=WORDS)


def _with_split(usage: Usage, _: Random) -> Pieces:
    start = _first(usage, **_cached(usage), cache_creation=_split(usage), service_tier="standard")
    return anthropic_stream(start, {"output_tokens": usage.output}, words=WORDS)


def _cumulative(usage: Usage, chance: Random) -> Pieces:
    steps = sorted(chance.randint(0, usage.output) for _ in range(2))
    start = _first(usage, **_cached(usage), cache_creation=_split(usage)) | {"input_tokens": usage.input // 2}
    deltas = [{"output_tokens": step} for step in steps]
    return anthropic_stream(start, *deltas, {"input_tokens": usage.input, "output_tokens": usage.output}, words=WORDS)


def _repeated(usage: Usage, _: Random) -> Pieces:
    start = _first(usage, **_cached(usage), cache_creation=_split(usage))
    return anthropic_stream(start, start | {"output_tokens": usage.output, "cache_creation": None}, words=WORDS)


def _searching(usage: Usage, _: Random) -> Pieces:
    start = _first(usage, **_cached(usage), cache_creation=_split(usage), server_tool_use={"web_search_requests": 0})
    used = {"web_search_requests": usage.web_search, "web_fetch_requests": 3}
    return anthropic_stream(start, {"output_tokens": usage.output, "server_tool_use": used}, words=WORDS)


def _without_split(usage: Usage, _: Random) -> Pieces:
    return anthropic_stream(_first(usage, **_cached(usage)), {"output_tokens": usage.output}, words=WORDS)


def _above_split(usage: Usage, chance: Random) -> Pieces:
    """The split is told at the start only; what is written to a cache after that is billed at five minutes."""
    early = Usage(cache_write_5m=chance.randint(0, usage.cache_write_5m), cache_write_1h=usage.cache_write_1h)
    start = _first(usage, **_cached(early), cache_creation=_split(early))
    return anthropic_stream(start, {"output_tokens": usage.output, **_cached(usage)}, words=WORDS)


def _zeros_and_nulls(usage: Usage, _: Random) -> Pieces:
    early = 1000 if usage.input else 0  # nothing but zeros would be no prompt, which there is not
    start = _first(usage, cache_read_input_tokens=early, cache_creation_input_tokens=None, cache_creation=_split(usage))
    last = {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_input_tokens": 0,
        "cache_creation": None,
    }
    return anthropic_stream(start, last, words=WORDS)


def _no_prompt_at_the_end(usage: Usage, _: Random) -> Pieces:
    """A prompt of nothing is none: the one of before stands."""
    start = _first(usage, **_cached(usage), cache_creation=_split(usage))
    last = {"output_tokens": usage.output, "input_tokens": 0, **dict.fromkeys(_cached(usage), 0)}
    return anthropic_stream(start, last, words=WORDS)


def _thinking(usage: Usage, _: Random) -> Pieces:
    def delta(index: int, **fields: str) -> bytes:
        return anthropic_event("content_block_delta", index=index, delta=fields)

    tool = {"type": "tool_use", "id": "t", "name": "n", "input": {}}
    details = {"thinking_tokens": usage.reasoning}
    return (
        message_start(_first(usage)),
        anthropic_event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        delta(0, type="thinking_delta", thinking="Hmü"),
        delta(0, type="signature_delta", signature="c2lnbmF0dXJl"),
        anthropic_event("content_block_stop", index=0),
        anthropic_event("content_block_start", index=1, content_block=tool),
        delta(1, type="input_json_delta", partial_json='{"a":1}'),
        anthropic_event("content_block_stop", index=1),
        message_delta({"output_tokens": usage.output, "output_tokens_details": details}, "tool_use"),
        MESSAGE_STOP,
    )


def _compaction(usage: Usage, chance: Random) -> Pieces:
    """What a compaction used is billed, and stands in `iterations` only."""
    apart = Usage(input=chance.randint(0, usage.input), output=chance.randint(0, usage.output))
    last = {
        "output_tokens": usage.output - apart.output,
        "iterations": [
            {"type": "compaction", "input_tokens": apart.input, "output_tokens": apart.output},
            {"type": "message", "input_tokens": usage.input - apart.input, "output_tokens": 0},
        ],
    }
    return anthropic_stream({"input_tokens": usage.input - apart.input, "output_tokens": 0}, last, words=WORDS)


def _unusual(usage: Usage, _: Random) -> Pieces:
    delta = (
        b'data: {"type": "message_delta",\r\ndata:"delta": {"stop_reason":\r\ndata: "end_turn"},\r\n'
        b'data: "usage": {"output_tokens"\r\ndata::%d}}\r\n\r\n' % usage.output
    )
    return (
        b"\xef\xbb\xbf: hello\r\n\r\n",
        message_start(_first(usage)).replace(b"\n", b"\r\n"),
        anthropic_event("vibe_check", mood={"usage": 3}),
        *(piece.replace(b"\n", b"\r") for piece in text_block(WORDS)),
        delta,
        MESSAGE_STOP,
    )


def _message(usage: Usage, _: Random) -> Pieces:
    told = _first(usage, **_cached(usage), cache_creation=_split(usage)) | {"output_tokens": usage.output}
    return (anthropic_message(told, words=WORDS),)


def _prompt(usage: Usage) -> int:
    return usage.input + usage.cache_write_5m + usage.cache_write_1h + usage.cache_read


def _openai_usage(usage: Usage) -> dict[str, Any]:
    return openai_usage(
        _prompt(usage),
        usage.output,
        prompt_tokens_details={"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write_5m},
        completion_tokens_details={"reasoning_tokens": usage.reasoning, "audio_tokens": 0},
    )


def _with_usage_chunk(usage: Usage, _: Random) -> Pieces:
    return openai_stream(_openai_usage(usage), words=WORDS)


def _without_details(usage: Usage, _: Random) -> Pieces:
    return openai_stream(openai_usage(usage.input, usage.output, prompt_tokens_details=None), words=WORDS)


def _litellm(usage: Usage, _: Random) -> Pieces:
    details = {
        "cached_tokens": usage.cache_read,
        "cache_creation_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_creation_token_details": _split(usage),
    }
    told = openai_usage(_prompt(usage), usage.output, **_cached(usage), prompt_tokens_details=details)
    return openai_stream(told, words=WORDS)


def _litellm_searching(usage: Usage, _: Random) -> Pieces:
    details = {"cached_tokens": usage.cache_read, "web_search_requests": usage.web_search}
    return openai_stream(openai_usage(_prompt(usage), usage.output, prompt_tokens_details=details), words=WORDS)


def _beside_prompt(usage: Usage, _: Random) -> Pieces:
    total = _prompt(usage) + usage.output
    told = openai_usage(usage.input, usage.output, total, **_cached(usage), cache_creation=_split(usage))
    return openai_stream(told, words=WORDS)


def _beside_output(usage: Usage, _: Random) -> Pieces:
    details = {"reasoning_tokens": usage.reasoning}
    visible = usage.output - usage.reasoning
    told = openai_usage(usage.input, visible, usage.input + usage.output, completion_tokens_details=details)
    return openai_stream(told, words=WORDS)


def _with_last_choice(usage: Usage, _: Random) -> Pieces:
    last = openai_chunk([openai_choice("stop")], usage=_openai_usage(usage))
    return (*openai_content(WORDS)[:-1], last, DONE)


def _in_every_chunk(usage: Usage, _: Random) -> Pieces:
    growing = [usage.output * number // len(WORDS) for number in range(len(WORDS))]
    return (
        *(
            openai_chunk([openai_choice(content=word)], usage=openai_usage(usage.input, output))
            for word, output in zip(WORDS, growing, strict=True)
        ),
        openai_chunk([openai_choice("stop")], usage=openai_usage(usage.input, usage.output)),
        DONE,
    )


def _in_every_chunk_without_done(usage: Usage, chance: Random) -> Pieces:
    return _in_every_chunk(usage, chance)[:-1]


def _twice(usage: Usage, _: Random) -> Pieces:
    return (
        *openai_content(WORDS, usage=None),
        openai_chunk(usage=openai_usage(5, 5)),
        openai_chunk(usage=_openai_usage(usage)),
        DONE,
    )


def _completion(usage: Usage, _: Random) -> Pieces:
    return (openai_completion(_openai_usage(usage), words=WORDS),)


def _responses_usage(usage: Usage) -> dict[str, Any]:
    written = usage.cache_write_5m
    return responses_usage(_prompt(usage), usage.output, usage.cache_read, written, usage.reasoning)


def _response(usage: Usage, _: Random) -> Pieces:
    return responses_stream(_responses_usage(usage), words=WORDS)


def _response_searching(usage: Usage, _: Random) -> Pieces:
    more = [*[searched()] * usage.web_search, searched("open_page")]
    return responses_stream(_responses_usage(usage), words=WORDS, more=more)


def _whole_response(usage: Usage, _: Random) -> Pieces:
    return (responses_body(_responses_usage(usage), words=WORDS),)


_OPENAI_KINDS = (*_INPUT, *_OUTPUT, "cache_write_5m", "cache_read", "reasoning")

SHAPES: Sequence[Shape] = (
    Shape("plain", "anthropic", (*_INPUT, *_OUTPUT), _plain),
    Shape("cache with its split", "anthropic", (*_INPUT, *_OUTPUT, *_CACHE), _with_split),
    Shape("cumulative in every message_delta", "anthropic", (*_INPUT, *_OUTPUT, *_CACHE), _cumulative),
    Shape("all counts repeated", "anthropic", (*_INPUT, *_OUTPUT, *_CACHE), _repeated),
    Shape("cache without a split", "anthropic", (*_INPUT, *_OUTPUT, "cache_write_5m", "cache_read"), _without_split),
    Shape("cache above its split", "anthropic", (*_INPUT, *_OUTPUT, *_CACHE), _above_split),
    Shape("searches", "anthropic", (*_INPUT, *_OUTPUT, *_CACHE, "web_search"), _searching),
    Shape("zeros and nulls", "anthropic", (*_INPUT, *_OUTPUT, "cache_write_5m"), _zeros_and_nulls),
    Shape("no prompt at the end", "anthropic", (*_INPUT, *_OUTPUT, *_CACHE), _no_prompt_at_the_end),
    Shape("thinking and a tool", "anthropic", (*_INPUT, *_OUTPUT, "reasoning"), _thinking),
    Shape("compaction", "anthropic", (*_INPUT, *_OUTPUT), _compaction),
    Shape("unusual lines", "anthropic", (*_INPUT, *_OUTPUT), _unusual, is_cut=False),
    Shape("JSON", "anthropic", (*_INPUT, *_OUTPUT, *_CACHE), _message, is_stream=False, is_cut=False),
    Shape("usage chunk", "openai", _OPENAI_KINDS, _with_usage_chunk),
    Shape("no details", "openai", (*_INPUT, *_OUTPUT), _without_details),
    Shape("Anthropic's cache within", "openai", (*_INPUT, *_OUTPUT, *_CACHE), _litellm),
    Shape("LiteLLM's searches", "openai", (*_INPUT, *_OUTPUT, "cache_read", "web_search"), _litellm_searching),
    Shape("cache beside the prompt", "openai", (*_INPUT, *_OUTPUT, *_CACHE), _beside_prompt),
    Shape("reasoning beside the output", "openai", (*_INPUT, *_OUTPUT, "reasoning"), _beside_output),
    Shape("usage with the last choice", "openai", _OPENAI_KINDS, _with_last_choice),
    Shape("usage in every chunk", "openai", (*_INPUT, *_OUTPUT), _in_every_chunk),
    Shape("no [DONE]", "openai", (*_INPUT, *_OUTPUT), _in_every_chunk_without_done, is_cut=False),
    Shape("usage twice", "openai", _OPENAI_KINDS, _twice, is_cut=False),
    Shape("JSON", "openai", _OPENAI_KINDS, _completion, is_stream=False, is_cut=False),
    Shape("a response", "responses", _OPENAI_KINDS, _response),
    Shape("a response with searches", "responses", (*_OPENAI_KINDS, "web_search"), _response_searching, is_cut=False),
    Shape("JSON", "responses", _OPENAI_KINDS, _whole_response, is_stream=False, is_cut=False),
)
