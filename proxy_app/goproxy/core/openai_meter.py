"""The meter of the OpenAI chat completions protocol.

Sources: `types/completion_usage.py` and `types/chat/chat_completion_chunk.py` of openai-python, which say that
`prompt_tokens` has the cached and the written ones in it and `completion_tokens` the reasoning; `types/utils.py` of
LiteLLM for Anthropic's names within an OpenAI usage object. The wire protocol decides what a count means, not who
sends it: cache tokens are a part of `prompt_tokens` here, whatever they are called. Three sorts of upstreams break that
rule and say so by their own `total_tokens`; those are read by it, and flagged. One of them is Google, whose
`completion_tokens` have no thinking in them, and which tells of that nowhere else, whether a cache was read or not.

The usage is final when it comes in a chunk without choices (the one that `include_usage` asks for), or when `[DONE]`
comes and no content came in between: some upstreams send usage with the last choice (Groq, unasked, within
`x_groq`), and some with every chunk. One of them (Perplexity) sends no `[DONE]`: there the end of the HTTP body stands
for it, if the usage came with a `finish_reason` or after one. A whole JSON body is final.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from goproxy.core.meter import DELTA, Meter, content_of, string_bytes
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
from goproxy.core.usage import Usage, cache_writes

PROMPT = ("prompt_tokens",)
COMPLETION = ("completion_tokens",)
TOTAL = ("total_tokens",)
CACHED = ("prompt_tokens_details", "cached_tokens")
WRITTEN = ("prompt_tokens_details", "cache_write_tokens")
REASONING = ("completion_tokens_details", "reasoning_tokens")
AUDIO_IN = ("prompt_tokens_details", "audio_tokens")
AUDIO_OUT = ("completion_tokens_details", "audio_tokens")
IMAGES_OUT = ("completion_tokens_details", "image_tokens")

# LiteLLM's names for Anthropic's counts; the split by lifetime in either place.
CREATED = ("prompt_tokens_details", "cache_creation_tokens")
CREATED_5M = ("prompt_tokens_details", "cache_creation_token_details", "ephemeral_5m_input_tokens")
CREATED_1H = ("prompt_tokens_details", "cache_creation_token_details", "ephemeral_1h_input_tokens")

# The names of Moonshot, DeepSeek and DashScope, whose prompt has them in it, too.
CACHED_OF_MOONSHOT = ("cached_tokens",)
CACHED_OF_DEEPSEEK = ("prompt_cache_hit_tokens",)
CREATED_OF_DASHSCOPE = ("prompt_tokens_details", "cache_creation_input_tokens")
CREATED_OF_DASHSCOPE_5M = ("prompt_tokens_details", "cache_creation", "ephemeral_5m_input_tokens")
CREATED_OF_DASHSCOPE_1H = ("prompt_tokens_details", "cache_creation", "ephemeral_1h_input_tokens")

# LiteLLM's of what Google, xAI and Perplexity searched, and Perplexity's own.
SEARCHES_OF_LITELLM = ("prompt_tokens_details", "web_search_requests")
SEARCHES_OF_PERPLEXITY = ("num_search_queries",)

# What its deep research read of what it found, and thought about that: neither is in prompt, completion or total.
CITATIONS = ("citation_tokens",)
REASONING_OF_RESEARCH = ("reasoning_tokens",)

_READ = (CACHED, CACHE_READ, CACHED_OF_MOONSHOT, CACHED_OF_DEEPSEEK)
_WRITTEN = (WRITTEN, CREATED, CREATED_OF_DASHSCOPE, CACHE_WRITE)
_WRITTEN_5M = (CREATED_5M, CREATED_OF_DASHSCOPE_5M, CACHE_WRITE_5M)
_WRITTEN_1H = (CREATED_1H, CREATED_OF_DASHSCOPE_1H, CACHE_WRITE_1H)
"""The names of each: the first that was told counts."""

_SEARCHES = (SEARCHES, SEARCHES_OF_LITELLM, SEARCHES_OF_PERPLEXITY)
"""Of these the one that tells most: gateways have some of them at 0."""

COUNTS = Counts(
    (
        *(PROMPT, COMPLETION, TOTAL, REASONING, AUDIO_IN, AUDIO_OUT, IMAGES_OUT),
        *(*_READ, *_WRITTEN, *_WRITTEN_5M, *_WRITTEN_1H),
    ),
    prompt=(PROMPT,),
    searches=(*_SEARCHES, CITATIONS, REASONING_OF_RESEARCH),
)

_TELLS_USAGE = re.compile(rb'"usage"\s*+:\s*+(?!null)')
_FIRST_EVENTS = 16
"""Events that are parsed to find the model's name."""


