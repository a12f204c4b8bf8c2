"""What surrounds every request: its id, its record, and errors in the shape of its protocol."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from goproxy.config import Config
from goproxy.core.protocols import ANTHROPIC, OPENAI
from goproxy.core.wire import Fault, Refusal, WireProtocol, compact
from goproxy.data_plane.observer import Observer
from goproxy.hosting import PRIVATE_PATHS, Stay, is_gone, new_request_id
from goproxy.observe import Outcome, RequestRecord, log, told

RECORD = web.RequestKey("record", RequestRecord)

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


def id_headers(record: RequestRecord) -> dict[str, str]:
    """The request's id, under the names that clients look for."""
    ids = {"X-Request-Id": record.request_id}
    return ids | {"request-id": record.request_id} if record.protocol == ANTHROPIC.name else ids


def envelope(config: Config, observer: Observer, stay: Stay) -> Middleware:
    """The middleware around everything that clients can reach."""

    @web.middleware
    async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in PRIVATE_PATHS:
            return await handler(request)
        route = request.match_info.route.name or "none"
        record = RequestRecord(new_request_id(), route, shape_for(request).name)
        request[RECORD] = record
        observer.begin(record)
        try:
            response = await _answer(request, handler)
        except asyncio.CancelledError:
            if not record.status:
                record.status = _CLIENT_CLOSED
                record.outcome = Outcome.CLIENT_GONE if is_gone(request) else Outcome.SHUTDOWN
            raise
        finally:
            if not record.is_paid:  # otherwise aftermath.py, once it is settled
                observer.end(record)
        return response

    async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        record = request[RECORD]
        try:
            if stay.leaving:
                raise Refusal(Fault.UNAVAILABLE, "The gateway is being restarted. Try again.")
            response = await handler(request)
        except Refusal as refusal:
            return _refused(refusal, request)
        except web.HTTPMethodNotAllowed as wrong:
            allowed = ", ".join(sorted(wrong.allowed_methods))
            message = f"{request.method} does not work here. Allowed: {allowed}."
            return _refused(Refusal(Fault.WRONG_METHOD, message, headers={"Allow": allowed}), request)
        except web.HTTPNotFound:
            return _refused(Refusal(Fault.UNKNOWN_PATH, _where_to(config, request)), request)
        except Exception as error:
            log("request failed", level=logging.ERROR, request_id=record.request_id, **told(error))
            return _refused(
                Refusal(Fault.INTERNAL, "The gateway failed. The request id tells its operator more."),
                request,
            )
        if not response.prepared:
            record.status, record.outcome = response.status, Outcome.OK
            record.bytes_out = response.content_length or 0
            response.headers.update(id_headers(record))
        return response

    return surround


def _refused(refusal: Refusal, request: web.Request) -> web.Response:
    record = request[RECORD]
    record.status = refusal.fault.status
    if record.outcome is Outcome.INTERNAL_ERROR and refusal.fault is not Fault.INTERNAL:
        record.outcome = Outcome.REFUSED
    body = compact(shape_for(request).error(refusal.fault, refusal.message, record.request_id))
    record.bytes_out = len(body)
    return web.Response(
        status=record.status,
        body=body,
        content_type="application/json",
        headers={**refusal.headers, **id_headers(record)},
    )


def _where_to(config: Config, request: web.Request) -> str:
    paths = [f"POST {endpoint.protocol.path}" for endpoint in config.endpoints.values()]
    there_is = ", ".join([*paths, "GET /v1/models"])
    return f"There is no {request.path[:100]} at {config.domain}. There is: {there_is}."
