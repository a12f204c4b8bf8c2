"""The meter of the OpenAI Responses protocol.

Sources: `types/responses/` of openai-python (`response_usage.py`, `response_stream_event.py`,
`response_error_event.py`, `response_function_web_search.py`), which say that `input_tokens` has the cached and the
written ones in it and `output_tokens` the reasoning, and that `tool_usage` counts the searches that have a fee. Where
that is not told, they are the calls whose action is a search, and does not open a page or look for something in one
(platform.openai.com "Pricing"). Gateways tell searches in the usage, by Anthropic's name or LiteLLM's.

The usage is final when it comes with the response that has ended: in the event `response.completed`,
`response.incomplete` or `response.failed`, or in a JSON body. An event tells by its `type` what it is; gateways leave
out the line `event:`, and send a `[DONE]` behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from goproxy.core.meter import Meter, content_of, end_from_usage, string_bytes
from goproxy.core.raw_usage import SEARCHES, Counts, Path, used_other_tools, value_at
from goproxy.core.sse import EventReader
from goproxy.core.usage import Usage, cache_writes, is_count

INPUT = ("input_tokens",)
OUTPUT = ("output_tokens",)
TOTAL = ("total_tokens",)
CACHED = ("input_tokens_details", "cached_tokens")
WRITTEN = ("input_tokens_details", "cache_write_tokens")
WRITTEN_SHORT = ("input_tokens_details", "cache_write_tokens_details", "ttl_30m_tokens")
WRITTEN_LONG = ("input_tokens_details", "cache_write_tokens_details", "ttl_12h_tokens")
REASONING = ("output_tokens_details", "reasoning_tokens")
_SEARCHES = (SEARCHES, ("input_tokens_details", "web_search_requests"))
COUNTS = Counts(
    (INPUT, OUTPUT, TOTAL, CACHED, WRITTEN, WRITTEN_SHORT, WRITTEN_LONG, REASONING),
    prompt=(INPUT,),
    searches=_SEARCHES,
)

_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_ITEM_IS_DONE = "response.output_item.done"
_SAYS_IT_AGAIN = frozenset({"response.queued", "response.in_progress"})
"""Of the response what `response.created` said, with all of its instructions once more."""
_PARSED = frozenset({*_ENDS, _ITEM_IS_DONE, "response.created", *_SAYS_IT_AGAIN})
_TYPE = re.compile(rb'"type"\s*+:\s*+"(response\.[a-z_.]++)"')
_IN_STREAMS = content_of("delta")
"""Each piece of text, thinking, refusal or arguments; events that end a part tell the whole of it once more."""

_DELTAS = re.compile(rb'(?:(?:event: [a-z_.]++\n)?data: {"type": ?"response\.[a-z_.]++(?<=\.delta)"[^\n]*+\n\n)+')
"""Events of nothing but content."""

_AUDIO = b'audio.delta"'
_SEARCH_CALLS = ("web_search_call", "openrouter:web_search")
_TOOLS_WITH_A_FEE = ("file_search_call", "code_interpreter_call", "image_generation_call")
_TOOLS_OF_XAI = "server_side_tool_usage_details"
"""How often each was used; some have a fee."""


class ResponsesMeter(Meter):
    """Reads answers to `POST /v1/responses`."""

    counts = COUNTS
    content = content_of("text", "refusal", "arguments", "input")
    plain_content = frozenset({b"delta"})

    def __init__(self, *, stream: bool) -> None:
        super().__init__(stream=stream)
        self._fees: int | None = None
        """The searches that have a fee, by the provider's own count."""

    def _on_event(self, name: bytes, data: bytes) -> None:
        if not data or data == b"[DONE]":
            return
        kind = (name if (found := _TYPE.search(data)) is None else found[1]).decode(errors="replace")
        if kind.startswith("response.") and kind not in _PARSED:
            self._generated_bytes += self._generated(data)
            return
        if kind in _SAYS_IT_AGAIN and self._model is not None:
            return
        document = self._parse(data, "unparsed_event") or {}
        response = document.get("response")
        if isinstance(response, dict):
            self._take_response(response, data, ("response", "usage"))
        if kind in _ENDS:
            self._ended = True
        elif kind == _ITEM_IS_DONE:
            self._searches += self._take_item(document.get("item"))
        if "error" in (kind, document.get("type")) or document.get("error"):
            told = document.get("error")
            self._take_error(told if isinstance(told, dict) else document)
        elif kind == "response.failed":
            self._fail("server_error")  # unless its response told another one

    def _on_tail(self, name: bytes, tail: bytes) -> None:
        """The last event has the whole answer and its instructions in it, and tells the usage behind them."""
        super()._on_tail(name, tail)
        is_end = not name or name.decode(errors="replace") in _ENDS
        if is_end and (found := end_from_usage(b'{"response":{', tail)) is not None:
            document, data = found
            self._take_response(document["response"], data, ("response", "usage"))
            self._ended = True

    def _on_body(self, document: Mapping[str, Any], data: bytes | bytearray) -> None:
        self._take_response(document, data, ("usage",))

    def _take_response(self, response: Mapping[str, Any], data: bytes | bytearray, path: Path) -> None:
        self._name_model(response.get("model"))
        usage = self._merge(response.get("usage"), data, path)
        if isinstance(usage, dict):
            self._take_terms(usage)  # as a gateway to Anthropic tells them
            if usage.get(_TOOLS_OF_XAI):
                self._flags.add("server_tool_use")
        self._take_terms(response)
        if isinstance(items := response.get("output"), list) and items:  # what is whole has all of them once more
            self._searches = sum(map(self._take_item, items))
        if value_at(response, ("tool_usage", "image_gen", "total_tokens")):
            self._flags.add("server_tool_use")
        if is_count(fees := value_at(response, ("tool_usage", "web_search", "num_requests"))):
            self._fees = fees
        if error := response.get("error"):
            self._take_error(error if isinstance(error, dict) else {})

    def _take_item(self, item: object) -> bool:
        """What the provider ran for the answer, beside the model; whether it is a search that has a fee."""
        kind = value_at(item, ("type",))
        if kind in _TOOLS_WITH_A_FEE:
            self._flags.add("server_tool_use")
        is_search = kind in _SEARCH_CALLS and value_at(item, ("action", "type")) in (None, "search")
        return is_search and value_at(item, ("status",)) != "failed"

    def _take_error(self, error: Mapping[str, Any]) -> None:
        kind = error.get("type")
        self._fail(None if kind == "error" else kind, error.get("code"))

    def _set_content_aside(self, data: bytes, events: EventReader) -> bytes:  # noqa: ARG002
        rest, at, begin = [], 0, 0
        while begin != 1:  # which is what `find` makes of no more
            if (run := _DELTAS.match(data, begin)) is not None:
                rest.append(data[at:begin])
                at = begin = run.end()
                self._leave_uncounted(run[0])
            begin = data.find(b"\n\n", begin) + 2
        return b"".join([*rest, data[at:]])

    def _generated_alike(self, run: bytes) -> int | None:
        if _AUDIO in run:
            return None
        texts = [text for _, text in _IN_STREAMS.findall(run)]
        generated = b"".join(texts)
        if b"\n" in generated:  # a string without an end
            return None
        return sum(map(string_bytes, texts)) if b"\\" in generated else len(generated)

    def _generated(self, data: bytes | bytearray) -> int:
        if self._events is None:
            return super()._generated(data)
        if _AUDIO in data:
            return 0
        return sum(string_bytes(text) for _, text in _IN_STREAMS.findall(data))

    def _is_final(self) -> bool:
        return self._ended

    def _usage(self, flags: set[str]) -> Usage:
        told = self._told
        if INPUT not in told.tokens or OUTPUT not in told.tokens:
            flags.add("incomplete_usage")
        prompt, output, reasoning = told.get(INPUT), told.get(OUTPUT), told.get(REASONING)
        if used_other_tools(told):
            flags.add("server_tool_use")
        count, read = told.tokens.get, told.get(CACHED)
        for_5m, for_1h = cache_writes(count(WRITTEN), count(WRITTEN_SHORT), count(WRITTEN_LONG), flags)
        uncached = prompt - read - for_5m - for_1h
        if uncached < 0:  # the parts cannot be in it
            flags.add("total_mismatch")
            uncached = prompt
        if reasoning > output or told.tokens.get(TOTAL, prompt + output) != prompt + output:
            flags.add("total_mismatch")
        searches = max(self._searches, *map(told.get, _SEARCHES)) if self._fees is None else self._fees
        return Usage(uncached, for_5m, for_1h, read, output, min(reasoning, output), searches)