class OpenAIMeter(Meter):
    """Reads answers to `POST /v1/chat/completions`."""

    counts = COUNTS
    content = content_of("content", "reasoning_content", "reasoning", "refusal", "arguments")
    plain_content = frozenset({b"content", b"refusal", b"arguments"})

    def __init__(self, *, stream: bool) -> None:
        super().__init__(stream=stream)
        self._parsed_for_model = 0
        self._is_usage_chunk = False
        self._has_content_after_usage = False
        self._has_finish_reason = False
        self._is_usage_of_finished = False
        """The usage came with or after a `finish_reason`."""

    def _on_event(self, name: bytes, data: bytes) -> None:
        if data == b"[DONE]":
            self._ended = True
            return
        if not data:
            return
        generated = self._generated(data)
        self._generated_bytes += generated
        if generated and self._told.tokens:
            self._has_content_after_usage = True
            self._is_usage_chunk = False
        self._look_for_finish(data)
        if b'"choices"' in data and not self._must_be_parsed(data):
            return
        if (document := self._parse(data, "unparsed_event")) is None:
            if name == b"error":
                self._fail()
            return
        self._name_model(document.get("model"))
        self._take_usage(document, data)
        self._take_error(document, is_error=name == b"error")

    def _set_content_aside(self, data: bytes, events: EventReader) -> bytes:
        if self._model is None:
            first = data.find(b"\n\n") + 2
            self._take(events.feed(data[:first]))
            data = data[first:]
        if self._model is None or self._told.tokens:
            return data
        rest, at, looked_at = [], 0, 0
        for start, end in _runs_of_content(data):
            if _TELLS_USAGE.search(data, looked_at, start) is not None:
                break  # an event of another look told it: what comes after it has a meaning by where it stands
            run, looked_at = data[start:end], end
            content = run
            if b'"usage"' in content and (usage := _TELLS_USAGE.search(content)) is not None:
                before, blank, _ = content[: usage.start()].rpartition(b"\n\n")
                content = before + blank
            if content and b'"error"' not in content:
                rest.append(data[at:start])
                at = start + len(content)
                self._leave_uncounted(content)
                self._look_for_finish(content)
            if content != run:
                break  # what comes after usage has a meaning by where it stands
        return b"".join([*rest, data[at:]])

    def _look_for_finish(self, data: bytes) -> None:
        """Within content the quotes around the name would have a backslash before them."""
        if b'"finish_reason":"' in data or b'"finish_reason": "' in data:
            self._has_finish_reason = True

    def _must_be_parsed(self, data: bytes) -> bool:
        """Whether a chunk says more than its content. Events are parsed, too, until one has named the model."""
        if self._model is None and self._parsed_for_model < _FIRST_EVENTS:
            self._parsed_for_model += 1
            return True
        return b'"error"' in data or (b'"usage"' in data and _TELLS_USAGE.search(data) is not None)

    def _on_body(self, document: Mapping[str, Any], data: bytes | bytearray) -> None:
        self._name_model(document.get("model"))
        self._take_usage(document, data)
        self._take_error(document)

    def _take_usage(self, document: Mapping[str, Any], data: bytes | bytearray) -> None:
        path: Path = ("usage",)
        if (told := document.get("usage")) is None and "x_groq" in document:
            path = ("x_groq", "usage")
            told = value_at(document, path)
        if isinstance(usage := self._merge(told, data, path), dict) and usage:
            self._is_usage_chunk = not document.get("choices")
            self._has_content_after_usage = False
            self._is_usage_of_finished = self._has_finish_reason
            self._take_terms(usage)  # as a gateway to Anthropic tells them
        self._take_terms(document)

    def _take_error(self, document: Mapping[str, Any], *, is_error: bool = False) -> None:
        if is_error or document.get("error") or document.get("object") == "error":
            of = document.get("error")
            told = of if isinstance(of, dict) else document
            self._fail(told.get("type"), told.get("code"))

    def _generated(self, data: bytes | bytearray) -> int:
        """Bytes of generated content. Some upstreams tell the reasoning twice, by both of its names."""
        total = reasoning = reasoning_content = 0
        for name, text in self.content.findall(data, max(data.find(DELTA), 0)):
            length = string_bytes(text)
            total += length
            if name == b"reasoning":
                reasoning += length
            elif name == b"reasoning_content":
                reasoning_content += length
        return total - min(reasoning, reasoning_content)

    def _is_final(self) -> bool:
        has_ended = self._ended or (self._is_over and self._is_usage_of_finished)
        return self._is_usage_chunk or (has_ended and not self._has_content_after_usage)

    def _usage(self, flags: set[str]) -> Usage:
        told = self._told
        if PROMPT not in told.tokens or COMPLETION not in told.tokens:
            flags.add("incomplete_usage")
        if self._has_content_after_usage:
            flags.add("content_after_usage")
        if told.get(AUDIO_IN) or told.get(AUDIO_OUT):
            flags.add("audio_tokens")
        if told.get(IMAGES_OUT):
            flags.add("image_tokens")
        if used_other_tools(told):
            flags.add("server_tool_use")
        return _usage(told, flags)


