"""What a meter is: it looks at the bytes of an answer beside their way to the client, and tells what they cost.

A meter is fed the body of an answer in whatever pieces it comes, and reads the same from every slicing of the same
bytes. It never raises, whatever the bytes are, and its memory is bounded: MAX_EVENT of sse.py for a stream, MAX_BODY
for a JSON body. What it cannot read it flags. The frame is here; what an event means is the protocol's matter
(anthropic_meter.py, openai_meter.py, responses_meter.py).

A meter runs beside every stream, and nearly all events are a few words of content. Those are told by a look at their
bytes and are not parsed; their content is measured where it stands. In usage a number with a fraction is kept as its
text: there is no float there that could be taken for a count.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from goproxy.core import sse
from goproxy.core.raw_usage import Counts, Path, RawUsage, value_at
from goproxy.core.sse import BYTE_ORDER_MARK, TAIL, Event, EventReader
from goproxy.core.terms import STANDARD
from goproxy.core.usage import Usage

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a JSON body that are kept until it ends: many times what the longest answer takes."""

_USAGE = re.compile(rb'(?<=[^\\])"usage"\s*+:\s*+(?=\{)')
_USAGES = 16
"""That are tried, from the last one."""

DELTA = b'"delta"'
_UNREAD = 4 * 1024
_UNCOUNTED = 12 * 1024
"""Bytes of a stream that are kept to be read, and to be counted, together with what comes after them.

The last piece is kept however long it is: it is read when its bytes have gone to the client."""

FLAGS: Mapping[str, str] = {
    "audio_tokens": "Some of the tokens are audio, which the provider prices differently; priced as text.",
    "cache_write_split_assumed": "Cache writes whose lifetime was not told, though an hour has another price than 5 "
    "minutes; priced at 5 minutes.",
    "content_after_usage": "Content came after the last usage and no usage after it: that was not the final one.",
    "final_usage_missing": "The answer came to its end without its final usage.",
    "image_tokens": "Some of the output is images, which the provider prices differently; priced as text.",
    "incomplete_usage": "Prompt or output tokens were never told (or never validly).",
    "invalid_usage": "A count was no integer from 0 to 20,000,000; the last valid one stands.",
    "no_event": "The body of an event stream held no event.",
    "other_model_usage": "Another model worked too (advisor, fallback); its tokens are told apart and are not priced.",
    "oversized_body": "The JSON body was longer than 8 MiB: only the usage at its end was looked for.",
    "oversized_event": "An event was longer than 1 MiB: at most the usage at its end was looked for.",
    "part_by_total": "Prompt or output was not told, or is no count: it is what the other part leaves of the total.",
    "prompt_excludes_cache": "By its own total, the OpenAI usage tells cache tokens beside the prompt, not in it.",
    "prompt_vanished": "Usage told of a prompt and then of none, which there cannot be; the former stands.",
    "raw_usage_trimmed": "The usage object was too long, too deep or not ASCII; only its counts are kept.",
    "reasoning_beside_output": "By its total, or Perplexity's, the usage has reasoning beside the output; added to it.",
    "reasoning_by_total": "By its own total, the OpenAI usage leaves tokens out of its parts: taken for reasoning.",
    "refused_unbilled": "The model refused before it said anything, which Anthropic itself does not bill, and others "
    "may; priced by the usage told.",
    "server_tool_use": "The provider ran tools other than its search, whose fee by use, if any, is not priced here.",
    "total_mismatch": "The usage contradicts itself: a sum or a part does not fit.",
    "undecoded_body": "The answer came in a Content-Encoding that was not asked for and cannot be read.",
    "unparsed_body": "The body is not the JSON that it should be.",
    "unparsed_event": "An event is not the JSON that it should be.",
    "zero_usage": "The usage tells of no prompt, or of no output though there was some: what is 0 is estimated.",
}
"""Every flag of a Reading, and what it means for the row that carries it."""


