"""The meter of the Anthropic Messages protocol.

Sources: docs.anthropic.com "Streaming messages"; `types/usage.py`, `types/message_delta_usage.py` and
`types/beta/beta_usage.py` of anthropic-sdk-python, which say that

- `input_tokens` has no cache tokens in it, `output_tokens` has the thinking in it;
- the counts of `message_delta` are cumulative, so that they replace those of `message_start`. The split of cache writes
  by lifetime stands in `message_start` only, and in `iterations` where a server's tools made several: what the total
  grows above what those tell is priced at five minutes;
- what a compaction used stands in `iterations` only and is billed too: it is added here. So is what an advisor used, if
  it is the same model; another one's tokens are flagged.

The usage is final once a `message_delta` has told `output_tokens`, and it or a later one had a `stop_reason`, or
`message_stop` came. A whole JSON body is final.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from goproxy.core.meter import Meter, content_of
from goproxy.core.raw_usage import (
    CACHE_READ,
    CACHE_WRITE,
    CACHE_WRITE_1H,
    CACHE_WRITE_5M,
    SEARCHES,
    Counts,
    Path,
    RawUsage,
    used_other_tools,
    value_at,
)
from goproxy.core.sse import EventReader
from goproxy.core.usage import MAX_TOKENS, Usage, cache_writes

INPUT = ("input_tokens",)
OUTPUT = ("output_tokens",)
THINKING = ("output_tokens_details", "thinking_tokens")
_PROMPT = (INPUT, CACHE_READ, CACHE_WRITE, CACHE_WRITE_5M, CACHE_WRITE_1H)
COUNTS = Counts((*_PROMPT, OUTPUT, THINKING), prompt=_PROMPT, searches=(SEARCHES,))

_BEGINS = b'event: content_block_delta\ndata: {"type":"content_block_delta"'
_NEXT = b"\n\n" + _BEGINS
_CONTENT = re.compile(rb"(?:%b[^\n]*+\n\n)+" % _BEGINS)
"""Events of nothing but content, one after the other, as the provider writes them."""

_SEARCH = re.compile(rb'"name": ?"web_search"')

_SAYS_NOTHING = frozenset({b'{"type": "ping"}', b'{"type":"ping"}', b"[DONE]"})
"""The last one is OpenAI's, but some upstreams send it everywhere."""

_STOP = b'{"type":"message_stop"}'

_BILLED_REFUSALS = ("bio", "frontier_llm", "reasoning_extraction")
"""The categories in which a refusal before any output is billed ("How refusals are billed", 2026-09)."""

_NOTHING = Usage()