def _runs_of_content(data: bytes) -> Iterator[tuple[int, int]]:
    """Where events stand, one after the other, that may be content only. `data` begins between two events."""
    find, start, begin = data.find, 0, 0
    while (end := find(b"\n\n", begin) + 2) != 1:  # which is what `find` makes of no more
        is_alone = data.startswith(b"data: {", begin) and find(b"\n", begin) == end - 2
        if not is_alone or find(b'"choices"', begin, end) < 0:
            if start < begin:
                yield start, begin
            start = end
        begin = end
    if start < begin:
        yield start, begin


def _usage(told: RawUsage, flags: set[str]) -> Usage:
    prompt, output, beyond = _parts(told, flags)
    reasoning = told.get(REASONING)
    read = _one(told, flags, *_READ) or 0
    for_5m, for_1h = _writes(told, flags)
    cache = read + for_5m + for_1h
    uncached = prompt - cache
    cannot_be_within = beyond > cache > prompt and not reasoning
    if cache and beyond and (cannot_be_within or beyond in (cache, cache + reasoning)):
        flags.add("prompt_excludes_cache")
        uncached = prompt
        beyond -= cache
    if beyond and beyond == reasoning:
        flags.add("reasoning_beside_output")
        output += reasoning
    elif beyond > 0 and not reasoning:
        flags.add("reasoning_by_total")
        reasoning = beyond
        output += beyond
    elif beyond:
        flags.add("total_mismatch")
    elif REASONING_OF_RESEARCH in told.tokens and (researched := _researched(told, output)):
        flags.add("reasoning_beside_output")
        reasoning = researched
        output += researched
        uncached += told.get(CITATIONS)  # LiteLLM tells a number of its own for answers that were not researched
    if uncached < 0:  # the parts cannot be in it
        flags.add("total_mismatch")
        uncached = prompt
    if reasoning > output:
        flags.add("total_mismatch")
    searches = max(map(told.get, _SEARCHES))
    return Usage(uncached, for_5m, for_1h, read, output, min(reasoning, output), searches)


def _researched(told: RawUsage, output: int) -> int:
    """Reasoning beside an output and a total that know nothing of it. Others than Perplexity may tell a part so."""
    reasoning = 0 if told.get(REASONING) else told.get(REASONING_OF_RESEARCH)
    return reasoning if reasoning > output or told.get(CITATIONS) or told.get(SEARCHES_OF_PERPLEXITY) else 0


def _parts(told: RawUsage, flags: set[str]) -> tuple[int, int, int]:
    """The prompt, the output, and what the total has beyond both.

    A total says something of reasoning or cache beside them only where both were told; where one was not, or is no
    count, that one is what the other leaves of the total.
    """
    prompt, output = told.get(PROMPT), told.get(COMPLETION)
    valid = told.tokens.keys() - told.invalid
    if TOTAL not in valid or valid.isdisjoint((PROMPT, COMPLETION)):
        return prompt, output, 0
    total = told.tokens[TOTAL]
    if PROMPT in valid and COMPLETION in valid:
        return prompt, output, total - prompt - output
    flags.add("part_by_total")
    if PROMPT in valid:
        output = max(total - prompt, 0)
    else:
        prompt = max(total - output, 0)
    return prompt, output, 0


def _writes(told: RawUsage, flags: set[str]) -> tuple[int, int]:
    """Tokens written for five minutes and for an hour. OpenAI's own count knows no lifetimes, OpenRouter's neither."""
    total = _one(told, flags, *_WRITTEN)
    for_5m = _one(told, flags, *_WRITTEN_5M)
    for_1h = _one(told, flags, *_WRITTEN_1H)
    return cache_writes(total, for_5m, for_1h, flags)


def _one(told: RawUsage, flags: set[str], *paths: Path) -> int | None:
    """A count that has several names: the first that was told. Two that differ are a contradiction."""
    counts = [told.tokens[path] for path in paths if path in told.tokens]
    if len({*counts}) > 1:
        flags.add("total_mismatch")
    return counts[0] if counts else None