@dataclass(slots=True)  # not frozen: that makes one twice as dear, for each request
class Reading:
    """What a meter has seen by now."""

    usage: Usage | None
    """None: no usage was told."""

    raw_usage: Mapping[str, Any] | None
    """The provider's own usage object, merged field by field."""

    exact: bool
    """`usage` is the provider's final word, complete and valid."""

    ended: bool
    """The protocol's own end came: `message_stop`, `[DONE]`, a whole JSON body."""

    error: str | None
    """The type of an error event or error body, in the upstream's word: printable, at most 100 characters."""

    flags: tuple[str, ...]
    """Sorted; see FLAGS."""

    terms: Mapping[str, str]
    """The values of the fields that terms.py knows, of those that were told."""

    model: str | None
    """The model that the answer names: printable, at most 100 characters."""

    generated_bytes: int
    """Content that was generated (text, thinking, arguments of tools) as it came, in bytes of UTF-8.

    A lower bound of the output where no usage tells it: names, ids, signatures and the JSON around content do not
    count, nor does an event that was too long, nor (in a body that is no stream) the input of an Anthropic tool call.
    """

    searches: int = 0
    """Searches of the web that the provider was seen to begin, without those that failed; not of chat completions."""

    is_blank: bool = False
    """An event stream ended and had comments in it, if anything."""


