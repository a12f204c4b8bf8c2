"""The little that the proxy must know of a request's body, read without changing a byte of it.

All protocols have `model` and `stream` at the top level of one JSON object. A name that stands twice in an object, that
one or another, is refused: the proxy would price the last one, an upstream might run the first. Most clients write JSON
as orjson does, without spaces: a body that orjson writes again byte for byte has no name twice, and is read by that
alone. Of any other one the members are walked one by one, once. So they are to find the place of a value that is to be
replaced where it stands, with every other byte as it was: a model's name, and the wish for usage in a stream.

Everybody waits while a body is read, so that what reading costs is bounded before it begins: by the number of values
and of names. What is left are bytes, of which a megabyte costs a few milliseconds.

The walk is over the bytes as Latin-1, a character each: places are those of bytes, and one emoji does not make the text
four times as large. Whatever is read here of names and values is ASCII, or is decoded from its own bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from goproxy.core.input_estimate import (
    LOOKED_AT,
    MOST_BLOCKS,
    OPENING_FIELDS,
    READ_WITHIN,
    are_words,
    blocks_of,
    estimate_input,
    names_within,
    objects,
    tools_of,
)
from goproxy.core.terms import STANDARD


class InvalidBody(Exception):
    """The body is not what the protocols ask for; the text says why and quotes nothing of it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Made of each object that is walked over.

    Raises:
        InvalidBody: it has a name twice.
    """
    if len(fields := dict(pairs)) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidBody(f"The request body has the same field twice within it: {twice[:_MOST_NAMES]!r}.")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_scan: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once  # type: ignore[attr-defined]
_AFTER_VALUE = frozenset({",", "}"})
_SPACE = re.compile(r"[ \t\n\r]*")

_MOST_VALUES = 100_000
"""One takes up to 250 bytes of memory and a microsecond of everybody's time, be it of two bytes. A conversation that
fills a context of a million tokens, with 2,000 messages and 100 tools, has 40,000."""

_MOST_NAMES = 256
"""Of an object that is walked: each costs several microseconds. The protocols have about 40 at the top level."""

_BEFORE_VALUES = b"[{,"
"""Before each value there is one of these, or one before its name."""

_FLESH = bytes(set(range(256)) - {*_BEFORE_VALUES, *b'"\\/bfnrtu'})
"""What is not looked at to count values: all but these, quotes, and backslashes with what they may stand before."""

_AT_ONCE = 64 * 1024
"""Bytes that the processor's cache holds, with a copy of them."""

_SPACED = b'": '
_BEGINNING = 256
"""What stands early in a body that is written with spaces (as Python's json does), and how early."""

_LARGE = 256 * 1024
_MANY_ESCAPES = 4
"""Bytes for each backslash in a large body that is walked at once: to write so many again takes longest."""

_MOST_CHOICES = 1024
"""OpenAI takes 128."""

LIMITS = ("max_tokens", "max_completion_tokens")
"""The fields by which a chat completion is bounded."""

_OTHER_LIMITS = ("max_output_tokens", "maxOutputTokens", "maxTokens", "max_new_tokens", "max_tokens_to_sample")
_OTHER_CHOICES = ("candidate_count", "candidateCount")
"""What LiteLLM also takes for `max_tokens` and `n`, and before them, where the provider is Google or Amazon."""

_OTHER_MODELS = (
    *("fallbacks", "models", "context_window_fallbacks", "content_policy_fallbacks", "mock_testing_fallbacks"),
    "context_window_fallback_dict",
    *("mock_testing_context_fallbacks", "mock_testing_content_policy_fallbacks", "router_settings_override"),
    *("user_config", "preset", "deployment_id", "custom_llm_provider", "model_id", "prompt_id"),
    *("litellm_credential_name", "prompt"),
)
"""By these Anthropic, OpenRouter and LiteLLM let another model answer, perhaps a dearer one than is held for.
`prompt` is OpenAI's, who holds it with a model and tools of its own."""

