"""Taking a request apart: its token, its query, its body; bounded, and checked by pydantic models."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from goproxy.control_plane.answers import NotServed
from goproxy.control_plane.schemas import MEANINGS

Model = TypeVar("Model", bound=BaseModel)

_BODY_SECONDS = 30.0
_TOLD = 3  # of a document's mistakes
_SHOWN = 100  # characters of what is wrong
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_TRUTHS = {"true": True, "false": False}


def bearer(request: web.Request) -> str:
    """The token that the request shows.

    Raises:
        NotServed: 401, there is none, or two.
    """
    shown = request.headers.getall("Authorization", [])
    scheme, _, token = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not (token := token.strip()):
        raise unauthorized()
    return token


def unauthorized() -> NotServed:
    """The answer to a request without a good token: the same for every bad one."""
    return NotServed(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})


async def pieces_of_body(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises:
        NotServed: it is longer than `limit` bytes, or it pauses too long.
    """
    length = 0
    while True:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                piece = await request.content.readany()
        except TimeoutError:
            raise NotServed(408, f"the body paused for {_BODY_SECONDS:g} s") from None
        if not piece:
            return
        length += len(piece)
        if length > limit:
            raise NotServed(413, f"the body is longer than {limit} bytes")
        yield piece


async def body_of(request: web.Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        NotServed: as `pieces_of_body`.
    """
    return b"".join([piece async for piece in pieces_of_body(request, limit)])


def document(kind: type[Model], body: bytes) -> Model:
    """A JSON document of this kind.

    Raises:
        NotServed: 400, it is none.
    """
    try:
        return kind.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise NotServed(400, _mistake_text("the body", error)) from None


def query(request: web.Request, kind: type[Model]) -> Model:
    """The query of a request: numbers as digits, lists with commas, each name once.

    Raises:
        NotServed: 400, it is not of this kind.
    """
    values: dict[str, Any] = {}
    fields = _fields(kind)
    for name, text in request.query.items():
        if name in values:
            raise NotServed(400, f"the query: {name[:100]} stands there twice")
        values[name] = _value(text, fields.get(name, {}))
    try:
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise NotServed(400, _mistake_text("the query", error)) from None


@functools.cache
def _fields(kind: type[BaseModel]) -> dict[str, dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = kind.model_json_schema()["properties"]
    return fields


def _value(text: str, schema: dict[str, Any]) -> Any:
    types = {schema.get("type"), *(each.get("type") for each in schema.get("anyOf", ()))}
    if "integer" in types and _WHOLE.fullmatch(text):
        return int(text)
    if "boolean" in types:
        return _TRUTHS.get(text, text)
    if "array" in types:
        return text.split(",") if text else []
    return text


def unknown(value: Any, pattern: str) -> str:
    """What is said of a value that is not of a pattern."""
    return f"{repr(value)[:_SHOWN]} is not {MEANINGS.get(pattern, pattern)}"


def _mistake_text(where: str, error: ValidationError) -> str:
    said = [f"{_place(mistake) or where}: {_meaning(mistake)}" for mistake in error.errors(include_url=False)]
    more = f"; and {len(said) - _TOLD} more" if len(said) > _TOLD else ""
    return "; ".join(said[:_TOLD]) + more


def _place(mistake: ErrorDetails) -> str:
    """The field; of a list's item, whose value is told, the list's: on a command line nobody has counted them."""
    *parts, last = mistake["loc"] or ("",)
    return ".".join(str(part)[:_SHOWN] for part in (*parts, *([last] if isinstance(last, str) else [])))


def _meaning(mistake: ErrorDetails) -> str:
    value, told = repr(mistake["input"])[:_SHOWN], mistake.get("ctx", {})
    match mistake["type"]:
        case "string_pattern_mismatch":
            return unknown(mistake["input"], told["pattern"])
        case "greater_than_equal":
            return f"{value} is too small: expected {told['ge']} or more"
        case "less_than_equal":
            return f"{value} is too large: expected {told['le']} or less"
        case "literal_error" | "enum":
            return f"{value} is not one of {told['expected']}"
        case "int_type":
            return f"{value} is not a whole number"
        case "value_error":
            return str(told["error"])
    return mistake["msg"]
