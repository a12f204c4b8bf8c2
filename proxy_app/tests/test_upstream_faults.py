"""An upstream that cannot be reached, does not answer, refuses us, or falls silent."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from yarl import URL

from goproxy.config import parse_config
from goproxy.data_plane import name_lookup, upstream_pool
from goproxy.data_plane.reachability import try_endpoints, why
from tests.conftest import Lines
from tests.gateway import ALICE, UPSTREAM_SECRET, Running, config_document, endpoints_at, running_gateway
from tests.process import free_port
from tests.provider import ANTHROPIC_EVENTS, OPENAI_EVENTS, Provider, Received, Wire, running_provider
from tests.raw import connected

ASK = {"model": "claude-opus-4-5-20251101", "stream": True}
IMPATIENT = {"connect": 0.5, "first_byte": 0.5, "idle": 0.3, "total": 60}
SOON = 20.0  # seconds: a busy machine may take some, and any other timeout takes more


@pytest.fixture
def document(provider: Provider) -> dict[str, Any]:
    return config_document(endpoints=endpoints_at(provider.url), timeouts=IMPATIENT)


async def ask(url: str, path: str = "/v1/messages") -> tuple[int, dict[str, Any], aiohttp.ClientResponse, float]:
    began = time.monotonic()
    async with (
        aiohttp.ClientSession(headers={"x-api-key": ALICE}) as session,
        session.post(url + path, json=ASK) as answer,
    ):
        body = await answer.json()
        return answer.status, body["error"], answer, time.monotonic() - began


async def ask_with_endpoint(base_url: str, keys: Path, tls: ssl.SSLContext | None = None) -> tuple[int, str, float]:
    endpoint = {"name": "openhands-anthropic", "protocol": "anthropic", "base_url": base_url}
    async with running_gateway(config_document(endpoints=[endpoint], timeouts=IMPATIENT), keys, tls) as gateway:
        status, error, _, seconds = await ask(gateway.url)
        assert error["type"] == ("timeout_error" if status == 504 else "api_error")
        return status, error["message"], seconds


async def test_a_refused_connection_is_502_at_once(keys: Path, lines: Lines) -> None:
    status, message, seconds = await ask_with_endpoint(f"http://127.0.0.1:{free_port()}/v1/messages", keys)
    assert (status, message) == (502, "The upstream openhands cannot be reached: connection refused.")
    assert seconds < SOON
    assert (await lines.request())["outcome"] == "upstream_unreachable"
    (line,) = lines.all("upstream cannot be reached")
    assert (line["upstream"], line["endpoint"], line["host"], line["level"]) == (
        *("openhands", "openhands-anthropic", "127.0.0.1", "error"),
    )


async def test_what_cannot_even_be_sent_is_settled(
    gateway: Running, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours; what was held for it is free again."""

    def send(*_: Any) -> None:
        raise ValueError

    monkeypatch.setattr(gateway.gateway.upstream, "send", send)
    async with client.post("v1/messages", json=ASK) as answer:
        assert answer.status == 500
    (row,) = await gateway.rows()
    assert (row["settlement"], row["outcome"], row["cost_nanodollars"]) == ("estimated", "internal_error", 0)
    async with client.get("metrics") as answer:
        assert 'goproxy_held_nanodollars{upstream="openhands"} 0.0' in await answer.text()


async def test_a_name_that_does_not_resolve_is_502(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(upstream_pool, "resolve", resolve)
    status, message, _ = await ask_with_endpoint("https://nowhere.invalid/v1/messages", keys)
    assert (status, message) == (502, "The upstream openhands cannot be reached: its name does not resolve.")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.1', 443)"), "no route to host"),
        (OSError("Multiple exceptions: [Errno 111] ..."), "none of its addresses accepts a connection"),
        (TimeoutError(), "no connection in time"),
        (ssl.SSLError(1, "[SSL] wrong"), "the TLS handshake failed (no reason given)"),
        (ValueError("secret"), "ValueError"),
    ],
)
def test_why_in_a_few_words_without_addresses(error: Exception, words: str) -> None:
    assert why(error) == words