_DRAWING = "image_generation"
"""OpenAI's tool that asks a model of images."""

_LITELLMS_OWN = "litellm_proxy"
"""The address of LiteLLM's own MCP gateway: of its several calls of the model, the usage of the last one is told."""

_OPENROUTERS = "openrouter:"
_OPENROUTERS_ALONE = frozenset(
    _OPENROUTERS + name
    for name in ("web_search", "web_fetch", "datetime", "apply_patch", "bash", "files", "memory", "mcp")
)
_PLUGINS = "plugins"
_PLUGINS_ALONE = frozenset({"web", "web-fetch", "file-parser", "response-healing", "context-compression", "moderation"})
"""OpenRouter's tools and plugins that ask no other model. What the others use is billed with the request."""

_PAID_BY_ITS_MODEL = "a request is paid by its model here, and no other may answer."

_WAYS_OF_SENDING = (
    *("num_retries", "max_retries", "retry_policy", "timeout", "request_timeout", "stream_timeout", "force_timeout"),
    *("headers", "extra_headers", "provider_specific_header", "extra_query", "aws_region_name"),
    *("vertex_location", "vertex_project", "serviceTier", "performanceConfig", "enable_json_schema_validation"),
)
"""By these LiteLLM sends a request several times, elsewhere or on dearer terms, or breaks it off; or it tells the whole
answer in an error, which costs nothing."""

_UNATTENDED = "background"
"""With it OpenAI answers at once, and works on for an answer that is fetched later: past whoever meters it."""

_TREE = "multi_agent"
"""OpenAI's beta, in which agents begin others: there is no limit on how many, nor on what they read and write."""

_FORMAT, _VALIDATING = "response_format", "enforce_validation"
"""With `response_format.enforce_validation` LiteLLM tells the whole answer in an error, which costs nothing."""

_DROPPING = "additional_drop_params"
"""With it LiteLLM keeps fields from the provider: `max_tokens` that were held for, too."""

_SPREAD = ("extra_body", "generationConfig", "generation_config")
"""Objects that LiteLLM spreads over the request."""

_RARE = frozenset(
    {
        *_OTHER_LIMITS,
        *_OTHER_CHOICES,
        *_OTHER_MODELS,
        *_WAYS_OF_SENDING,
        _PLUGINS,
        _FORMAT,
        _UNATTENDED,
        _TREE,
        _DROPPING,
        *_SPREAD,
        *STANDARD,
    }
)
READ_FIELDS = _RARE.union(
    ("model", "stream", "stream_options", "messages", "input", "tools", "max_tokens", "max_completion_tokens", "n")
)
"""What must be understood, and is refused where it cannot be."""

_FOLDED = {name.casefold(): name for name in READ_FIELDS | OPENING_FIELDS}
"""Upstreams written in Go read JSON without regard to case: `Model` is their `model`, and the later one counts."""

_FOLDED_TO_OTHERS = _FOLDED.keys() - {*_FOLDED.values()}

_FOLDED_WITHIN = {name.casefold(): name for name in READ_WITHIN}

_NO_TERMS: Mapping[str, str] = {}


Places = dict[str, tuple[int, int]]
"""Where values stand in a body, by name: their first byte, and the one behind their last."""

_REPLACED = frozenset({"model", "stream_options"})
_USAGE = "include_usage"


class Member(NamedTuple):
    """A value of an object, and the characters that it takes up."""

    name: str
    value: Any
    start: int
    end: int


