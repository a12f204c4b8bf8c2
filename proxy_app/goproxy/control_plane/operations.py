"""An operation of the admin API: said once, and from that both served and described (see `openapi`)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from goproxy.control_plane import request_reading
from goproxy.control_plane.schemas import ACCOUNT, INSTANCE, KEY_ID
from goproxy.control_plane.store.refusals import NotFound

BASE = "/admin/v1"

BODY_LIMIT = 64 * 1024
"""Bytes of a body that is a document."""

PATH_PARAMETERS: Mapping[str, str] = {"account": ACCOUNT, "key": KEY_ID, "instance": INSTANCE}
"""What a parameter in a path looks like."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one call brings; query and body are of the operation's classes."""

    request: web.Request
    path: Mapping[str, str]
    query: Any
    body: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked. Its name is that of `act`, its summary the first line of its docstring."""

    method: str
    path: str
    """Under /admin/v1."""
    act: Callable[[Call], Awaitable[BaseModel | web.StreamResponse]]
    _: KW_ONLY
    answer: type[BaseModel] | str | None
    """A document's class, the media type of what is no document, or None: some JSON."""
    status: int = 200
    query: type[BaseModel] | None = None
    body: type[BaseModel] | Sequence[str] | None = None
    """A document's class, or the media types of what `act` reads itself."""
    conflicts: bool = False
    """Whether 409 may be the answer."""
    is_open: bool = False
    """Whether it needs no token."""

    @property
    def name(self) -> str:
        """As others call it."""
        return self.act.__name__

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters in the path."""
        return re.findall(r"\{(\w+)\}", self.path)


def serve(app: web.Application, operations: Sequence[Operation], admit: Callable[[web.Request], None]) -> None:
    """Add the routes; `admit` raises for a request without the token."""
    for operation in operations:
        app.router.add_route(operation.method, BASE + operation.path, _handler(operation, admit), name=operation.name)


def _handler(operation: Operation, admit: Callable[[web.Request], None]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if not operation.is_open:
            admit(request)
        for name in operation.parameters:
            if not re.fullmatch(PATH_PARAMETERS[name], value := request.match_info[name]):
                raise NotFound(f"there is no such {name}: {request_reading.unknown(value, PATH_PARAMETERS[name])}")
        query = None if operation.query is None else request_reading.query(request, operation.query)
        body = None
        if isinstance(operation.body, type):
            body = request_reading.document(operation.body, await request_reading.body_of(request, BODY_LIMIT))
        answer = await operation.act(Call(request, dict(request.match_info), query, body))
        if isinstance(answer, BaseModel):
            return web.Response(text=answer.model_dump_json(), status=operation.status, content_type="application/json")
        return answer

    return handle
