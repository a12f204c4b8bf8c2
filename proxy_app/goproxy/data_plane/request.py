"""One request's life, from top to bottom."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from goproxy.config import Config, Endpoint
from goproxy.core.headers import UnsendableHeader, to_upstream
from goproxy.core.wire import Fault, Refusal, WireProtocol
from goproxy.data_plane.admission import admit, authenticate, endpoint_for, model_for, read_body
from goproxy.data_plane.envelope import RECORD, id_headers, shape_for
from goproxy.data_plane.keyring import Keyring
from goproxy.data_plane.relay import relay
from goproxy.data_plane.upstream import Patience, Upstream


@dataclass(frozen=True, slots=True)
class Gateway:
    """What requests are served from."""

    config: Config
    keyring: Keyring
    upstream: Upstream

    def forwarding(self, protocol: WireProtocol, below: str = "") -> Handler:
        """The handler that passes requests to the upstream's endpoint of a protocol, or to a path below it."""

        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._forward(request, protocol, below)

        return handler

    async def _forward(self, request: web.Request, protocol: WireProtocol, below: str) -> web.StreamResponse:
        record = request[RECORD]
        timeouts = self.config.timeouts

        record.account = authenticate(request.headers, self.keyring)
        endpoint = endpoint_for(protocol, self.config)
        body = await read_body(request, self.config.max_body_bytes, timeouts.idle)
        record.bytes_in = len(body)
        admitted = admit(body, self.config)
        record.model, record.stream = admitted.model.id, admitted.stream

        try:
            headers = to_upstream(request.headers.items(), self.upstream.credential(endpoint))
        except UnsendableHeader as error:
            raise Refusal(Fault.INVALID_REQUEST, f"The header {error} holds bytes that are not text.") from None

        patience = Patience(timeouts)
        answer = await self.upstream.send(
            endpoint, _target(endpoint, below, request), headers, admitted.body, patience, record
        )
        try:
            return await relay(request, answer, protocol, patience, record, id_headers(record))
        finally:
            answer.close()

    async def models(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models: the models of the configuration, in the shape that the client knows."""
        request[RECORD].account = authenticate(request.headers, self.keyring)
        offered = [model.offered for model in self.config.models]
        return web.json_response(shape_for(request).models(offered))

    async def model(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models/{id}: one of them, by id or alias."""
        request[RECORD].account = authenticate(request.headers, self.keyring)
        model = model_for(request.match_info["id"], self.config)
        return web.json_response(shape_for(request).model(model.offered))


def _target(endpoint: Endpoint, below: str, request: web.Request) -> URL:
    query = request.raw_path.partition("?")[2].partition("#")[0]
    return URL(endpoint.base_url + below + (f"?{query}" if query else ""), encoded=True)
