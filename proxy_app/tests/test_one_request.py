"""What is one request by the rules stays one: nothing that follows it on its connection is served as the next."""

from __future__ import annotations

import json

import pytest

from tests.gateway import ALICE, Running
from tests.provider import Provider
from tests.raw import connected

_BODY = json.dumps(
    {"model": "claude-opus-4-5-20251101", "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}
)
_COMMON = f"Host: chat.trollllm.xyz\r\nx-api-key: {ALICE}\r\nContent-Type: application/json\r\n"
_INNER = f"POST /v1/messages?inner HTTP/1.1\r\n{_COMMON}Content-Length: {len(_BODY)}\r\n\r\n{_BODY}"


@pytest.mark.parametrize("target", ["chat.trollllm.xyz:443", "/v1/messages", "/metrics"])
async def test_what_follows_connect_is_no_request(gateway: Running, provider: Provider, target: str) -> None:
    """CONNECT has no body by the parser's reading, whatever its length says; there are no tunnels here."""
    head = f"CONNECT {target} HTTP/1.1\r\n{_COMMON}Content-Length: {len(_INNER)}\r\n\r\n"
    async with connected(gateway.port) as client:
        await client.send((head + _INNER).encode())
        status, _ = await client.answer()
        assert 400 <= status < 500
        assert await client.reader.read() == b"", "the connection is closed after it"
    assert provider.received == []


async def test_what_claims_to_be_http_2_is_the_last_on_its_connection(gateway: Running, provider: Provider) -> None:
    """Two readers need not agree where such a message ends."""
    head = f"POST /v1/messages?outer HTTP/2.0\r\n{_COMMON}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = f"{len(_BODY):x}\r\n{_BODY}\r\n0\r\n\r\n"
    async with connected(gateway.port) as client:
        await client.send((head + chunks + _INNER).encode())
        await client.reader.read()
    assert [request.target for request in provider.received if "inner" in request.target] == []


@pytest.mark.parametrize("line", ["X-ODD /v1/messages?secret HTTP/1.1", "POST /v1/messages HTTP/1.1\r\nX: \x01secret"])
async def test_what_cannot_be_read_gets_an_error_that_every_client_understands(gateway: Running, line: str) -> None:
    """And that repeats nothing of it."""
    async with connected(gateway.port) as client:
        await client.send(f"{line}\r\nHost: x\r\n\r\n".encode())
        status, headers = await client.head()
        body = await client.reader.readexactly(int(headers["content-length"]))
        assert (status, headers["content-type"]) == (400, "application/json; charset=utf-8")
        assert b"secret" not in body
        document = json.loads(body)
        assert (document["type"], document["error"]["type"]) == ("error", "invalid_request_error")
        assert document["error"].keys() == {"type", "message", "param", "code"}
        assert await client.reader.read() == b"", "the connection is closed after it"
