"""What the wire formats have in common: the shape of a frame, of a refusal, and of a module that speaks one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from .model import Answer, Json, Question, Usage

EVENT_STREAM = "text/event-stream; charset=utf-8"
Part = Literal["start", "delta", "end"]


@dataclass(frozen=True)
class Frame:
    """One write of a stream: a `delta` is paced, a held stream waits before `end`; `usage` is what it reports."""

    data: bytes
    part: Part
    usage: Json | None = None


@dataclass
class Refusal(Exception):
    """An error answer instead of a message: an object in the provider's own shape, or text as it is."""

    status: int
    body: Json | str


@dataclass(frozen=True)
class Expectations:
    """What a provider asks of a request: one of its keys and one of its models; nothing given, anything is taken."""

    keys: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """What an answer carries besides words: the id of its request, and the time."""

    request_id: str
    now: datetime

    def id(self, prefix: str) -> str:
        """Make an id of another kind from the request's, as `msg_...` from `req_...`."""
        return prefix + self.request_id.removeprefix("req_")


class Wire(Protocol):
    """A module that speaks one provider API."""

    def question(self, headers: Mapping[str, str], body: bytes, expected: Expectations) -> Question:
        """Read a request, or raise Refusal."""

    def stream(self, answer: Answer, context: Context) -> list[Frame]:
        """Give the whole stream, write by write."""

    def whole(self, answer: Answer, context: Context) -> Json:
        """Give the answer as one JSON object."""

    def usage(self, counted: Usage) -> Json:
        """Say the usage in this API's words."""

    def refusal(self, status: int, message: str) -> Json:
        """Give the body of an error answer."""

    def error_frame(self) -> bytes:
        """Give an error in the middle of a stream."""

    def keep_alive(self) -> bytes:
        """Give what is sent while nothing is said."""

    def headers(self, context: Context) -> dict[str, str]:
        """Give the headers that the real API adds to every answer."""


def compact(value: object) -> str:
    """Write JSON as the real APIs do: no spaces, no escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_request(body: bytes) -> Any:
    """Read a request's JSON object, or raise ValueError that says why it is none."""
    try:
        value = json.loads(body)
    except UnicodeDecodeError as problem:
        raise ValueError("The request body is not valid UTF-8.") from problem
    except json.JSONDecodeError as problem:
        raise ValueError(f"The request body is not valid JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise ValueError("The request body is not a JSON object.")
    return value


def bearer(headers: Mapping[str, str]) -> str | None:
    """Give the key of an Authorization header, if it has the Bearer form."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key else None
