"""One request's life, from top to bottom."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from goproxy.config import Config, Endpoint
from goproxy.core.key_snapshot import LimitedKey
from goproxy.core.outcome import Outcome
from goproxy.core.protocols import ANTHROPIC, OPENAI, RESPONSES
from goproxy.core.wallet_name import of_account, of_key
from goproxy.core.wire import Fault, Refusal, WireProtocol
from goproxy.data_plane.admission import (
    Admitted,
    admit,
    authenticate,
    check_encoding,
    check_permission,
    check_query,
    check_size,
    endpoint_for,
    hold_for,
    may_use,
    model_for,
    read_body,
    refusal_of,
)
from goproxy.data_plane.bodies import Bodies, Body
from goproxy.data_plane.books import Books, InsufficientFunds, JournalUnwritable, LeaseUnavailable
from goproxy.data_plane.client import Client
from goproxy.data_plane.control_client import ControlPlaneAway, ControlPlaneRefuses
from goproxy.data_plane.deadlines import Deadlines
from goproxy.data_plane.envelope import ACCOUNT, Envelope, id_headers, shape_for
from goproxy.data_plane.exchange import Exchange
from goproxy.data_plane.front import Connection, Serve
from goproxy.data_plane.observer import Observer
from goproxy.data_plane.rate_limits import RateLimits
from goproxy.data_plane.relay import Unmetered, relay
from goproxy.data_plane.request_head import RequestHead
from goproxy.data_plane.sending import Sending
from goproxy.data_plane.settler import Settler
from goproxy.data_plane.upstream import Upstream
from goproxy.hosting import Stay
from goproxy.observe import RequestRecord

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Route:
    """A path whose requests are passed to the upstream's endpoint of a protocol, or to a path below it.

    What is below an endpoint (counting tokens) costs nothing: it is limited, and not billed.
    """

    name: str
    protocol: WireProtocol
    below: str = ""

    @property
    def path(self) -> str:
        return self.protocol.path + self.below


ROUTES = (
    Route("messages", ANTHROPIC),
    Route("count_tokens", ANTHROPIC, "/count_tokens"),
    Route("chat_completions", OPENAI),
    Route("responses", RESPONSES),
)


@dataclass(frozen=True, slots=True)
class Gateway:
    """What requests are served from."""

    config: Config
    books: Books
    limits: RateLimits
    bodies: Bodies
    upstream: Upstream
    settler: Settler
    observer: Observer
    stay: Stay
    envelope: Envelope

    def plain(self) -> Mapping[str, Serve]:
        """Who serves the plain requests, by path."""
        return {route.path: partial(self._serve, route) for route in ROUTES}

    def handler(self, route: Route) -> Handler:
        """The same for aiohttp. Its answer is written already when it returns."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.transport is None:  # the client has left
                raise asyncio.CancelledError
            connection = request.transport.get_protocol()
            assert isinstance(connection, Connection), "this application is served behind a Front"
            await connection.until_writable()
            client = connection.client_for(is_http_1_0=request.version < (1, 1), keeps_alive=request.keep_alive)
            query = quote(
                request.raw_path.partition("?")[2].partition("#")[0], safe=_PRINTABLE, errors="surrogateescape"
            )
            head = RequestHead.of(f"?{query}" if query else "", list(request.headers.items()))
            try:
                await self._serve(route, head, request, client)
            finally:
                client.flush()  # aiohttp may close the connection at once
            if self.stay.leaving or not client.keeps_alive:
                await connection.until_taken()
            return _Written(client)

        return handle

    async def _serve(self, route: Route, head: RequestHead, came: bytes | web.Request, client: Client) -> None:
        """Check a request, pass it to the upstream, and relay the answer. `came`: its body, or who to read it from."""
        config, protocol = self.config, route.protocol
        with self.envelope.around(client, route.name, protocol) as record:
            self.envelope.check_stay()
            key = authenticate(head, self.books, config.staleness_seconds)
            record.account = key.account
            endpoint = endpoint_for(protocol, config)
            self.limits.admit(key)
            check_query(head)
            check_encoding(head)
            if isinstance(came, bytes):
                record.bytes_in = len(came)
                check_size(len(came), config.max_body_bytes)
                body = Body(self.bodies, came)
            else:
                body = await read_body(came, self.bodies, config.max_body_bytes, config.timeouts.idle)
                record.bytes_in = len(body.data)
            del came  # what is dropped later on shall be gone then
            admitted = admit(body, config, protocol, asks_for_usage=protocol is OPENAI and config.include_usage)
            record.model, record.stream = admitted.model.id, admitted.asked.stream
            check_permission(key, config.upstream, admitted.model)
            if head.unsendable is not None:
                raise Refusal(Fault.INVALID_REQUEST, f"The header {head.unsendable} holds bytes that are not text.")
            to_send = _ToSend(endpoint, route.below + head.query, head.fields, body, admitted)
            if route.below:
                await self._pass_on(client, record, to_send)
            else:
                await self._pass_on_paid(client, record, to_send, key)

    async def _pass_on(self, client: Client, record: RequestRecord, to_send: _ToSend) -> None:
        """Send a request that costs nothing, and relay its answer."""
        deadlines = Deadlines(self.config.timeouts, client.loop.time)
        endpoint = to_send.endpoint
        sent = self._send(to_send, deadlines, record)
        try:
            answer = await self.upstream.answer(sent, endpoint, record)
        except asyncio.CancelledError:
            sent.give_up()
            raise
        try:
            await relay(client, answer, endpoint.protocol, deadlines, record, id_headers(record), Unmetered())
        finally:
            answer.close()

    async def _pass_on_paid(self, client: Client, record: RequestRecord, to_send: _ToSend, key: LimitedKey) -> None:
        """Set the worst case aside, send the request, relay its answer; whatever happens, it is settled once."""
        admitted, endpoint = to_send.admitted, to_send.endpoint
        hold = hold_for(admitted, self.config, key, endpoint, record.request_id)
        try:
            await self.books.open(hold)
        except (InsufficientFunds, LeaseUnavailable, JournalUnwritable) as reason:
            raise refusal_of(reason) from None
        record.is_paid = True
        deadlines = Deadlines(self.config.timeouts, client.loop.time)
        exchange = Exchange(
            hold,
            admitted.model,
            endpoint.protocol,
            record,
            self.books,
            self.observer.gaps.observe_all,
            withhold_usage=admitted.usage_was_asked_for,
        )
        try:
            sent = self._send(to_send, deadlines, record)
            answer = await self.upstream.answer(sent, endpoint, record)
        except asyncio.CancelledError:
            record.outcome = Outcome.CLIENT_GONE if client.is_gone else Outcome.SHUTDOWN
            if sent.is_handed_over:
                self.settler.after_sending(exchange, self.upstream.answering(sent, endpoint, record))
            else:  # there was no connection yet
                sent.give_up()
                self.books.void(hold.id)
                record.is_paid = False
            raise
        except BaseException:
            self.settler.after_refusal(exchange)
            raise
        exchange.begin(answer)
        try:
            await relay(client, answer, endpoint.protocol, deadlines, record, id_headers(record), exchange)
        finally:
            self.settler.after_answer(exchange, answer)

    def _send(self, request: _ToSend, deadlines: Deadlines, record: RequestRecord) -> Sending:
        return self.upstream.send(request.endpoint, request.target, request.fields, request.body, deadlines, record)

    async def models(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models: the models that the key may use, in the shape that the client knows."""
        key = self._identify(request)
        offered = [model.offered for model in self.config.models if may_use(key, model)]
        return web.json_response(shape_for(request).models(offered))

    async def model(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models/{id}: one of them, by id or alias."""
        key = self._identify(request)
        model = model_for(request.match_info["id"], self.config)
        check_permission(key, self.config.upstream, model)
        return web.json_response(shape_for(request).model(model.offered))

    async def key(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/key: what the key may do here, and what is left of its credit. A limit in dollars is all it sees."""
        key = self._identify(request)
        wallet = of_key(key.id) if key.wallets_limit else of_account(key.account, self.config.wallet)
        try:
            statement = await self.books.statements.of(wallet)
        except (ControlPlaneAway, ControlPlaneRefuses):
            raise Refusal(Fault.UNAVAILABLE, "The gateway cannot see your credit at the moment.") from None
        return web.json_response(
            {
                "object": "key",
                "id": key.id,
                "account": key.account,
                "upstream": self.config.upstream,
                "expires_at": key.expires_at,
                "models": [model.id for model in self.config.models if may_use(key, model)],
                "requests_per_minute": key.requests_per_minute,
                "tokens_per_minute": key.tokens_per_minute,
                "wallet": wallet,
                "credits_nanodollars": statement.credits,
                "spent_nanodollars": statement.spent,
                "remaining_nanodollars": statement.credits - statement.spent,
                "renews": statement.renews,
                "renews_to_nanodollars": statement.renews_to,
                "renews_at": statement.renews_at,
            }
        )

    def _identify(self, request: web.Request) -> LimitedKey:
        key = authenticate(RequestHead.of("", list(request.headers.items())), self.books, self.config.staleness_seconds)
        request[ACCOUNT] = key.account
        return key


@dataclass(slots=True)
class _ToSend:
    """A request as the upstream shall have it."""

    endpoint: Endpoint
    target: str
    fields: bytes
    body: Body
    admitted: Admitted


class _Written(web.StreamResponse):
    """Tells aiohttp that the answer has been written, below it."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._is_reusable = client.keeps_alive

    @property
    def keep_alive(self) -> bool:
        return self._is_reusable

    def force_close(self) -> None:
        self._is_reusable = False

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002 - aiohttp's
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's
        return None