@dataclass(slots=True)  # not frozen: that makes one twice as dear, for each request
class RequestBody:
    """A request's body, and what was asked for."""

    body: bytes
    model: str
    stream: bool

    max_output_tokens: int | None
    """How many tokens one choice may have: the highest of `max_tokens`, `max_completion_tokens` and their likes.

    None: none of them is a bound."""

    choices: int
    """How many answers are generated side by side (OpenAI's `n`)."""

    includes_usage: bool
    """The stream shall have OpenAI's usage chunk."""

    estimated_input_tokens: int
    most_input_tokens: int
    """An upper bound, unless there is remote input; see input_estimate.py."""

    has_remote_input: bool
    """The body does not bound the input, and the model's context is the bound."""

    web_searches: int
    """How often the provider may search the web for one choice."""

    terms: Mapping[str, str]
    """The values of the fields that terms.py knows, of those that it has."""
    has_stream_options: bool

    places: Places | None
    """Of what may be replaced; None: it was not looked for yet."""

    @property
    def lacks_usage(self) -> bool:
        """It is for a stream without usage. (OpenAI refuses to be asked for it without a stream.)"""
        return self.stream and not self.includes_usage

    def sent_as(self, model: str, *, asking_for_usage: bool = False) -> bytes:
        """The body with this model in place of the named one, and nothing else different.

        `asking_for_usage`: where the body `lacks_usage`, its `stream_options.include_usage` is true then, too.
        """
        asking_for_usage = asking_for_usage and self.lacks_usage
        if model == self.model and not asking_for_usage:
            return self.body
        places = self.places
        if places is None:
            names = {"model", "stream_options"} if asking_for_usage and self.has_stream_options else {"model"}
            places = _places_in(self.body, names)
        edits = [(*places["model"], json.dumps(model, ensure_ascii=False).encode())] if model != self.model else []
        if asking_for_usage:
            edits.append(_wish_for_usage(self.body, places))
        whole = memoryview(self.body)
        parts: list[bytes | memoryview] = []
        at = 0
        for start, end, written in sorted(edits):
            parts += (whole[at:start], written)
            at = end
        return b"".join((*parts, whole[at:]))


def read_request_body(body: bytes, limits: Collection[str] = LIMITS) -> RequestBody:
    """Read what must be known of `body`.

    Args:
        limits: the fields by which an answer is bounded (`WireProtocol.limits`).

    Raises:
        InvalidBody: it is no JSON object, or a field that must be known is not what it must be.
    """
    if _has_too_many_values(body):
        raise InvalidBody(f"The request body has more than {_MOST_VALUES:,} values. Send less at a time.")
    try:
        fields = orjson.loads(body)
    except ValueError:  # what others read, and depth
        return _read_fields(*_walked(body, None), body, limits)
    if type(fields) is not dict or not _is_compact(fields, body):
        return _read_fields(*_walked(body, fields), body, limits)
    if len(fields) > _MOST_NAMES:
        raise _too_many_names()
    return _read_fields(fields, None, body, limits)


def _has_too_many_values(body: bytes) -> bool:
    """Whether there are more values than may be; known before anything is made of them."""
    if len(body) <= 2 * _MOST_VALUES:  # each has two bytes at least
        return False
    pieces = [body[at : at + _AT_ONCE] for at in range(0, len(body), _AT_ONCE)]
    at_most = 0
    for piece in pieces:
        at_most += len(piece) - len(piece.translate(None, _BEFORE_VALUES))
        if at_most > _MOST_VALUES:
            break
    else:
        return False
    # Most of them may stand within strings. Without escaped quotes those are every other piece between quotes.
    bones = b"".join([piece.translate(None, _FLESH) for piece in pieces])
    bones = bones.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bones.count(b'"') > 4 * (_MOST_VALUES + 1):  # of a string and its name
        return True
    outside = b"".join(bones.split(b'"')[::2])
    return sum(map(outside.count, _BEFORE_VALUES)) > _MOST_VALUES


def _is_compact(fields: dict[str, Any], body: bytes) -> bool:
    """Whether orjson writes the body again byte for byte. False: it was not tried, or does not."""
    if body.find(_SPACED, 0, _BEGINNING) >= 0:
        return False
    if len(body) > _LARGE and body.count(b"\\") > len(body) // _MANY_ESCAPES:
        return False
    try:
        return orjson.dumps(fields) == body
    except TypeError:  # it reads what it does not write: depth
        return False