async def test_a_name_that_takes_too_long_to_resolve_is_504(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any, **__: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(upstream_pool, "resolve", resolve)
    status, message, seconds = await ask_with_endpoint("https://slow.invalid/v1/messages", keys)
    assert (status, seconds < SOON) == (504, True)
    assert "did not accept a connection within 0.5 s" in message


class NameServer:
    """Says what it is told to: addresses, a failure, or nothing."""

    def __init__(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]
        self.failure: int | None = None
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.asked = 0
        monkeypatch.setattr(upstream_pool, "resolve", self.resolve)
        monkeypatch.setattr(upstream_pool, "_NAMES_KEPT", -1)
        monkeypatch.setattr(upstream_pool, "_ASKED_AGAIN", 0)

    async def resolve(self, *_: Any) -> Any:
        self.asked += 1
        await self.speaks.wait()
        if self.failure is not None:
            raise socket.gaierror(self.failure, "whatever")
        return self.addresses


async def connect(pool: upstream_pool.UpstreamPool) -> None:
    (await pool.connect()).abort()


async def test_the_addresses_of_before_are_used_while_name_servers_are_away(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = NameServer(provider.port, monkeypatch)
    pool = upstream_pool.UpstreamPool(URL(provider.url), ssl.create_default_context())
    await connect(pool)
    server.failure = socket.EAI_AGAIN
    await connect(pool)
    monkeypatch.setattr(upstream_pool, "_PATIENCE", 0.05)
    server.speaks.clear()
    await connect(pool)  # nor is a name server waited for that says nothing
    server.speaks.set()
    server.failure = socket.EAI_NONAME
    await asyncio.sleep(0)
    while pool._lookup is not None:
        await asyncio.sleep(0.01)
    monkeypatch.setattr(upstream_pool, "_PATIENCE", 30)
    with pytest.raises(socket.gaierror):  # that is an answer
        await connect(pool)
    server.failure = socket.EAI_AGAIN
    monkeypatch.setattr(upstream_pool, "_NAMES_REMEMBERED", -1)
    with pytest.raises(socket.gaierror):
        await connect(pool)
    pool.close()


async def test_a_name_is_looked_up_once_for_all_who_wait(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    """Also when the first of them leaves."""
    server = NameServer(provider.port, monkeypatch)
    server.speaks.clear()
    pool = upstream_pool.UpstreamPool(URL(provider.url), ssl.create_default_context())
    first, *others = [asyncio.create_task(connect(pool)) for _ in range(5)]
    await eventually(lambda: server.asked > 0)
    first.cancel()
    await asyncio.wait([first])
    server.speaks.set()
    await asyncio.gather(*others)
    assert (first.cancelled(), server.asked) == (True, 1)
    pool.close()


@pytest.mark.parametrize("failure", [socket.EAI_AGAIN, socket.EAI_NONAME])
async def test_a_lookup_that_failed_is_not_begun_again_at_once(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    server = NameServer(provider.port, monkeypatch)
    server.failure = failure
    monkeypatch.setattr(upstream_pool, "_ASKED_AGAIN", 0.3)
    pool = upstream_pool.UpstreamPool(URL(provider.url), ssl.create_default_context())
    for _ in range(3):
        with pytest.raises(socket.gaierror):
            await connect(pool)
    assert server.asked == 1
    server.failure = None
    await asyncio.sleep(0.4)
    await connect(pool)
    server.failure = socket.EAI_AGAIN
    for _ in range(3):
        await connect(pool)  # by the addresses of before
    assert server.asked == 3
    pool.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose connections are accepted by nobody: the backlog is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


async def test_a_connection_that_nobody_accepts_is_504(keys: Path, lines: Lines, silent_port: int) -> None:
    status, message, seconds = await ask_with_endpoint(f"http://127.0.0.1:{silent_port}/v1/messages", keys)
    assert (status, seconds < SOON) == (504, True)
    assert message == (
        "The upstream openhands did not accept a connection within 0.5 s. Nothing was sent to it; try again later."
    )
    assert (await lines.request())["outcome"] == "upstream_unreachable"


async def test_an_address_that_is_silent_keeps_nobody_from_the_next_one(
    document: dict[str, Any], keys: Path, provider: Provider, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a request, nor an instance that would see whether it could serve."""
    addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in (silent_port, provider.port)
    ]

    async def resolve(*_: Any) -> Any:
        return addresses

    monkeypatch.setattr(upstream_pool, "resolve", resolve)

    async def script(_: Received, wire: Wire) -> None:
        await wire.whole({})

    provider.script = script
    tried = await try_endpoints(parse_config(json.dumps(document).encode()), ssl.create_default_context())
    assert [(each.reachable, each.detail) for each in tried] == [(True, "connected, without TLS")] * len(
        document["endpoints"]
    )
    async with running_gateway(document, keys) as gateway, connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.answer())[0] == 200


async def test_a_handshake_that_is_not_answered_is_504(keys: Path, provider: Provider) -> None:
    # The provider waits for an end of line, and a TLS client hello has none to speak of.
    status, _, seconds = await ask_with_endpoint(f"https://localhost:{provider.port}/v1/messages", keys)
    assert (status, seconds < SOON) == (504, True)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


async def test_a_trusted_certificate_is_accepted_and_others_are_502(authority: trustme.CA, keys: Path) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    for name, tls, expected in (
        ("localhost", trusting, 200),
        ("localhost", None, "unable to get local issuer certificate"),
        ("other.example", trusting, "Hostname mismatch, certificate is not valid for 'localhost'."),
    ):
        async with running_provider(server_tls(authority.issue_cert(name))) as provider:
            endpoints = endpoints_at(provider.url)
            document = config_document(endpoints=endpoints, timeouts=IMPATIENT | {"connect": 2, "first_byte": 2})
            async with running_gateway(document, keys, tls) as gateway, aiohttp.ClientSession() as session:
                headers = {"x-api-key": ALICE}
                async with session.post(f"{gateway.url}/v1/messages", json=ASK, headers=headers) as answer:
                    body = await answer.json()
            if expected == 200:
                assert answer.status == 200
                continue
            assert (answer.status, len(provider.received)) == (502, 0)
            assert body["error"]["message"] == (
                f"The upstream openhands cannot be reached: its certificate is not trusted ({expected})."
            )


async def test_a_name_that_ends_in_a_dot_is_the_certificates(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No search domain is tried for it. A certificate has it without."""
    monkeypatch.setattr(upstream_pool, "resolve", lambda _, port: name_lookup.resolve("localhost", port))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with running_provider(server_tls(authority.issue_cert("localhost"))) as provider:
        pool = upstream_pool.UpstreamPool(URL(f"https://localhost.:{provider.port}"), trusting)
        assert (await pool.connect()).is_usable
        pool.close()


@pytest.mark.parametrize("farewell", [True, False])
async def test_a_body_that_the_connection_ends_is_whole_only_with_the_farewell_of_tls(
    authority: trustme.CA, keys: Path, farewell: bool
) -> None:
    """Who sits between can end a TCP connection, and would so shorten an answer that has no length."""

    async def script(_: Received, wire: Wire) -> None:
        await wire.head(200, ("Content-Type", "application/json"))
        await wire.send(b'{"a":')
        if farewell:
            wire.hang_up()
        else:
            wire.cut()

    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with running_provider(server_tls(authority.issue_cert("localhost"))) as provider:
        provider.script = script
        document = config_document(endpoints=endpoints_at(provider.url))
        async with running_gateway(document, keys, trusting) as gateway, connected(gateway.port) as raw:
            await raw.post(ASK)
            await raw.head()
            if farewell:
                assert [await raw.chunk(), await raw.chunk()] == [b'{"a":', b""]
            else:
                assert await raw.chunks_until_broken() == b'{"a":'


async def test_plain_http_where_tls_should_be_is_502(keys: Path, provider: Provider) -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        status, message, _ = await ask_with_endpoint(f"https://localhost:{port}/v1/messages", keys)
    assert (status, "the TLS handshake failed" in message) == (502, True)


async def test_no_first_byte_is_504(gateway: Running, provider: Provider, lines: Lines) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.until_closed()

    provider.script = script
    for path in ("/v1/messages", "/v1/chat/completions"):
        status, error, _, seconds = await ask(gateway.url, path)
        assert (status, error["message"]) == (504, "The upstream openhands did not begin to answer within 0.5 s.")
        assert error["type"] == ("timeout_error" if path == "/v1/messages" else "server_error")
        assert 0.4 < seconds < SOON
    assert [row["settlement"] for row in await gateway.rows()] == ["upstream_error"] * 2
    assert [line["outcome"] for line in lines.all("request")] == ["upstream_timeout"] * 2


async def test_the_first_byte_may_take_longer_than_the_pauses_after_it(provider: Provider, keys: Path) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await asyncio.sleep(1.5)
        await wire.chunk(b"data: 1\n\n")
        await wire.end_stream()

    provider.script = script
    timeouts = {"connect": 5, "first_byte": 10, "idle": 1, "total": 30}
    document = config_document(endpoints=endpoints_at(provider.url), timeouts=timeouts)
    async with running_gateway(document, keys) as gateway, connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert [await raw.chunk(), await raw.chunk()] == [b"data: 1\n\n", b""]


@pytest.mark.parametrize("how", ["hang_up", "reset"])
async def test_a_connection_that_ends_before_the_answer_is_502(
    gateway: Running, provider: Provider, how: str, lines: Lines
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        getattr(wire, how)()

    provider.script = script
    status, error, _, _ = await ask(gateway.url)
    assert (status, error["message"]) == (
        502,
        "The upstream openhands cannot be reached: it closed the connection without an answer.",
    )
    assert len(provider.received) == 1  # and it is not asked again: it may have done the work


@pytest.mark.parametrize(
    "head", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n"]
)
async def test_an_answer_that_is_not_http_is_502(gateway: Running, provider: Provider, head: bytes) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.send(head)
        wire.hang_up()

    provider.script = script
    status, error, _, _ = await ask(gateway.url)
    assert (status, error["message"]) == (
        502,
        "The upstream openhands cannot be reached: its answer is not valid HTTP.",
    )


async def test_an_answer_with_a_very_long_header_passes(gateway: Running, provider: Provider) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(b"{}", 200, ("X-Policy", "x" * 30_000))

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.head())[1]["x-policy"] == "x" * 30_000


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_our_own_key_being_refused_is_not_the_clients_fault(
    gateway: Running, provider: Provider, lines: Lines, status: int
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole({"error": {"message": f"bad key {UPSTREAM_SECRET}"}}, status, ("request-id", "req_theirs"))

    provider.script = script
    got, error, answer, _ = await ask(gateway.url)
    assert (got, error["type"], answer.headers["x-should-retry"]) == (502, "api_error", "false")
    assert error["message"] == (
        "The upstream openhands does not accept this gateway's own credentials. "
        "Your API key is fine; the gateway's operator has to act."
    )
    (line,) = lines.all("upstream refuses our key")
    assert (line["level"], line["upstream"], line["endpoint"], line["status"]) == (
        *("error", "openhands", "openhands-anthropic", status),
    )
    assert UPSTREAM_SECRET not in "".join(lines.text)


@pytest.mark.parametrize("status", [301, 302, 304, 307, 308])
async def test_a_redirect_is_not_followed(gateway: Running, provider: Provider, status: int) -> None:
    async def script(request: Received, wire: Wire) -> None:
        await wire.head(status, ("Location", f"{provider.url}/elsewhere"), ("Content-Length", "0"))

    provider.script = script
    got, error, answer, _ = await ask(gateway.url)
    assert (got, error["message"]) == (
        502,
        f"The upstream openhands answered with status {status}, which is not followed.",
    )
    assert "Location" not in answer.headers
    assert [request.target for request in provider.received] == ["/v1/messages"]


STALL = "The upstream sent nothing for 0.3 s."


@pytest.mark.parametrize(
    ("pieces", "glue"),
    [
        pytest.param([ANTHROPIC_EVENTS[0]], b"", id="between events"),
        pytest.param([], b"", id="before the first"),
        pytest.param([ANTHROPIC_EVENTS[0] + b"event: content_blo"], b"\n", id="inside a line"),
        pytest.param([ANTHROPIC_EVENTS[0] + b'event: ping\ndata: {"ty'], b"\n", id="inside a line of data"),
        pytest.param([ANTHROPIC_EVENTS[0] + b"event: ping\n"], b"", id="after a name"),
        pytest.param([ANTHROPIC_EVENTS[0], b"event: ping", b"\n"], b"", id="after a name, in pieces"),
        pytest.param([ANTHROPIC_EVENTS[0], ANTHROPIC_EVENTS[1][:-1]], b"\n", id="before a blank line"),
        pytest.param([ANTHROPIC_EVENTS[1][:-2], b"\n"], b"\n", id="before a blank line, in pieces"),
        pytest.param([b"event: ping\r\ndata: {}\r\n"], b"\n", id="before a blank line, CR LF"),
        pytest.param([b"event: ping\r\ndata: {}\r\n", b"\r\n"], b"", id="between events, CR LF"),
        pytest.param([b"event: ping\rdata: {}\r"], b"\n\n", id="before a blank line, CR"),
        pytest.param([b"event: ping\rdata: {}\r", b"\r"], b"", id="between events, CR"),
        pytest.param([b"data: {}\nid: 7"], b"\n\n", id="inside a line after the data"),
        pytest.param([b'data: {"a":"', b"a" * 300, b'"}', b"\n"], b"\n", id="after data that is long"),
        pytest.param([b'data: {"a":"', b"a" * 300], b"\n", id="inside data that is long"),
        pytest.param([b'event: ping\ndata: {"a":"' + b"a" * 300], b"\n", id="inside a line of data that is long"),
    ],
)
async def test_a_stall_ends_in_an_error_event_and_no_clean_end(
    gateway: Running, provider: Provider, lines: Lines, pieces: list[bytes], glue: bytes
) -> None:
    sent = b"".join(pieces)

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        for piece in pieces:
            await wire.chunk(piece)
            await asyncio.sleep(0.01)
        await wire.until_closed()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        got = await raw.chunks_until_broken()
    assert got.startswith(sent + glue + b"event: error\ndata: {")
    event = json.loads(got.partition(b"event: error\ndata: ")[2])
    silence = STALL if sent else "The upstream sent nothing for 0.5 s."
    assert event["error"] == {"type": "timeout_error", "message": silence}
    assert (await lines.request())["outcome"] == "upstream_stalled"


async def test_nothing_is_written_into_a_stream_that_is_packed(gateway: Running, provider: Provider) -> None:
    packed = gzip.compress(ANTHROPIC_EVENTS[0])

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream(("Content-Encoding", "gzip"))
        await wire.chunk(packed)
        await wire.until_closed()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert await raw.chunks_until_broken() == packed


async def test_a_stall_after_the_first_piece_is_not_given_the_time_for_the_first_byte(
    provider: Provider, keys: Path, lines: Lines
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await asyncio.sleep(0.1)
        await wire.chunk(ANTHROPIC_EVENTS[0])
        await wire.until_closed()

    provider.script = script
    timeouts = {"connect": 5, "first_byte": 120, "idle": 0.3, "total": 300}
    document = config_document(endpoints=endpoints_at(provider.url), timeouts=timeouts)
    async with running_gateway(document, keys) as gateway, connected(gateway.port) as raw:  # for 30 s at most
        await raw.post(ASK)
        await raw.head()
        assert STALL.encode() in await raw.chunks_until_broken()
    assert (await lines.request())["outcome"] == "upstream_stalled"


async def test_a_stall_in_openais_protocol(gateway: Running, provider: Provider) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(OPENAI_EVENTS[0])
        await wire.until_closed()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK, "/v1/chat/completions")
        await raw.head()
        got = await raw.chunks_until_broken()
    event = json.loads(got.removeprefix(OPENAI_EVENTS[0]).removeprefix(b"data: "))
    assert event == {"error": {"message": STALL, "type": "server_error", "param": None, "code": "upstream_timeout"}}


async def test_a_stall_in_a_whole_answer_breaks_it_off(gateway: Running, provider: Provider) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.head(200, ("Content-Type", "application/json"), ("Content-Length", "9"))
        await wire.send(b'{"a"')
        await wire.until_closed()

    provider.script = script
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert await raw.reader.read() == b'{"a"'


async def test_an_answer_that_takes_too_long_in_all(provider: Provider, keys: Path, lines: Lines) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        while True:
            await wire.chunk(b"data: 1\n\n")
            await asyncio.sleep(0.05)

    provider.script = script
    timeouts = {"connect": 2, "first_byte": 2, "idle": 2, "total": 2}
    document = config_document(endpoints=endpoints_at(provider.url), timeouts=timeouts)
    async with running_gateway(document, keys) as gateway, connected(gateway.port) as raw:
        await raw.post(ASK)
        await raw.head()
        assert b'"The answer took longer than 2 s."' in await raw.chunks_until_broken()
    assert (await lines.request())["outcome"] == "upstream_timeout"


async def test_one_upstreams_silence_is_not_felt_by_another(
    provider: Provider, keys: Path, eventually: Callable[..., Any]
) -> None:
    speak = asyncio.Event()

    async def script(_: Received, wire: Wire) -> None:
        await speak.wait()
        await wire.whole({"error": {}}, 529)

    provider.script = script
    async with (
        running_provider() as healthy,
        running_gateway(config_document(endpoints=endpoints_at(provider.url)), keys) as silent,
        running_gateway(config_document(endpoints=endpoints_at(healthy.url)), keys) as other,
        aiohttp.ClientSession(headers={"x-api-key": ALICE}) as session,
    ):
        stuck = [asyncio.create_task(ask(silent.url)) for _ in range(20)]
        await eventually(lambda: len(provider.received) == len(stuck), 4)
        async with session.post(f"{other.url}/v1/messages", json=ASK) as answer:
            assert answer.status == 200
        assert not any(task.done() for task in stuck)
        speak.set()
        assert [result[0] for result in await asyncio.gather(*stuck)] == [529] * 20
