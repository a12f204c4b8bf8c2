"""One request's life, from top to bottom."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from goproxy.config import Config, Endpoint
from goproxy.core.headers import Headers, UnsendableHeader, to_upstream
from goproxy.core.key_snapshot import LimitedKey
from goproxy.core.protocols import OPENAI
from goproxy.core.wire import Fault, Refusal, WireProtocol
from goproxy.data_plane.admission import (
    Admitted,
    admit,
    authenticate,
    check_permission,
    endpoint_for,
    hold_for,
    model_for,
    read_body,
    set_aside,
)
from goproxy.data_plane.aftermath import Aftermath
from goproxy.data_plane.books import Books
from goproxy.data_plane.envelope import RECORD, id_headers, shape_for
from goproxy.data_plane.exchange import Exchange
from goproxy.data_plane.observer import Observer
from goproxy.data_plane.rate_limits import RateLimits
from goproxy.data_plane.relay import Unmetered, relay
from goproxy.data_plane.upstream import Patience, Upstream
from goproxy.hosting import Stay, is_gone
from goproxy.observe import Outcome, RequestRecord


@dataclass(frozen=True, slots=True)
class Gateway:
    """What requests are served from."""

    config: Config
    books: Books
    limits: RateLimits
    upstream: Upstream
    aftermath: Aftermath
    observer: Observer
    stay: Stay

    def forwarding(self, protocol: WireProtocol, below: str = "") -> Handler:
        """The handler that passes requests to the upstream's endpoint of a protocol, or to a path below it.

        What is below an endpoint (counting tokens) costs nothing: it is limited, and not billed.
        """

        async def handler(request: web.Request) -> web.StreamResponse:
            record = request[RECORD]
            key = self._authenticate(request)
            endpoint = endpoint_for(protocol, self.config)
            self.limits.admit(key)
            body = await read_body(request, self.config.max_body_bytes, self.config.timeouts.idle)
            record.bytes_in = len(body)
            admitted = admit(body, self.config, asks_for_usage=protocol is OPENAI and self.config.include_usage)
            record.model, record.stream = admitted.model.id, admitted.stream
            check_permission(key, self.config.upstream, admitted.model)
            sending = _Sending(endpoint, _target(endpoint, below, request), self._headers(request, endpoint), admitted)
            if below:
                return await self._forward(request, sending)
            return await self._forward_paid(request, sending, key)

        return handler

    async def _forward(self, request: web.Request, sending: _Sending) -> web.StreamResponse:
        """Send a request that costs nothing, and relay its answer."""
        record = request[RECORD]
        patience = Patience(self.config.timeouts)
        answer = await self._send(sending, patience, record)
        try:
            protocol = sending.endpoint.protocol
            return await relay(request, answer, protocol, patience, record, id_headers(record), Unmetered())
        finally:
            answer.close()

    async def _forward_paid(self, request: web.Request, sending: _Sending, key: LimitedKey) -> web.StreamResponse:
        """Set the worst case aside, send the request, relay its answer; whatever happens, it is settled once."""
        record = request[RECORD]
        admitted, protocol = sending.admitted, sending.endpoint.protocol
        hold = hold_for(admitted, self.config, key, sending.endpoint, record.request_id)
        await set_aside(hold, self.books)
        record.is_paid = True
        patience = Patience(self.config.timeouts)
        exchange = Exchange(
            hold,
            admitted.model,
            protocol,
            record,
            self.books,
            self.observer.gaps.observe,
            withhold_usage=admitted.usage_was_asked_for,
        )
        asking = asyncio.create_task(self._send(sending, patience, record))
        try:
            answer = await asyncio.shield(asking)
        except Refusal:
            self.aftermath.of_refusal(exchange)
            raise
        except asyncio.CancelledError:
            record.outcome = Outcome.CLIENT_GONE if is_gone(request) else Outcome.SHUTDOWN
            self.aftermath.of_sending(exchange, asking)
            raise
        except BaseException:
            self.aftermath.of_refusal(exchange)
            raise
        exchange.begin(answer)
        try:
            return await relay(request, answer, protocol, patience, record, id_headers(record), exchange)
        finally:
            self.aftermath.of_answer(exchange, answer)

    async def _send(self, sending: _Sending, patience: Patience, record: RequestRecord) -> aiohttp.ClientResponse:
        return await self.upstream.send(
            sending.endpoint, sending.target, sending.headers, sending.admitted.body, patience, record
        )

    def _authenticate(self, request: web.Request) -> LimitedKey:
        key = authenticate(request.headers, self.books, self.config.staleness_seconds)
        request[RECORD].account = key.account
        return key

    def _headers(self, request: web.Request, endpoint: Endpoint) -> Headers:
        try:
            return to_upstream(request.headers.items(), self.upstream.credential(endpoint))
        except UnsendableHeader as error:
            raise Refusal(Fault.INVALID_REQUEST, f"The header {error} holds bytes that are not text.") from None

    async def models(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models: the models of the configuration, in the shape that the client knows."""
        self._authenticate(request)
        offered = [model.offered for model in self.config.models]
        return web.json_response(shape_for(request).models(offered))

    async def model(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models/{id}: one of them, by id or alias."""
        self._authenticate(request)
        model = model_for(request.match_info["id"], self.config)
        return web.json_response(shape_for(request).model(model.offered))


@dataclass(frozen=True, slots=True)
class _Sending:
    """A request as the upstream shall have it."""

    endpoint: Endpoint
    target: URL
    headers: Headers
    admitted: Admitted


def _target(endpoint: Endpoint, below: str, request: web.Request) -> URL:
    query = request.raw_path.partition("?")[2].partition("#")[0]
    return URL(endpoint.base_url + below + (f"?{query}" if query else ""), encoded=True)