class Meter(ABC):
    """The side view of one answer."""

    counts: ClassVar[Counts]

    content: ClassVar[re.Pattern[bytes]]
    """Finds the strings that are generated content: their name and their text (see `content_of`)."""

    plain_content: ClassVar[Set[bytes]]
    """The names that tell nothing twice."""

    def __init__(self, *, stream: bool) -> None:
        self._events = EventReader() if stream else None
        self._has_events = False
        self._body = bytearray()
        self._tail = bytearray()
        """Of what is beyond MAX_BODY."""
        self._flags: set[str] = set()
        self._told = RawUsage(self.counts)
        self._ended = False
        self._is_over = False
        """A stream of events ended as HTTP says, whether the protocol's end came or not."""
        self._is_blank = False
        self._error: str | None = None
        self._model: str | None = None
        self._terms: dict[str, str] = {}
        self._searches = 0
        self._generated_bytes = 0
        self._generated_at = 0
        """How long the body was when that was counted."""
        self.bytes = 0
        """Of the body, by now."""
        self._unread: list[bytes] = []
        self._read_bytes = 0
        self._uncounted: list[bytes] = []
        self._uncounted_bytes = 0
        """Runs of events of nothing but content, which are counted when that is wanted, or when they are many."""

    def feed(self, data: bytes) -> None:
        """The next piece of the body."""
        if self._events is not None:
            if self.bytes - self._read_bytes >= _UNREAD:
                self._read()
            self._unread.append(data)
        elif len(self._body) + len(data) <= MAX_BODY:
            self._body += data
        else:
            kept = MAX_BODY - len(self._body)
            self._body += data[:kept]
            self._tail += data[kept:]
            if len(self._tail) > 2 * TAIL:
                del self._tail[:-TAIL]
            self._flags.add("oversized_body")
        self.bytes += len(data)

    def lose(self) -> None:
        """What comes now cannot be decoded: what was told before is all that will be."""
        self._flags.add("undecoded_body")

    def end(self) -> None:
        """The body ended as HTTP says: it is whole. To be called once."""
        if "undecoded_body" in self._flags:
            return
        if self._events is not None:
            self._read()
            self._take(self._events.end())
            self._is_over = self._has_events
            if not self._has_events:
                self._flags.add("no_event")
                self._take_stray(self._events.stray)
        elif "oversized_body" in self._flags:
            self._read_tail()
        else:
            body = self._body.removeprefix(BYTE_ORDER_MARK) if self._body.startswith(BYTE_ORDER_MARK) else self._body
            document = self._parse(body, "unparsed_body")
            if document is not None:
                self._ended = True
                self._on_body(document, body)

    def usage(self) -> Usage | None:
        """The usage that was told by now."""
        self._read()
        return self._usage(set()) if self._told.tokens else None

    def terms(self) -> Mapping[str, str]:
        """The values of the fields that terms.py knows, of those that were told by now."""
        self._read()
        return self._terms

    def reading(self, *, counts_exact: bool = True) -> Reading:
        """What is known by now. `counts_exact`: what was generated is counted where the usage is exact, too."""
        self._read()
        flags = set(self._flags)
        told = self._told
        usage = self._usage(flags) if told.tokens else None
        is_final = usage is not None and self._is_final()
        if (self._ended or self._is_over) and not is_final and self._error is None:
            flags.add("final_usage_missing")
        if told.was_invalid:
            flags.add("invalid_usage")
        if told.had_no_prompt:
            flags.add("prompt_vanished")
        if told.was_trimmed:
            flags.add("raw_usage_trimmed")
        exact = is_final and not told.invalid and "incomplete_usage" not in flags
        if exact and usage is not None and self._lacks_something(usage):
            exact = False
            flags.add("zero_usage")
        return Reading(
            usage=usage,
            raw_usage=told.document or None,
            exact=exact,
            ended=self._ended,
            error=self._error,
            flags=tuple(sorted(flags)) if flags else (),
            terms=self._terms,
            model=self._model,
            generated_bytes=self._generated_by_now() if counts_exact or not exact else 0,
            searches=self._searches,
            is_blank=self._is_blank,
        )

    @abstractmethod
    def _on_event(self, name: bytes, data: bytes) -> None:
        """Take what an event says."""

    @abstractmethod
    def _on_body(self, document: Mapping[str, Any], data: bytes | bytearray) -> None:
        """Take what a whole JSON body says, which stands in `data`."""

    @abstractmethod
    def _is_final(self) -> bool:
        """Whether the usage told last is the provider's final word."""

    @abstractmethod
    def _usage(self, flags: set[str]) -> Usage:
        """The told counts as kinds of tokens; adds what is to be flagged."""

    @abstractmethod
    def _set_content_aside(self, data: bytes, events: EventReader) -> bytes:
        """Give the whole events in `data` that tell nothing but content to `_leave_uncounted`; the result is the rest.

        `data` begins between two events, and holds no CR. `events` has read what came before it.
        """

    def _on_tail(self, name: bytes, tail: bytes) -> None:  # noqa: ARG002
        """Take what the end says of an event that was too long."""
        self._flags.add("oversized_event")

    def _lacks_something(self, usage: Usage) -> bool:
        """Whether it tells of nothing where there was something. No prompt is empty, if there is an answer to it."""
        if usage.prompt and usage.output:
            return False
        return self._generated_by_now() > 0 or usage.output > 0

    def _read(self) -> None:
        """Read what was fed. Nearly all of a stream is content, which is told apart without looking into it."""
        if not self._unread or self._events is None:
            return
        data = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread, self._read_bytes = [], self.bytes
        if (
            len(data) <= sse.MAX_EVENT
            and b"\r" not in data
            and self._events.is_between_events
            and self._events.begin(data)
        ):
            data = self._set_content_aside(data, self._events)
            if (events := sse.plain_events(data)) is not None:
                for name, content in events:
                    self._has_events = True
                    self._on_event(name, content)
                return
        if data:
            self._take(self._events.feed(data))

    def _read_tail(self) -> None:
        """Take the usage at the end of a body whose middle was not kept."""
        tail = bytes((self._body[-TAIL:] + self._tail)[-TAIL:])
        if (found := end_from_usage(b"{", tail)) is not None:
            self._ended = True
            self._on_body(*found)

    def _take_stray(self, body: bytearray) -> None:
        """Take what came in place of events: some upstreams tell an error as they would without a stream."""
        self._is_blank = not body.strip()
        if (document := None if self._is_blank else self._parse(body, "no_event")) is not None:
            self._events, self._body, self._ended = None, body, True
            self._on_body(document, body)

    def _leave_uncounted(self, run: bytes) -> None:
        """Events of nothing but content, one after the other, each with the blank line that ends it."""
        self._has_events = True
        self._uncounted.append(run)
        self._uncounted_bytes += len(run)
        if self._uncounted_bytes >= _UNCOUNTED:
            self._generated_by_now()

    def _generated_by_now(self) -> int:
        if self._events is None:
            return self._generated_in_body()
        for run in self._uncounted:
            alike = self._generated_alike(run)
            self._generated_bytes += sum(map(self._generated, run.split(b"\n\n"))) if alike is None else alike
        self._uncounted, self._uncounted_bytes = [], 0
        return self._generated_bytes

    def _generated_alike(self, run: bytes) -> int | None:
        """What `_generated` finds in all of these events, in one go. None: they need a closer look."""
        start = run[: run.find(DELTA) + len(DELTA)]
        if not start.endswith(DELTA) or run.count(b"\n\n" + start) != run.count(b"\n\n") - 1 or b"\\" in run:
            return None
        found = self.content.findall(run)
        if self.content.search(start) or not {name for name, _ in found} <= self.plain_content:
            return None
        generated = b"".join([string for _, string in found])
        return None if b"\n" in generated else len(generated)

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            self._has_events = True
            if event.is_whole:
                self._on_event(event.name, event.data)
            else:
                self._on_tail(event.name, event.data)

    def _parse(self, data: bytes | bytearray, flag: str) -> Mapping[str, Any] | None:
        """A JSON object, or None and the flag. Broken UTF-8 in some text does not hide what stands beside it."""
        try:
            document = orjson.loads(data)
        except ValueError:
            document = _read_exactly(data)
        if isinstance(document, dict):
            return document
        self._flags.add(flag)
        return None

    def _merge(self, usage: Any, data: bytes | bytearray, path: Path) -> Any:
        """Take over the usage object that stands at `path` in the JSON `data`; the result is that object.

        A number in it that is no integer is kept as it was written: there is no float that could pass for a count.
        """
        if not self._told.merge_usual(usage):
            if _has_float(usage):
                usage = value_at(_read_exactly(data), path)
            self._told.merge(usage)
        return usage

    def _generated(self, data: bytes | bytearray) -> int:
        """Bytes of generated content in an event's data."""
        total = 0
        for _, text in self.content.findall(data, max(data.find(DELTA), 0)):
            total += string_bytes(text)
        return total

    def _generated_in_body(self) -> int:
        """The same of a JSON body, as far as it has come."""
        if self._generated_at != len(self._body):
            self._generated_at = len(self._body)
            self._generated_bytes = self._generated(self._body)
        return self._generated_bytes

    def _name_model(self, name: object) -> None:
        if self._model is None and isinstance(name, str):
            self._model = word(name) or None

    def _take_terms(self, told: Mapping[str, Any]) -> None:
        """Take over what an object tells of the terms: the last word counts, and what is no text tells nothing."""
        for name in STANDARD:
            if isinstance(value := told.get(name), str):
                self._terms[name] = value

    def _fail(self, *types: object) -> None:
        """An error was told: the first of these that is a word is its type. The first error stands."""
        if self._error is None:
            words = (word(str(each)) for each in types if isinstance(each, str | int))
            self._error = next(filter(None, words), "error")


