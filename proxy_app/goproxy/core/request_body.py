"""The little that the proxy must know of a request's body, read without changing a byte of it.

Both protocols have `model` and `stream` at the top level of one JSON object. The object's members are walked one by
one instead of loaded as a whole, which gives two things that `json.loads` does not: a name that stands there twice is
refused (the proxy would price the last one, an upstream might run the first), and the place of a value is known, so
that a model's name can be replaced where it stands and every other byte stays.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


class InvalidBody(Exception):
    """The body is not what the protocols ask for; the text says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A value at the top level, and the characters that it takes up."""

    value: Any
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A request's body: as text, and what was asked for."""

    text: str
    model: str
    stream: bool
    model_at: slice

    def naming(self, model: str) -> bytes:
        """The body with another model in place of the named one; nothing else differs."""
        before, after = self.text[: self.model_at.start], self.text[self.model_at.stop :]
        return (before + json.dumps(model, ensure_ascii=False) + after).encode()


def read_request_body(body: bytes) -> RequestBody:
    """Read what must be known of `body`.

    Raises:
        InvalidBody: it is no JSON object, or `model` or `stream` are not what they must be.
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
    return _read_members(text, members)


def _read_members(text: str, members: dict[str, Member]) -> RequestBody:
    model = members.get("model")
    if model is None:
        raise InvalidBody("model: this field is required. GET /v1/models lists what there is.")
    if not isinstance(model.value, str):
        raise InvalidBody("model: this field must be a string.")
    stream = members.get("stream")
    if stream is not None and not isinstance(stream.value, bool | None):
        raise InvalidBody("stream: this field must be true or false.")
    return RequestBody(
        text=text,
        model=model.value,
        stream=stream is not None and bool(stream.value),
        model_at=slice(model.start, model.end),
    )


def _members(text: str) -> dict[str, Member]:
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
        name, at = _DECODER.raw_decode(text, at)
        if name in members:
            raise InvalidBody("The request body has the same field twice at its top level.")
        at = _skip_space(text, at)
        if text[at : at + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
        start = _skip_space(text, at + 1)
        value, end = _DECODER.raw_decode(text, start)
        members[name] = Member(value, start, end)
        at = _skip_space(text, end)
        match text[at : at + 1]:
            case ",":
                at = _skip_space(text, at + 1)
            case "}":
                _expect_end(text, at + 1)
                return members
            case _:
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)


def _expect_end(text: str, at: int) -> None:
    if (end := _skip_space(text, at)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # the pattern matches the empty string too
    return match.end()
