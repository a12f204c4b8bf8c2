"""What surrounds every request: its id, its record, and errors in the shape of its protocol."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from goproxy.config import Config
from goproxy.core.compact_json import compact
from goproxy.core.headers import Headers
from goproxy.core.outcome import Outcome
from goproxy.core.protocols import ANTHROPIC, OPENAI
from goproxy.core.wire import Fault, Refusal, WireProtocol
from goproxy.data_plane.client import Client
from goproxy.data_plane.observer import Observer
from goproxy.data_plane.relay import RESTARTING
from goproxy.hosting import PRIVATE_PATHS, Stay, new_request_id
from goproxy.observe import RequestRecord, exception_fields, log

_CLIENT_CLOSED = 499
"""nginx's word in the log for a client that left before there was an answer."""


def shape_for(request: web.Request) -> WireProtocol:
    """The protocol whose shapes the client of this request understands.

    Where the path does not tell, the header does: Anthropic's clients send their version with every request.
    """
    if request.path.startswith(ANTHROPIC.path):
        return ANTHROPIC
    if request.path.startswith(OPENAI.path):
        return OPENAI
    return ANTHROPIC if "anthropic-version" in request.headers else OPENAI


def id_headers(record: RequestRecord) -> Headers:
    """The request's id, under the names that clients look for."""
    ids = [("X-Request-Id", record.request_id)]
    return [*ids, ("request-id", record.request_id)] if record.protocol == ANTHROPIC.name else ids


class Envelope:
    """Surrounds the requests of one proxy."""

    def __init__(self, config: Config, observer: Observer, stay: Stay) -> None:
        self._config = config
        self._observer = observer
        self._stay = stay

    def around(self, client: Client, route: str, protocol: WireProtocol) -> Enveloped:
        """What surrounds a request whose answer is written to `client`."""
        return Enveloped(self._observer, client, RequestRecord(new_request_id(), route, protocol.name), protocol)

    def middleware(self, but: Collection[str]) -> Middleware:
        """The same around what aiohttp answers; the routes in `but` are surrounded by `around`."""

        @web.middleware
        async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
            route = request.match_info.route.name or "none"
            if request.path in PRIVATE_PATHS or route in but:
                return await handler(request)
            protocol = shape_for(request)
            record = RequestRecord(new_request_id(), route, protocol.name)
            self._observer.begin(record)
            try:
                response = await self._answer(request, handler, record, protocol)
            except asyncio.CancelledError:
                record.status, record.outcome = _CLIENT_CLOSED, Outcome.CLIENT_GONE
                raise
            finally:
                self._observer.end(record)
            return response

        return surround

    def check_stay(self) -> None:
        """Begin nothing any more when the process leaves.

        Raises:
            Refusal: it does.
        """
        if self._stay.leaving:
            raise Refusal(*RESTARTING)

    async def _answer(
        self, request: web.Request, handler: Handler, record: RequestRecord, protocol: WireProtocol
    ) -> web.StreamResponse:
        headers: dict[str, str] = {}
        try:
            self.check_stay()
            response = await handler(request)
            record.status, record.outcome = response.status, Outcome.OK
            record.bytes_out = response.content_length or 0
            record.account = request.get(ACCOUNT)
        except Refusal as refusal:
            headers = refusal.headers
            response = _response(_refusal(refusal, record, protocol), record)
        except web.HTTPMethodNotAllowed as wrong:
            allowed = ", ".join(sorted(wrong.allowed_methods))
            headers = {"Allow": allowed}
            message = f"{request.method} does not work here. Allowed: {allowed}."
            response = _response(_refusal(Refusal(Fault.WRONG_METHOD, message), record, protocol), record)
        except web.HTTPNotFound:
            nowhere = Refusal(Fault.UNKNOWN_PATH, _where_to(self._config, request))
            response = _response(_refusal(nowhere, record, protocol), record)
        except Exception as error:
            response = _response(_failure(error, record, protocol), record)
        response.headers.update({**headers, **dict(id_headers(record))})
        return response


class Enveloped:
    """One request within its envelope; a refusal or a failure in the block is written here."""

    __slots__ = ("_client", "_observer", "_protocol", "_record")

    def __init__(self, observer: Observer, client: Client, record: RequestRecord, protocol: WireProtocol) -> None:
        self._observer = observer
        self._client = client
        self._record = record
        self._protocol = protocol

    def __enter__(self) -> RequestRecord:
        self._observer.begin(self._record)
        return self._record

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        record = self._record
        try:
            if isinstance(error, Exception):
                self._answer(error)
                return True
            if isinstance(error, asyncio.CancelledError) and not record.status:
                self._cut()
            return False
        finally:
            if not record.is_paid:  # otherwise settler.py, once it is settled
                self._observer.end(record)

    def _cut(self) -> None:
        """It ends before its answer has begun: its client has left, or the grace period is over."""
        record, client = self._record, self._client
        if client.is_gone:
            record.status, record.outcome = _CLIENT_CLOSED, Outcome.CLIENT_GONE
        else:
            record.outcome = Outcome.SHUTDOWN
            client.keeps_alive = False
            self._answer(Refusal(*RESTARTING))

    def _answer(self, error: Exception) -> None:
        record, client = self._record, self._client
        headers = [("Content-Type", "application/json")]
        if isinstance(error, Refusal):
            body = _refusal(error, record, self._protocol)
            headers += error.headers.items()
        else:
            body = _failure(error, record, self._protocol)
            if client.has_begun:
                client.break_off()
                return
        client.whole(record.status, [*headers, *id_headers(record)], body)


ACCOUNT = web.RequestKey("account", str)


def _response(body: bytes, record: RequestRecord) -> web.Response:
    return web.Response(status=record.status, body=body, content_type="application/json")


def _refusal(refusal: Refusal, record: RequestRecord, protocol: WireProtocol) -> bytes:
    """The body that says so."""
    record.status = refusal.fault.status
    if record.outcome is Outcome.INTERNAL_ERROR and refusal.fault is not Fault.INTERNAL:
        record.outcome = Outcome.REFUSED
    body = compact(protocol.error(refusal.fault, refusal.message, record.request_id))
    record.bytes_out = len(body)
    return body


def _failure(error: Exception, record: RequestRecord, protocol: WireProtocol) -> bytes:
    log("request failed", level=logging.ERROR, request_id=record.request_id, **exception_fields(error))
    refusal = Refusal(Fault.INTERNAL, "The gateway failed. The request id tells its operator more.")
    return _refusal(refusal, record, protocol)


def _where_to(config: Config, request: web.Request) -> str:
    paths = [f"POST {endpoint.protocol.path}" for endpoint in config.endpoints.values()]
    there_is = ", ".join([*paths, "GET /v1/models", "GET /v1/key"])
    return f"There is no {request.path[:100]} at {config.domain}. There is: {there_is}."
