"""The little that the proxy must know of a request's body, read without changing a byte of it.

Both protocols have `model` and `stream` at the top level of one JSON object. A name that stands there twice is refused:
the proxy would price the last one, an upstream might run the first. Most clients write JSON as orjson does, without
spaces: a body that orjson writes again byte for byte has no name twice, and is read by that alone. Of any other one the
members are walked one by one. So they are to find the place of a value that is to be replaced where it stands, with
every other byte as it was: a model's name, and the wish for usage in a stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson

from goproxy.core.input_estimate import OPENING_FIELDS, estimate_input
from goproxy.core.terms import STANDARD

_DECODER = json.JSONDecoder()
_scan: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once  # type: ignore[attr-defined]
_AFTER_VALUE = frozenset({",", "}"})
_SPACE = re.compile(r"[ \t\n\r]*")

_LARGE = 256 * 1024
_MOST_VALUES = 1_000_000
"""In a larger body. One takes up to 250 bytes of memory and a microsecond of everybody's time, be it of three bytes;
and no model reads as many words."""

_MOST_CHOICES = 1024
"""OpenAI takes 128."""

_OTHER_LIMITS = ("max_output_tokens", "maxOutputTokens")
_OTHER_CHOICES = ("candidate_count", "candidateCount")
"""What LiteLLM also takes for `max_tokens` and `n`, and before them, where the provider is Google."""

_OTHER_MODELS = (
    *("fallbacks", "models", "context_window_fallbacks", "content_policy_fallbacks", "mock_testing_fallbacks"),
    *("mock_testing_context_fallbacks", "mock_testing_content_policy_fallbacks", "router_settings_override"),
)
"""By these Anthropic, OpenRouter and LiteLLM let another model answer, perhaps a dearer one than is held for."""

_PAID_BY_ITS_MODEL = "a request is paid by its model here, and no other may answer. Leave this field out."

_DROPPING = "additional_drop_params"
"""With it LiteLLM keeps fields from the provider: `max_tokens` that were held for, too."""

_SPREAD = ("extra_body", "generationConfig", "generation_config")
"""Objects that LiteLLM spreads over the request."""

_RARE = frozenset({*_OTHER_LIMITS, *_OTHER_CHOICES, *_OTHER_MODELS, _DROPPING, *_SPREAD, *STANDARD})
READ_FIELDS = _RARE.union(
    ("model", "stream", "stream_options", "messages", "tools", "max_tokens", "max_completion_tokens", "n")
)
"""What must be understood, and is refused where it cannot be."""

_FOLDED = {name.casefold(): name for name in READ_FIELDS | OPENING_FIELDS}
"""Upstreams written in Go read JSON without regard to case: `Model` is their `model`, and the later one counts."""

_FOLDED_TO_OTHERS = _FOLDED.keys() - {*_FOLDED.values()}

_NO_TERMS: Mapping[str, str] = {}


class InvalidBody(Exception):
    """The body is not what the protocols ask for; the text says why and quotes nothing of it."""


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
    """How many tokens one choice may have: the highest of `max_tokens`, `max_completion_tokens` and their likes."""

    choices: int
    """How many answers are generated side by side (OpenAI's `n`)."""

    includes_usage: bool
    """The stream shall have OpenAI's usage chunk."""

    estimated_input_tokens: int
    """An upper bound, unless there is remote input; see input_estimate.py."""

    has_remote_input: bool
    """The body does not bound the input, and the model's context is the bound."""

    terms: Mapping[str, str]
    """The values of the fields that terms.py knows, of those that it has."""

    def asking_for_usage(self) -> RequestBody:
        """The body with `stream_options.include_usage` true, and nothing else different.

        A body that asks for it already, or for no stream, stays as it is: OpenAI refuses the field without a stream.
        """
        if self.includes_usage or not self.stream:
            return self
        text = self.body.decode()
        return replace(self, body=_wishing_for_usage(text).encode(), includes_usage=True)

    def naming(self, model: str) -> bytes:
        """The body with another model in place of the named one; nothing else differs."""
        text = self.body.decode()
        named = _member(text, "model")
        assert named is not None, "a body without a model is refused"
        return (text[: named.start] + json.dumps(model, ensure_ascii=False) + text[named.end :]).encode()


def read_request_body(body: bytes) -> RequestBody:
    """Read what must be known of `body`.

    Raises:
        InvalidBody: it is no JSON object, or a field that must be known is not what it must be.
    """
    if len(body) > _LARGE and sum(map(body.count, b"[{,")) > _MOST_VALUES:
        raise InvalidBody(f"The request body has more than {_MOST_VALUES:,} brackets and commas. Send less at a time.")
    try:
        fields = orjson.loads(body)
        if type(fields) is not dict or orjson.dumps(fields) != body:
            del fields  # it may be large
            fields = _walked(body)
    except (ValueError, TypeError):  # what orjson refuses and others read, and what it reads and does not write: depth
        fields = _walked(body)
    return _read_fields(fields, body)


def _walked(body: bytes) -> dict[str, Any]:
    """The fields of a body that is written in any way.

    Raises:
        InvalidBody: it is no JSON object, or has a name twice where that counts.
    """
    try:
        text = body.decode()
        fields = {}
        for name, value, start, end in _members(text):
            fields[name] = value
            if name == "stream_options" and isinstance(value, dict):
                for _ in _members(text[start:end], within="in stream_options"):
                    pass
    except UnicodeDecodeError as error:
        raise InvalidBody(f"The request body is not valid UTF-8 at byte {error.start}. Send JSON as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InvalidBody(f"The request body is not valid JSON: {error.msg} at character {error.pos}.") from None
    except RecursionError:
        raise InvalidBody("The request body is nested too deeply.") from None
    except ValueError:  # an integer of more digits than Python reads
        raise InvalidBody("The request body holds a number with too many digits.") from None
    return fields


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
            raise InvalidBody(f"{meant}: this field must be written like this, upper and lower case too.")


def _read_fields(fields: Mapping[str, Any], body: bytes) -> RequestBody:
    _check_case(fields)
    model = fields.get("model")
    if "model" not in fields:
        raise InvalidBody("model: this field is required. GET /v1/models lists what there is.")
    if not isinstance(model, str):
        raise InvalidBody("model: this field must be a string.")
    limit, other = _integer(fields, "max_tokens", at_least=0), _integer(fields, "max_completion_tokens", at_least=0)
    limit = other if limit is None else limit if other is None else max(limit, other)
    choices = _integer(fields, "n", at_least=1, at_most=_MOST_CHOICES) or 1
    terms = _NO_TERMS
    if not _RARE.isdisjoint(fields):
        limit, choices = _read_rare(fields, limit, choices)
        terms = {name: value for name in STANDARD if (value := _text(fields, name)) is not None}
    options = fields.get("stream_options")
    if not isinstance(options, dict | None):
        raise InvalidBody("stream_options: this field must be an object.")
    if tools := fields.get("tools"):
        _check_tools(tools, model)
    estimate = estimate_input(fields, len(body))
    return RequestBody(
        body,
        model,
        _flag(fields, "stream"),
        limit,
        choices,
        options is not None and _flag(options, "include_usage", within="stream_options."),
        estimate.tokens,
        estimate.is_open,
        terms,
    )


def _read_rare(fields: Mapping[str, Any], limit: int | None, choices: int) -> tuple[int | None, int]:
    """What other fields make of the limit and the choices.

    Raises:
        InvalidBody: they let another model answer, or hide a field that must be known.
    """
    for name in _OTHER_MODELS:
        if fields.get(name):
            raise InvalidBody(f"{name}: {_PAID_BY_ITS_MODEL}")
    if fields.get(_DROPPING):
        raise InvalidBody(
            f"{_DROPPING}: a request is held for as it stands, and must be sent so. Leave this field out."
        )
    for name in _SPREAD:
        if isinstance(inner := fields.get(name), dict) and (hidden := READ_FIELDS & inner.keys()):
            raise InvalidBody(f"{name}.{min(hidden)}: this field must stand at the top level of the request.")
    for name in _OTHER_LIMITS:
        if (other := _integer(fields, name, at_least=0)) is not None:
            limit = max(limit or 0, other)
    for name in _OTHER_CHOICES:
        choices = max(choices, _integer(fields, name, at_least=1, at_most=_MOST_CHOICES) or 1)
    return limit, choices


def _check_tools(tools: object, model: str) -> None:
    """See that no tool brings a model of its own, as Anthropic's advisor does.

    Raises:
        InvalidBody: one does.
    """
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and tool.get("model", model) not in (model, None):
            raise InvalidBody(f"tools.model: {_PAID_BY_ITS_MODEL}")


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


def _wishing_for_usage(text: str) -> str:
    """What asks for usage stands where the field stands, or else right behind the model."""
    options = _member(text, "stream_options")
    if options is None:
        model = _member(text, "model")
        assert model is not None, "a body without a model is refused"
        return text[: model.end] + ',"stream_options":{"include_usage":true}' + text[model.end :]
    if options.value is None:
        return text[: options.start] + '{"include_usage":true}' + text[options.end :]
    inner = text[options.start : options.end]
    wish = _member(inner, "include_usage")
    if wish is None:
        inner = inner[0] + '"include_usage":true' + ("," if options.value else "") + inner[1:]
    else:
        inner = inner[: wish.start] + "true" + inner[wish.end :]
    return text[: options.start] + inner + text[options.end :]


def _member(text: str, name: str) -> Member | None:
    """The member of this name, of an object that was read before."""
    return next((member for member in _members(text) if member.name == name), None)


def _members(text: str, within: str = "at its top level") -> Iterator[Member]:
    """Walk the object that `text` must be."""
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
        name, at = _scan(text, at)
        if name in names:
            raise InvalidBody(f"The request body has the same field twice {within}.")
        names.add(name)
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