def end_from_usage(begin: bytes, tail: bytes) -> tuple[dict[str, Any], bytes] | None:
    """The document that `begin` makes of what stands in a tail from the last usage on, and its JSON.

    From its name on there must be what ends the outermost object, and nothing after it. No text within the answer looks
    so, since a quote in a text has a backslash before it.
    """
    for found in reversed([*_USAGE.finditer(tail)][-_USAGES:]):
        data = begin + tail[found.start() :]
        try:
            return orjson.loads(data), data
        except ValueError:
            continue
    return None


def content_of(*names: str) -> re.Pattern[bytes]:
    """Finds strings by their names in JSON, without parsing it: a quote within a string always has a backslash before.

    The end of the string need not have come.
    """
    return re.compile(rb'"(%b)"\s*+:\s*+"([^"\\]*+(?:\\.[^"\\]*+)*)' % "|".join(names).encode(), re.DOTALL)


def string_bytes(text: bytes) -> int:
    """How many bytes of UTF-8 a JSON string, as it stands between its quotes, makes."""
    if b"\\" not in text:
        return len(text)
    try:
        return len(_DECODER.decode(f'"{text.decode(errors="replace")}"').encode(errors="surrogatepass"))
    except ValueError:
        return len(text)


def word(text: str) -> str:
    """What of an upstream's word can be shown and stored: printable, at most 100 characters."""
    text = text[:100]
    return text if text.isprintable() else "".join(filter(str.isprintable, text))


def _integer(text: str) -> int | str:
    """Python refuses integers of thousands of digits; here they are as little a count as any other text."""
    return int(text) if len(text) < 20 else text


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=str, parse_constant=str, strict=False)


def _read_exactly(data: bytes | bytearray) -> Any:
    """A JSON document with every number that is no integer as it was written; None if it is none."""
    try:
        return _DECODER.decode(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None


def _has_float(usage: object) -> bool:
    """Whether there is a float in it; orjson makes one of an integer of more than 64 bits, too."""
    waiting: list[Any] = [[usage]]
    while waiting:
        inner = waiting.pop()
        for each in inner.values() if isinstance(inner, dict) else inner:
            kind = each.__class__
            if kind is float:
                return True
            if kind is dict or kind is list:
                waiting.append(each)
    return False
