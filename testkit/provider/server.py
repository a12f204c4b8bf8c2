"""The TLS side of a simulated provider: reads requests, lets a wire format answer, and misbehaves as told."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import string
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web

from . import anthropic, openai, responses
from .behaviour import Behaviour, Behaviours, Fault
from .exchange import Exchange
from .model import Json, answer
from .record import Records
from .wire import EVENT_STREAM, Context, Expectations, Frame, Refusal, Wire, compact

LARGEST_REQUEST = 32 << 20  # bytes, as at Anthropic's Messages API
WIRES: dict[str, Wire] = {"anthropic": anthropic, "openai": openai, "responses": responses}


@dataclass(frozen=True)
class Config:
    """What one provider is; the names are those of the configuration file."""

    name: str
    certificate: str
    key: str
    hosts: tuple[str, ...] = ()  # names that it answers to; any, where none is given
    paths: Mapping[str, str] = field(
        default_factory=lambda: {
            "anthropic": "/v1/messages",
            "openai": "/v1/chat/completions",
            "responses": "/v1/responses",
        }
    )
    api_key: str | None = None  # any key is taken, where none is given
    next_api_key: str | None = None  # taken too: a key is rotated while the one before it still works
    models: tuple[str, ...] = ()  # and any model
    listen: str = "0.0.0.0"  # it has a container to itself
    port: int = 443
    control_port: int = 8080
    behaviour: Behaviour = field(default_factory=Behaviour)


class Provider:
    """One provider: it answers, records, and misbehaves as told."""

    def __init__(self, config: Config) -> None:
        """Prepare; nothing listens yet."""
        self.config = config
        self.records = Records()
        self.behaviours = Behaviours(config.behaviour)
        self._expected = Expectations(
            tuple(key for key in (config.api_key, config.next_api_key) if key is not None), tuple(config.models)
        )
        self._open: set[Exchange] = set()
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(config.certificate, config.key)
        public = web.Application(client_max_size=LARGEST_REQUEST)
        public.router.add_route("*", "/{path:.*}", self._receive)
        # Handlers are cancelled when their client leaves: so `client_gone` is known at once.
        self._runner = web.AppRunner(public, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        self._listener: web.TCPSite | None = None

    async def start(self) -> None:
        """Open the TLS port."""
        await self._runner.setup()
        await self.open_or_close()

    async def stop(self) -> None:
        """Close the TLS port and every connection."""
        await self._runner.cleanup()

    async def open_or_close(self) -> None:
        """Have a TLS port, or none while the standing fault is to refuse connections."""
        refusing = self.behaviours.standing.fault is Fault.REFUSE
        if refusing and self._listener is not None:
            await self._listener.stop()
            self._listener = None
        elif not refusing and self._listener is None:
            self._listener = web.TCPSite(self._runner, self.config.listen, self.config.port, ssl_context=self._tls)
            await self._listener.start()

    def release(self, match: str = "") -> int:
        """Let answers under way go on to their end, those whose request holds `match`; say how many."""
        released = [exchange for exchange in self._open if match.encode() in exchange.body]
        for exchange in released:
            exchange.released.set()
        return len(released)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        """Record a request and answer it."""
        try:
            body, too_large = await request.read(), False
        except web.HTTPRequestEntityTooLarge:
            body, too_large = b"", True
        headers = {name.lower(): value for name, value in request.headers.items()}
        record = self.records.open(request.method, request.host, request.path_qs, headers, body=body, now=time.time())
        exchange = Exchange(request, body, record)
        self._open.add(exchange)
        try:
            async with exchange.recorded():
                await self._answer(exchange, headers, too_large)
        finally:
            self._open.discard(exchange)
        return exchange.response

    async def _answer(self, exchange: Exchange, headers: dict[str, str], too_large: bool) -> None:
        request, body = exchange.request, exchange.body
        protocol, counting = self._protocol(request.path)
        wire = WIRES[protocol or "anthropic"]
        context = Context(_request_id(), datetime.now(UTC))
        exchange.headers = wire.headers(context)

        def refused(status: int, message: str) -> Refusal:
            return Refusal(status, wire.refusal(status, message))

        behaviour = self.behaviours.choose(body)
        try:
            if self.config.hosts and request.host.partition(":")[0] not in self.config.hosts:
                raise refused(421, f"{request.host} is not served here")
            if protocol is None:
                raise refused(404, "Not Found")
            if request.method != "POST":
                raise refused(405, "Method Not Allowed")
            if too_large:
                raise refused(413, "Request exceeds the maximum size")
            if counting:
                counted = anthropic.question(headers, body, self._expected, counting=True)
                await exchange.send(200, compact(anthropic.count_tokens(counted)).encode())
                return
            question = wire.question(headers, body, self._expected)
            match behaviour.fault:
                case Fault.REFUSE:  # on a connection from before the port was closed
                    exchange.reset()
                case Fault.SLOW_FIRST_BYTE:
                    await asyncio.sleep(behaviour.first_byte_ms / 1000)
                case Fault.STATUS:
                    exchange.headers |= behaviour.headers
                    message = wire.refusal(behaviour.status, "Simulated failure")
                    raise Refusal(behaviour.status, message if behaviour.body is None else behaviour.body)
        except Refusal as refusal:
            await _send_refusal(exchange, refusal, context)
            return

        said = answer(question, self.config.name, behaviour.events, behaviour.usage)
        if question.streams:
            await self._stream(exchange, behaviour, wire, wire.stream(said, context))
        else:
            await asyncio.sleep(said.usage.output * behaviour.gap_ms / 1000)
            text = compact(wire.whole(said, context)).encode()
            await self._send_whole(exchange, behaviour, text, wire.usage(said.usage))

    def _protocol(self, path: str) -> tuple[str | None, bool]:
        """Say which API a path belongs to, and whether it only counts tokens."""
        for protocol, known in self.config.paths.items():
            if path == known:
                return protocol, False
            if protocol == "anthropic" and path == f"{known}/count_tokens":
                return protocol, True
        return None, False

    async def _stream(self, exchange: Exchange, behaviour: Behaviour, wire: Wire, frames: list[Frame]) -> None:
        """Send the frames at their pace, up to the fault."""
        await exchange.begin(200, EVENT_STREAM)
        gap, held = behaviour.gap_ms / 1000, behaviour.hold
        for number, frame in enumerate(frames):
            if number == behaviour.after:
                match behaviour.fault:
                    case Fault.RESET:
                        exchange.reset()
                    case Fault.STALL:
                        await exchange.wait()
                    case Fault.TRUNCATE:
                        await exchange.write(frame.data[: len(frame.data) // 2])
                        exchange.hang_up()
                    case Fault.ERROR_EVENT:
                        await exchange.write(wire.error_frame())
                        return
            if frame.part == "delta":
                await asyncio.sleep(gap)
            elif frame.part == "end" and held:
                await exchange.wait(gap, wire.keep_alive())
                held = False
            await exchange.write(frame.data)
            exchange.record.usage = frame.usage or exchange.record.usage

    async def _send_whole(self, exchange: Exchange, behaviour: Behaviour, text: bytes, usage: Json) -> None:
        """Send a whole answer, or what the fault leaves of it."""
        match behaviour.fault:
            case Fault.RESET:
                exchange.reset()
            case Fault.STALL:
                await exchange.wait()
            case Fault.TRUNCATE:
                await exchange.begin(200, "application/json", len(text))
                await exchange.write(text[: len(text) // 2])
                exchange.hang_up()
        exchange.record.usage = usage
        await exchange.send(200, text)


async def _send_refusal(exchange: Exchange, refusal: Refusal, context: Context) -> None:
    if isinstance(refusal.body, str):
        await exchange.send(refusal.status, refusal.body.encode(), "text/html")
        return
    if "request_id" in refusal.body:
        refusal.body["request_id"] = context.request_id
    await exchange.send(refusal.status, compact(refusal.body).encode())


def _request_id() -> str:
    """Make an id of the real form, req_ and 24 characters."""
    return "req_" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(24))