class AnthropicMeter(Meter):
    """Reads answers to `POST /v1/messages`."""

    counts = COUNTS
    content = content_of("text", "thinking", "partial_json", "content")
    plain_content = frozenset({b"text", b"thinking", b"partial_json", b"content"})

    def __init__(self, *, stream: bool) -> None:
        super().__init__(stream=stream)
        self._output_was_told = False
        self._has_stop_reason = False
        self._is_refusal = False
        self._apart = _NOTHING
        self._iterated: Usage | None = None
        """The sum of the iterations that made up the answer; None: there were none, or they leave something open."""

    def _on_event(self, name: bytes, data: bytes) -> None:
        if b'"content_block_' in data and not _says_more(data):
            if b'"content_block_delta"' in data:
                self._generated_bytes += self._generated(data)
            elif b'"server_tool_use"' in data and _SEARCH.search(data) is not None:
                self._searches += 1
            elif b'"web_search_tool_result_error"' in data:  # which costs nothing
                self._searches = max(self._searches - 1, 0)
            return
        if not data or data in _SAYS_NOTHING:
            return
        if data == _STOP:
            self._ended = True
            return
        document = self._parse(data, "unparsed_event")
        kind = document.get("type") if document else None
        match kind if isinstance(kind, str) else name.decode(errors="replace"):
            case "message_start":
                message = (document or {}).get("message")
                if isinstance(message, dict):
                    self._name_model(message.get("model"))
                    self._take_usage(message.get("usage"), data, ("message", "usage"))
            case "message_delta":
                self._on_delta(document or {}, data)
            case "message_stop":
                self._take_usage((document or {}).get("usage"), data, ("usage",))
                self._ended |= document is not None
            case "content_block_delta":
                self._generated_bytes += self._generated(data)
            case other:
                if other == "error" or (document or {}).get("error"):
                    self._fail(value_at(document or {}, ("error", "type")))

    def _set_content_aside(self, data: bytes, events: EventReader) -> bytes:  # noqa: ARG002
        rest, at = [], 0
        begin = 0 if data.startswith(_BEGINS) else data.find(_NEXT) + 2
        while begin != 1:  # which is what `find` makes of no more
            found = _CONTENT.match(data, begin)
            if found is None:
                begin = data.find(_NEXT, begin) + 2
                continue
            if not _says_more(found[0]):
                rest.append(data[at:begin])
                at = found.end()
                self._leave_uncounted(found[0])
            begin = data.find(_NEXT, found.end() - 2) + 2
        return b"".join([*rest, data[at:]])

    def _on_delta(self, document: Mapping[str, Any], data: bytes) -> None:
        usage = document.get("usage")
        self._take_usage(usage, data, ("usage",))
        if isinstance(usage, dict) and usage.get("output_tokens") is not None:
            self._output_was_told = True
        if (reason := value_at(document, ("delta", "stop_reason"))) is not None:
            self._has_stop_reason = True
            self._take_stop(reason, value_at(document, ("delta", "stop_details", "category")))

    def _on_body(self, document: Mapping[str, Any], data: bytes | bytearray) -> None:
        if document.get("type") == "error" or document.get("error"):
            self._fail(value_at(document, ("error", "type")))
        self._name_model(document.get("model"))
        self._take_usage(document.get("usage"), data, ("usage",))
        self._take_stop(document.get("stop_reason"), value_at(document, ("stop_details", "category")))
        self._output_was_told = True

    def _take_stop(self, reason: object, category: object) -> None:
        self._is_refusal = reason == "refusal" and category not in _BILLED_REFUSALS

    def _is_final(self) -> bool:
        return self._output_was_told and (self._has_stop_reason or self._ended)

    def _take_usage(self, usage: object, data: bytes | bytearray, path: Path) -> None:
        usage = self._merge(usage, data, path)
        if not isinstance(usage, dict):
            return
        self._take_terms(usage)
        if isinstance(iterations := usage.get("iterations"), list):
            self._take_iterations(iterations)

    def _take_iterations(self, iterations: list[object]) -> None:
        self._apart = answer = Usage()
        left_open: set[str] = set()
        for iteration in iterations:
            match iteration:
                case {"type": "message"}:
                    answer = _with(answer, iteration, left_open)
                case {"type": "compaction"}:
                    self._apart = _with(self._apart, iteration, self._flags)
                case {"type": "advisor_message", "model": str() as model} if model == self._model:
                    self._apart = _with(self._apart, iteration, self._flags)
                case {"type": "advisor_message" | "fallback_message"}:
                    self._flags.add("other_model_usage")
        self._iterated = None if left_open else answer

    def _usage(self, flags: set[str]) -> Usage:
        told = self._told
        if INPUT not in told.tokens or OUTPUT not in told.tokens:
            flags.add("incomplete_usage")
        if used_other_tools(told):
            flags.add("server_tool_use")
        if self._is_refusal and not self._generated_by_now():
            flags.add("refused_unbilled")
        answer = _usage(told, flags) if self._iterated is None else _split_as(self._iterated, told, flags)
        usage = _sum(answer, self._apart)
        usage.web_search = told.get(SEARCHES)
        return usage


def _says_more(data: bytes) -> bool:
    """Whether events of content have something in them that only a parser can tell from content."""
    return b'"message_' in data or b'"error"' in data


def _usage(told: RawUsage, flags: set[str]) -> Usage:
    count = told.tokens.get
    for_5m, for_1h = cache_writes(count(CACHE_WRITE), count(CACHE_WRITE_5M), count(CACHE_WRITE_1H), flags)
    output, thinking = count(OUTPUT, 0), count(THINKING, 0)
    if thinking > output:
        flags.add("total_mismatch")
        thinking = output
    return Usage(count(INPUT, 0), for_5m, for_1h, count(CACHE_READ, 0), output, thinking)


def _split_as(iterated: Usage, told: RawUsage, flags: set[str]) -> Usage:
    """The usage that was told; for how long caches were written as its iterations tell, if they come to the same."""
    assumed: set[str] = set()
    usage = _usage(told, assumed)
    for_5m, for_1h = iterated.cache_write_5m, iterated.cache_write_1h
    if for_5m + for_1h == usage.cache_write_5m + usage.cache_write_1h:
        usage = replace(usage, cache_write_5m=for_5m, cache_write_1h=for_1h)
        assumed.discard("cache_write_split_assumed")
    flags |= assumed
    return usage


def _with(usage: Usage, iteration: object, flags: set[str]) -> Usage:
    """This usage, and an iteration's on top of it."""
    told = RawUsage(COUNTS)
    told.merge(iteration)
    total = _sum(usage, _usage(told, flags))
    if told.was_invalid or max(total.to_json().values()) > MAX_TOKENS:
        flags.add("invalid_usage")
        return usage
    return total


def _sum(one: Usage, other: Usage) -> Usage:
    if other is _NOTHING or other == _NOTHING:
        return one
    counts = other.to_json()
    return Usage(**{name: count + counts[name] for name, count in one.to_json().items()})
