"""What reaches the upstream, and what comes back: everything unchanged, but for what must not pass."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from goproxy.core.input_estimate import OPENING_FIELDS
from goproxy.core.request_body import READ_FIELDS
from tests.conftest import Lines
from tests.gateway import ALICE, OPUS, UPSTREAM_SECRET, Running, chain, config_document, endpoints_at, running_gateway
from tests.provider import ANTHROPIC_MESSAGE, OPENAI_COMPLETION, Provider, Received, Wire
from tests.raw import connected

MODEL = "claude-opus-4-5-20251101"
BODY = b'{ "model" : "claude-opus-4-5-20251101",\n "unknown_field":[1.0,1e5,"\\u00fc\xc3\xbc"], "max_tokens":9}'


async def test_the_body_arrives_byte_for_byte(client: aiohttp.ClientSession, provider: Provider) -> None:
    async with client.post("v1/messages", data=BODY) as answer:
        assert answer.status == 200
    assert provider.last.body == BODY
    assert (provider.last.method, provider.last.target) == ("POST", "/v1/messages")


async def test_a_chunked_body_arrives_byte_for_byte(gateway: Running, provider: Provider) -> None:
    async with connected(gateway.port) as raw:
        await raw.send(f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\n".encode())
        await raw.send(b"Transfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(BODY), 7):
            piece = BODY[at : at + 7]
            await raw.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await raw.send(b"0\r\n\r\n")
        assert (await raw.answer())[0] == 200
    assert provider.last.body == BODY


async def test_a_large_body_arrives_byte_for_byte(provider: Provider, keys: Path) -> None:
    body = b'{"model":"claude-opus-4-5-20251101","image":"' + b"A" * 3_000_001 + b'"}'
    document = config_document(endpoints=endpoints_at(provider.url), max_body_bytes=4_000_000)
    async with (
        running_gateway(document, keys) as gateway,
        aiohttp.ClientSession(headers={"x-api-key": ALICE}) as session,
        session.post(f"{gateway.url}/v1/messages", data=io.BytesIO(body)) as answer,
    ):
        assert answer.status == 200
    assert provider.last.body == body
    assert provider.last.header("content-length") == str(len(body))
    assert provider.last.header("transfer-encoding") is None


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("v1/messages?beta=true", "/v1/messages?beta=true"),
        ("v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("v1/messages/count_tokens?beta=true", "/v1/messages/count_tokens?beta=true"),
        ("v1/chat/completions?api-version=2026-01-01-preview", "/v1/chat/completions?api-version=2026-01-01-preview"),
        ("v1/messages?beta=true&api-version=&beta=2", "/v1/messages?beta=true&api-version=&beta=2"),
    ],
)
async def test_each_path_goes_to_its_endpoint_with_its_query(
    client: aiohttp.ClientSession, provider: Provider, path: str, target: str
) -> None:
    async with client.post(URL(path, encoded=True), data=BODY) as answer:
        assert answer.status == 200
    assert provider.last.target == target


async def test_headers_pass_and_the_clients_credentials_do_not(
    gateway: Running, provider: Provider, lines: Lines
) -> None:
    async with connected(gateway.port) as raw:
        await raw.post(
            BODY,
            "/v1/messages",
            f"Authorization: Bearer {ALICE}",
            "anthropic-version: 2023-06-01",
            "anthropic-beta: b-1,b-2",
            "anthropic-beta: b-3",
            "Accept-Encoding: gzip, br",
            "Cookie: session=1",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
            "X-Forwarded-For: 192.0.2.1",
            "X-Real-IP: 192.0.2.1",
            "User-Agent: claude-cli/2.0",
        )
        assert (await raw.answer())[0] == 200
    assert provider.last.headers == [
        ("Host", f"localhost:{provider.port}"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "b-1,b-2"),
        ("anthropic-beta", "b-3"),
        ("User-Agent", "claude-cli/2.0"),
        ("Content-Type", "application/json"),
        ("Accept-Encoding", "identity"),
        ("x-api-key", UPSTREAM_SECRET),
        ("Content-Length", str(len(BODY))),
    ]
    assert ALICE not in "".join(lines.text)


async def test_the_upstreams_key_is_paid_in_the_coin_of_the_protocol(
    client: aiohttp.ClientSession, provider: Provider
) -> None:
    await client.post("v1/messages", data=BODY)
    assert (provider.last.header("x-api-key"), provider.last.header("authorization")) == (UPSTREAM_SECRET, None)
    await client.post("v1/chat/completions", data=BODY)
    assert provider.last.header("x-api-key") is None
    assert provider.last.header("authorization") == f"Bearer {UPSTREAM_SECRET}"


@pytest.mark.parametrize(
    "shown",
    [
        {"x-api-key": ALICE},
        {"Authorization": f"Bearer {ALICE}"},
        {"Authorization": f"bearer  {ALICE} "},
        {"x-api-key": "sk-ant-of-the-environment", "Authorization": f"Bearer {ALICE}"},
        {"x-api-key": ALICE, "Authorization": f"Bearer {ALICE}"},
    ],
)
async def test_a_key_arrives_either_way(gateway: Running, lines: Lines, shown: dict[str, str]) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{gateway.url}/v1/messages", data=BODY, headers=shown) as answer,
    ):
        assert answer.status == 200
    assert (await lines.request())["account"] == "alice"


async def test_an_alias_is_passed_as_it_is_named_when_the_upstream_knows_it_so(provider: Provider, keys: Path) -> None:
    model = OPUS | {"upstream_model_id": "claude-opus-4-5"}
    document = config_document(endpoints=endpoints_at(provider.url), models=[model])
    async with running_gateway(document, keys) as gateway, aiohttp.ClientSession() as session:
        sent = b'{"model":"claude-opus-4-5" ,"x":1}'
        await session.post(f"{gateway.url}/v1/messages", data=sent, headers={"x-api-key": ALICE})
        assert provider.last.body == sent
        sent = b'{"x": {"model":"claude-opus-4-5-20251101"},"model":"claude-opus-4-5-20251101"}'
        await session.post(f"{gateway.url}/v1/messages", data=sent, headers={"x-api-key": ALICE})
    assert provider.last.body == b'{"x": {"model":"claude-opus-4-5-20251101"},"model":"claude-opus-4-5"}'
    assert provider.last.header("content-length") == str(len(provider.last.body))


async def test_the_answer_comes_back_as_it_was(client: aiohttp.ClientSession, provider: Provider) -> None:
    packed = gzip.compress(json.dumps(ANTHROPIC_MESSAGE).encode())

    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(
            packed,
            200,
            ("Content-Encoding", "gzip"),
            ("X-Unknown", "1"),
            ("X-Unknown", "2"),
            ("Date", "Mon, 23 Nov 2026 12:00:00 GMT"),
            ("Server", "cloudflare"),
            ("Set-Cookie", "a=b"),
            ("request-id", "req_of_the_upstream"),
            ("anthropic-organization-id", "org"),
            ("anthropic-ratelimit-tokens-remaining", "5"),
            ("x-ratelimit-remaining-requests", "5"),
            ("openai-organization", "org"),
        )

    provider.script = script
    async with client.post("v1/messages", data=BODY) as answer:
        assert await answer.read() == packed
        ours = answer.headers["X-Request-Id"]
        assert ours.startswith("req_")
        assert sorted(answer.headers.items()) == sorted(
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(packed))),
                ("Content-Encoding", "gzip"),
                ("X-Unknown", "1"),
                ("X-Unknown", "2"),
                ("Date", "Mon, 23 Nov 2026 12:00:00 GMT"),
                ("Server", "goproxy"),
                ("X-Request-ID", ours),
                ("request-id", ours),
            ]
        )


async def test_openai_answers_have_one_request_id(client: aiohttp.ClientSession, provider: Provider) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(OPENAI_COMPLETION, 200, ("x-request-id", "theirs"))

    provider.script = script
    async with client.post("v1/chat/completions", data=BODY) as answer:
        assert answer.headers.getall("x-request-id") != ["theirs"]
        assert len(answer.headers.getall("x-request-id")) == 1
        assert "request-id" not in answer.headers


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429, 500, 503, 504, 529])
async def test_the_upstreams_errors_come_back_as_they_were(
    client: aiohttp.ClientSession, provider: Provider, lines: Lines, status: int
) -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"odd":1}'

    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(body, status, ("retry-after", "7"), ("request-id", "req_theirs"))

    provider.script = script
    async with client.post("v1/messages", data=BODY) as answer:
        assert (answer.status, await answer.read()) == (status, body)
        assert answer.headers["retry-after"] == "7"
    assert ((await lines.request())["status"], (await lines.request())["outcome"]) == (status, "upstream_error")
    assert (await lines.request())["upstream_request_id"] == "req_theirs"


async def test_a_connection_to_the_upstream_is_used_again(client: aiohttp.ClientSession, provider: Provider) -> None:
    for _ in range(3):
        async with client.post("v1/messages", data=BODY) as answer:
            await answer.read()
    assert (len(provider.received), provider.connections) == (3, 1)


async def test_a_connection_that_the_upstream_closed_in_the_meantime_is_not_used_again(
    client: aiohttp.ClientSession, provider: Provider
) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(ANTHROPIC_MESSAGE)
        wire.hang_up()

    provider.script = script
    for _ in range(3):
        async with client.post("v1/messages", data=BODY) as answer:
            assert answer.status == 200
            await answer.read()
        await asyncio.sleep(0.05)
    assert (len(provider.received), provider.connections) == (3, 3)


async def test_the_upstreams_cookies_are_not_kept(client: aiohttp.ClientSession, provider: Provider) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(ANTHROPIC_MESSAGE, 200, ("Set-Cookie", "tenant=alice"))

    provider.script = script
    for _ in range(2):
        async with client.post("v1/messages", data=BODY) as answer:
            await answer.read()
    assert provider.last.header("cookie") is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


_READ = {name.casefold() for name in READ_FIELDS | OPENING_FIELDS}
NAMES = st.text().filter(lambda name: name.casefold() not in _READ)
"""Of fields that the proxy need not understand."""


def test_any_request_and_any_answer_pass_unchanged(keys: Path) -> None:
    with chain(keys) as running:

        @given(st.dictionaries(NAMES, JSON_VALUES, max_size=4), st.binary(max_size=2000))
        def holds(document: dict[str, Any], answer: bytes) -> None:
            async def script(_: Received, wire: Wire) -> None:
                await wire.whole(answer, content_type="application/x-anything")

            body = json.dumps(document | {"model": MODEL, "stream": False}).encode()
            assert running.ask(body, script) == answer
            assert running.provider.last.body == body

        holds()