def _walked(body: bytes, fields: Any) -> tuple[dict[str, Any], Places]:
    """The fields of a body that is written in any way, and where what may be replaced stands.

    `fields`: as they were read already; None: they could not be.

    Raises:
        InvalidBody: it is no JSON object, or has a name twice where that counts.
    """
    try:
        if fields is None and not body.isascii():
            body.decode()
        walked: dict[str, Any] = {} if fields is None else fields
        places: Places = {}
        for name, value, start, end in _members(body.decode("latin-1")):
            if fields is None and not body[start:end].isascii():
                walked[name] = _value(body[start:end])  # names within it are compared, and these are Latin-1's
            elif fields is None or type(value) is int:  # orjson reads a very long one as a float
                walked[name] = value
            if name in _REPLACED:
                places[name] = (start, end)
                walked[name] = _value(body[start:end])
                if name == "stream_options" and isinstance(value, dict):
                    for _ in _members(body[start:end].decode("latin-1"), within="in stream_options"):
                        pass
    except UnicodeDecodeError as error:
        raise InvalidBody(f"The request body is not valid UTF-8 at byte {error.start}. Send JSON as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InvalidBody(f"The request body is not valid JSON: {error.msg} at byte {error.pos}.") from None
    except RecursionError:
        raise InvalidBody("The request body is nested too deeply.") from None
    except ValueError:  # an integer of more digits than Python reads
        raise InvalidBody("The request body holds a number with too many digits.") from None
    return walked, places


def _check_case(fields: Mapping[str, Any]) -> None:
    """Nearly every request has names in lower case only: that is seen in one look at all of them.

    Raises:
        InvalidBody: a field that is read here is written in another case.
    """
    names = "".join(fields)
    if names.isascii() and names == names.lower() and _FOLDED_TO_OTHERS.isdisjoint(fields):
        return
    for name in fields:
        if (meant := _FOLDED.get(name.casefold(), name)) != name:
            raise _in_another_case(meant)


def _in_another_case(name: str) -> InvalidBody:
    return InvalidBody(f"{name}: this field must be written like this, upper and lower case too.")


def _read_fields(fields: Mapping[str, Any], places: Places | None, body: bytes, limits: Collection[str]) -> RequestBody:
    _check_case(fields)
    model = fields.get("model")
    if "model" not in fields:
        raise InvalidBody("model: this field is required. GET /v1/models lists what there is.")
    if not isinstance(model, str):
        raise InvalidBody("model: this field must be a string.")
    limit, other = _integer(fields, "max_tokens", at_least=0), _integer(fields, "max_completion_tokens", at_least=0)
    limit = limit if other is None else _higher(limit, other)
    choices = (_integer(fields, "n", at_least=1, at_most=_MOST_CHOICES) or 1) if "n" in fields else 1
    terms = _NO_TERMS
    if not _RARE.isdisjoint(fields):
        limit, choices = _read_rare(fields, limit, choices)
        terms = {name: value for name in STANDARD if (value := _text(fields, name)) is not None}
    if limit:
        for name in limits:
            if fields.get(name) is not None:
                break
        else:
            limit = None
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidBody("stream_options: this field must be an object.")
    for name in options or ():
        if name != _USAGE and name.casefold() == _USAGE:
            raise _in_another_case(f"stream_options.{_USAGE}")
    has_words = are_words(fields)
    blocks = [] if has_words else blocks_of(fields)
    if len(blocks) > MOST_BLOCKS:
        raise InvalidBody(f"The messages consist of more than {MOST_BLOCKS:,} blocks. Send less at a time.")
    tokens, most, is_open, searches = len(body), len(body), False, 0
    if not has_words or not LOOKED_AT.isdisjoint(fields):
        tools = tools_of(fields, blocks)
        for name in names_within(fields, blocks, tools):
            if (meant := _FOLDED_WITHIN.get(name.casefold(), name)) != name:
                raise _in_another_case(meant)
        if tools:
            _check_tools(tools, model)
        tokens, most, is_open, searches = estimate_input(fields, blocks, tools, len(body))
    return RequestBody(
        body,
        model,
        _flag(fields, "stream"),
        limit or None,
        choices,
        options is not None and _flag(options, _USAGE, within="stream_options."),
        tokens,
        most,
        is_open,
        searches,
        terms,
        "stream_options" in fields,
        places,
    )


def _read_rare(fields: Mapping[str, Any], limit: int | None, choices: int) -> tuple[int | None, int]:
    """What other fields make of the limit and the choices.

    Raises:
        InvalidBody: they let another model answer, or hide a field that must be known.
    """
    for name in _OTHER_MODELS:
        if fields.get(name):
            raise InvalidBody(f"{name}: {_PAID_BY_ITS_MODEL} Leave this field out.")
    for plugin in objects(fields.get(_PLUGINS)):
        if str(plugin.get("id")) not in _PLUGINS_ALONE:
            raise InvalidBody(f"{_PLUGINS}.id: {_PAID_BY_ITS_MODEL} Leave this plugin out.")
    for name in _WAYS_OF_SENDING:
        if fields.get(name) is not None:
            raise _not_for_clients(name)
    if _flag(fields, _UNATTENDED):
        raise InvalidBody(f"{_UNATTENDED}: the answer must come on this connection. Leave this field out.")
    if (tree := fields.get(_TREE)) and tree != {"enabled": False}:
        raise InvalidBody(f"{_TREE}: nothing bounds what several agents cost together. Leave this field out.")
    if isinstance(form := fields.get(_FORMAT), dict) and form.get(_VALIDATING):
        raise _not_for_clients(f"{_FORMAT}.{_VALIDATING}")
    if fields.get(_DROPPING):
        raise InvalidBody(
            f"{_DROPPING}: a request is held for as it stands, and must be sent so. Leave this field out."
        )
    for name in _SPREAD:
        if isinstance(inner := fields.get(name), dict) and (hidden := READ_FIELDS & inner.keys()):
            raise InvalidBody(f"{name}.{min(hidden)}: this field must stand at the top level of the request.")
    for name in _OTHER_LIMITS:
        if (other := _integer(fields, name, at_least=0)) is not None:
            limit = _higher(limit, other)
    for name in _OTHER_CHOICES:
        choices = max(choices, _integer(fields, name, at_least=1, at_most=_MOST_CHOICES) or 1)
    return limit, choices


def _higher(limit: int | None, other: int) -> int:
    """Of two limits. 0 is the highest: some gateways take it for no limit, whatever another field says."""
    return other if limit is None else max(limit, other) if limit and other else 0


def _not_for_clients(name: str) -> InvalidBody:
    return InvalidBody(f"{name}: how a request is sent is not for the client to say here. Leave this field out.")


def _check_tools(tools: Sequence[Mapping[str, Any]], model: str) -> None:
    """See that no tool brings a model of its own, as Anthropic's advisor, OpenAI's images and some of OpenRouter's do.

    Raises:
        InvalidBody: one does.
    """
    for tool in tools:
        if tool.get("model", model) not in (model, None):
            raise InvalidBody(f"tools.model: {_PAID_BY_ITS_MODEL} Leave this field out.")
        kind = tool.get("type")
        if kind == _DRAWING or (
            isinstance(kind, str) and kind.startswith(_OPENROUTERS) and kind not in _OPENROUTERS_ALONE
        ):
            raise InvalidBody(f"tools.type: {_PAID_BY_ITS_MODEL} Leave this tool out.")
        if str(tool.get("server_url")).startswith(_LITELLMS_OWN):
            raise InvalidBody(
                "tools.server_url: what LiteLLM runs by itself it does not tell whole. Leave this tool out."
            )


def _flag(fields: Mapping[str, Any], name: str, within: str = "") -> bool:
    """A field that is true, or else false, null or not there."""
    value = fields.get(name)
    if value is not None and value is not True and value is not False:
        raise InvalidBody(f"{within}{name}: this field must be true or false.")
    return bool(value)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if not isinstance(value, str | None):
        raise InvalidBody(f"{name}: this field must be a string.")
    return value


def _integer(fields: Mapping[str, Any], name: str, *, at_least: int, at_most: int | None = None) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or value < at_least:
        raise InvalidBody(f"{name}: this field must be an integer that is not below {at_least}.")
    if at_most is not None and value > at_most:
        raise InvalidBody(f"{name}: this field must be an integer that is not above {at_most}.")
    return value


def _wish_for_usage(body: bytes, places: Places) -> tuple[int, int, bytes]:
    """What is to be written where. It stands where the field stands, or else right behind the model."""
    if "stream_options" not in places:
        _, end = places["model"]
        return end, end, b',"stream_options":{"include_usage":true}'
    start, end = places["stream_options"]
    inner = body[start:end]
    if not inner.startswith(b"{"):  # null
        return start, end, b'{"include_usage":true}'
    wish = _places_in(inner, {"include_usage"}).get("include_usage")
    if wish is not None:
        return start + wish[0], start + wish[1], b"true"
    return start + 1, start + 1, b'"include_usage":true' + (b"," if inner[1:-1].strip() else b"")


def _places_in(body: bytes, names: set[str]) -> Places:
    """Where the values of these names stand, in an object that was read before; no further than to the last."""
    places: Places = {}
    for name, _, start, end in _members(body.decode("latin-1")):
        if name in names:
            places[name] = (start, end)
            if len(places) == len(names):
                break
    return places


def _value(written: bytes) -> Any:
    """A value that was walked over as Latin-1."""
    return _scan(written.decode(), 0)[0]


def _too_many_names(within: str = "at its top level") -> InvalidBody:
    return InvalidBody(f"The request body has more than {_MOST_NAMES} fields {within}.")


def _members(text: str, within: str = "at its top level") -> Iterator[Member]:
    """Walk the object that `text` must be: bytes as Latin-1. Of names alone, what they are is decoded."""
    at = _skip_space(text, 0)
    if text[at : at + 1] != "{":
        if text[at:]:
            _DECODER.decode(text)  # not JSON at all: that is the better complaint
        raise InvalidBody("The request body must be a JSON object.")
    names: set[str] = set()
    at = _skip_space(text, at + 1)
    if text[at : at + 1] == "}":
        _expect_end(text, at + 1)
        return
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name in double quotes", text, at)
        begin = at
        name, at = _scan(text, begin)
        if not (written := text[begin:at]).isascii():
            name = _value(written.encode("latin-1"))
        if name in names:
            raise InvalidBody(f"The request body has the same field twice {within}.")
        names.add(name)
        if len(names) > _MOST_NAMES:
            raise _too_many_names(within)
        if text[at : at + 1] != ":":
            at = _skip_space(text, at)
            if text[at : at + 1] != ":":
                raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
        start = _skip_space(text, at + 1)
        try:
            value, at = _scan(text, start)
        except StopIteration as nothing:
            raise json.JSONDecodeError("Expecting value", text, nothing.value) from None
        yield Member(name, value, start, at)
        if text[at : at + 1] not in _AFTER_VALUE:
            at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] == "}":
            _expect_end(text, at + 1)
            return
        else:
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)


def _expect_end(text: str, at: int) -> None:
    if (end := _skip_space(text, at)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _skip_space(text: str, at: int) -> int:
    if text[at : at + 1] > " ":
        return at
    match = _SPACE.match(text, at)
    assert match is not None  # the pattern matches the empty string too
    return match.end()
