"""The little that the proxy must know of a request's body, read without changing a byte of it.

Both protocols have `model` and `stream` at the top level of one JSON object. The object's members are walked one by
one instead of loaded as a whole, which gives two things that `json.loads` does not: a name that stands there twice is
refused (the proxy would price the last one, an upstream might run the first), and the place of a value is known, so
that it can be replaced where it stands and every other byte stays: a model's name, and the wish for usage in a stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from goproxy.core.input_estimate import estimate_input

_DECODER = json.JSONDecoder()
_scan: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once  # type: ignore[attr-defined]
_AFTER_VALUE = frozenset({",", "}"})
_SPACE = re.compile(r"[ \t\n\r]*")


class InvalidBody(Exception):
    """The body is not what the protocols ask for; the text says why and quotes nothing of it."""


class Member(NamedTuple):
    """A value at the top level, and the characters that it takes up."""

    value: Any
    start: int
    end: int


class Edit(NamedTuple):
    """What goes in place of the characters from `start` to `end`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A request's body: as text, and what was asked for."""

    text: str
    model: str
    stream: bool
    model_at: slice

    max_output_tokens: int | None
    """How many tokens one choice may have: `max_tokens`, `max_completion_tokens`, or the higher of both."""

    choices: int
    """How many answers are generated side by side (OpenAI's `n`)."""

    includes_usage: bool
    """The stream shall have OpenAI's usage chunk."""

    usage_wish: Edit
    """What makes it so."""

    estimated_input_tokens: int
    """An upper bound; see input_estimate.py."""

    has_remote_input: bool
    """There is no such bound in the body, and the model's context is the bound."""

    def encode(self) -> bytes:
        """The body as it stands here."""
        return self.text.encode()

    def asking_for_usage(self) -> RequestBody:
        """The body with `stream_options.include_usage` true, and nothing else different.

        A body that asks for it already, or for no stream, stays as it is: OpenAI refuses the field without a stream.
        """
        if self.includes_usage or not self.stream:
            return self
        start, end, text = self.usage_wish
        shift = len(text) - (end - start) if start < self.model_at.start else 0
        return replace(
            self,
            text=self.text[:start] + text + self.text[end:],
            model_at=slice(self.model_at.start + shift, self.model_at.stop + shift),
            includes_usage=True,
        )

    def naming(self, model: str) -> bytes:
        """The body with another model in place of the named one; nothing else differs."""
        before, after = self.text[: self.model_at.start], self.text[self.model_at.stop :]
        return (before + json.dumps(model, ensure_ascii=False) + after).encode()


def read_request_body(body: bytes) -> RequestBody:
    """Read what must be known of `body`.

    Raises:
        InvalidBody: it is no JSON object, or a field that must be known is not what it must be.
    """
    try:
        text = body.decode()
        members = _members(text)
    except UnicodeDecodeError as error:
        raise InvalidBody(f"The request body is not valid UTF-8 at byte {error.start}. Send JSON as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InvalidBody(f"The request body is not valid JSON: {error.msg} at character {error.pos}.") from None
    except RecursionError:
        raise InvalidBody("The request body is nested too deeply.") from None
    except ValueError:  # an integer of more digits than Python reads
        raise InvalidBody("The request body holds a number with too many digits.") from None
    return _read_members(text, members, len(body))


def _read_members(text: str, members: dict[str, Member], size: int) -> RequestBody:
    model = members.get("model")
    if model is None:
        raise InvalidBody("model: this field is required. GET /v1/models lists what there is.")
    if not isinstance(model.value, str):
        raise InvalidBody("model: this field must be a string.")
    limits = [_integer(members, name, at_least=0) for name in ("max_tokens", "max_completion_tokens")]
    includes_usage, usage_wish = _usage_wish(text, members.get("stream_options"), model)
    estimate = estimate_input({name: member.value for name, member in members.items()}, size)
    return RequestBody(
        text=text,
        model=model.value,
        stream=_flag(members, "stream"),
        model_at=slice(model.start, model.end),
        max_output_tokens=max((limit for limit in limits if limit is not None), default=None),
        choices=_integer(members, "n", at_least=1) or 1,
        includes_usage=includes_usage,
        usage_wish=usage_wish,
        estimated_input_tokens=estimate.tokens,
        has_remote_input=estimate.is_open,
    )


def _flag(members: dict[str, Member], name: str, within: str = "") -> bool:
    """A field that is true, or else false, null or not there."""
    value = members[name].value if name in members else None
    if not isinstance(value, bool | None):
        raise InvalidBody(f"{within}{name}: this field must be true or false.")
    return bool(value)


def _integer(members: dict[str, Member], name: str, *, at_least: int) -> int | None:
    value = members[name].value if name in members else None
    if value is not None and (type(value) is not int or value < at_least):
        raise InvalidBody(f"{name}: this field must be an integer that is not below {at_least}.")
    return value


def _usage_wish(text: str, options: Member | None, model: Member) -> tuple[bool, Edit]:
    """Whether usage is asked for, and what asks for it: where the field stands, or else right behind the model."""
    if options is None:
        return False, Edit(model.end, model.end, ',"stream_options":{"include_usage":true}')
    if options.value is None:
        return False, Edit(options.start, options.end, '{"include_usage":true}')
    if not isinstance(options.value, dict):
        raise InvalidBody("stream_options: this field must be an object.")
    inner = _members(text[options.start : options.end], within="in stream_options")
    wish = inner.get("include_usage")
    if wish is None:
        at = options.start + 1
        return False, Edit(at, at, '"include_usage":true' + ("," if inner else ""))
    is_wished = _flag(inner, "include_usage", within="stream_options.")
    return is_wished, Edit(options.start + wish.start, options.start + wish.end, "true")


def _members(text: str, within: str = "at its top level") -> dict[str, Member]:
    """Walk the object that `text` must be."""
    at = _skip_space(text, 0)
    if text[at : at + 1] != "{":
        if text[at:]:
            _DECODER.decode(text)  # not JSON at all: that is the better complaint
        raise InvalidBody("The request body must be a JSON object.")
    members: dict[str, Member] = {}
    at = _skip_space(text, at + 1)
    if text[at : at + 1] == "}":
        _expect_end(text, at + 1)
        return members
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name in double quotes", text, at)
        name, at = _scan(text, at)
        if name in members:
            raise InvalidBody(f"The request body has the same field twice {within}.")
        if text[at : at + 1] != ":":
            at = _skip_space(text, at)
            if text[at : at + 1] != ":":
                raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
        start = _skip_space(text, at + 1)
        try:
            value, at = _scan(text, start)
        except StopIteration as nothing:
            raise json.JSONDecodeError("Expecting value", text, nothing.value) from None
        members[name] = Member(value, start, at)
        if text[at : at + 1] not in _AFTER_VALUE:
            at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] == "}":
            _expect_end(text, at + 1)
            return members
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
