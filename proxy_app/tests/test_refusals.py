"""What the proxy answers by itself: each in the shape of its protocol, and without a call to the upstream."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from goproxy.core.keys import new_key
from tests.conftest import Lines
from tests.gateway import ALICE, BOB, Running, config_document, endpoints_at, running_gateway
from tests.provider import Provider
from tests.raw import connected

MODEL = "claude-opus-4-5-20251101"
ANTHROPIC, OPENAI = "/v1/messages", "/v1/chat/completions"
EACH = pytest.mark.parametrize("path", [ANTHROPIC, OPENAI, "/v1/responses"])


async def ask(
    gateway: Running, path: str, data: Any = b'{"model":"claude-opus-4-5"}', method: str = "POST", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Ask, and take the error's own part out of its envelope, after a look at the envelope."""
    shown = {"x-api-key": ALICE} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(method, gateway.url + path, data=data, headers=shown) as answer,
    ):
        assert answer.headers["Content-Type"] == "application/json"
        body = await answer.json()
        request_id = answer.headers["X-Request-Id"]
        if path.startswith(ANTHROPIC):
            assert (body["type"], body["request_id"], answer.headers["request-id"]) == ("error", request_id, request_id)
        else:
            assert set(body) == {"error"}
        error: dict[str, Any] = body["error"]
        return answer.status, error


@EACH
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": new_key()},
        {"x-api-key": ALICE[:-1] + ("0" if ALICE[-1] != "0" else "1")},
        {"x-api-key": "\xfc' OR 1=1 --"},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {ALICE}x"},
        {"x-api-key": ALICE, "Authorization": f"Bearer {BOB}"},
        {"x-api-key": "x" * 8000},
    ],
    ids=["none", "unknown", "mistyped", "quotes", "basic", "empty", "longer", "two accounts", "long"],
)
async def test_a_key_that_is_nobodys_gets_the_same_answer_always(
    gateway: Running, provider: Provider, lines: Lines, path: str, headers: dict[str, str]
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(gateway.url + path, data=b'{"model":"claude-opus-4-5"}', headers=headers) as answer,
    ):
        body = await answer.json()
        assert answer.status == 401
    kind, expected = ("type", "authentication_error") if path == ANTHROPIC else ("code", "invalid_api_key")
    assert body["error"][kind] == expected
    assert body["error"]["message"] == (
        "No valid API key. Send the key of your account as `x-api-key` or as `Authorization: Bearer`."
    )
    assert provider.received == []
    assert ((await lines.request())["outcome"], (await lines.request())["account"]) == ("refused", None)
    for value in headers.values():
        assert value not in "".join(lines.text)


async def test_two_headers_of_one_kind_are_refused(gateway: Running) -> None:
    async with connected(gateway.port) as raw:
        await raw.post({"model": MODEL}, ANTHROPIC, f"x-api-key: {ALICE}")
        assert (await raw.answer())[0] == 401


@EACH
async def test_an_unknown_model_is_answered_with_the_known_ones(
    gateway: Running, provider: Provider, lines: Lines, path: str
) -> None:
    status, error = await ask(gateway, path, b'{"model":"gpt-\\ud800"}')
    assert status == 404
    assert error["message"] == (
        "There is no model 'gpt-\\ud800' at chat.trollllm.xyz. Available: claude-opus-4-5-20251101."
    )
    assert error["type"] == ("not_found_error" if path == ANTHROPIC else "invalid_request_error")
    assert error.get("code") == (None if path == ANTHROPIC else "model_not_found")
    assert provider.received == []
    assert (await lines.request())["model"] is None  # what a client writes there is no business of a log


@EACH
@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b"{}", b'{"model":7}', b'{"model":"a","model":"b"}', b"\xff"])
async def test_what_is_no_request_is_400(gateway: Running, provider: Provider, path: str, body: bytes) -> None:
    status, error = await ask(gateway, path, body)
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert provider.received == []


async def test_a_compressed_body_is_400_and_not_unpacked(gateway: Running) -> None:
    status, error = await ask(gateway, ANTHROPIC, b"\x1f\x8b", Content_Encoding="gzip")
    assert (status, error["message"]) == (
        400,
        "The request body is compressed. Send it plain, without Content-Encoding.",
    )


async def test_a_query_that_is_not_percent_encoded_is_400(gateway: Running) -> None:
    async with connected(gateway.port) as raw:
        await raw.post({"model": MODEL}, "/v1/messages?a=\xfc")
        assert (await raw.answer())[0] == 400


@EACH
@pytest.mark.parametrize("version", ["1.1", "1.0"], ids=["fast", "aiohttp"])
@pytest.mark.parametrize(
    "query", ["model=dear", "%6Dodel=dear", "beta=true&model=dear", "beta=true;model=dear", "beta"]
)
async def test_a_query_that_an_upstream_might_follow_is_400(
    gateway: Running, provider: Provider, path: str, version: str, query: str
) -> None:
    """LiteLLM's chat completions run the model of the query, whichever the body names."""
    async with connected(gateway.port) as raw:
        await raw.post({"model": MODEL, "max_tokens": 1, "messages": []}, f"{path}?{query}", version=version)
        status, answer = await raw.answer()
    assert (status, json.loads(answer)["error"]["message"].partition(";")[0]) == (
        400,
        "The URL may end in ?beta=... or ?api-version=...",
    )
    assert provider.received == []


async def test_a_header_that_cannot_be_passed_is_400(gateway: Running) -> None:
    async with connected(gateway.port) as raw:
        body = b'{"model":"claude-opus-4-5"}'
        head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\nContent-Length: {len(body)}\r\n"
        await raw.send(head.encode() + b"X-Odd: \xff\r\n\r\n" + body)
        status, answer = await raw.answer()
        assert (status, json.loads(answer)["error"]["message"]) == (
            400,
            "The header X-Odd holds bytes that are not text.",
        )


@EACH
async def test_a_body_that_says_it_is_too_large_is_not_even_read(gateway: Running, path: str) -> None:
    async with connected(gateway.port) as raw:
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\nContent-Length: 1048577\r\n\r\n"
        await raw.send(head.encode())
        status, answer = await raw.answer()
    error = json.loads(answer)["error"]
    assert (status, error["message"]) == (
        413,
        "The request body is larger than 1048576 bytes, which is the limit here.",
    )
    assert error["type"] == ("request_too_large" if path == ANTHROPIC else "invalid_request_error")


async def test_a_chunked_body_that_grows_too_large_is_413(gateway: Running, provider: Provider) -> None:
    async with connected(gateway.port) as raw:
        head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await raw.send(head.encode())
        for _ in range(17):
            await raw.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert (await raw.answer())[0] == 413
    assert provider.received == []


async def test_a_body_of_just_the_limit_is_taken(gateway: Running, provider: Provider) -> None:
    body = b'{"model":"claude-opus-4-5-20251101"}'.ljust(1048576)
    async with connected(gateway.port) as raw:
        await raw.post(body)
        assert (await raw.answer())[0] == 200
    assert provider.last.body == body


async def test_a_broken_chunked_body_is_400(gateway: Running, provider: Provider) -> None:
    async with connected(gateway.port) as raw:
        head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await raw.send(head.encode() + b'5\r\n{"mod\r\nzz\r\n')
        assert (await raw.answer())[0] == 400
    assert provider.received == []


async def test_a_body_that_never_ends_is_408(provider: Provider, keys: Path) -> None:
    timeouts = {"connect": 1, "first_byte": 1, "idle": 0.2, "total": 2}
    document = config_document(endpoints=endpoints_at(provider.url), timeouts=timeouts)
    async with running_gateway(document, keys) as gateway, connected(gateway.port) as raw:
        await raw.send(f"POST {OPENAI} HTTP/1.1\r\nHost: h\r\nx-api-key: {ALICE}\r\nContent-Length: 9\r\n\r\n".encode())
        assert (await raw.answer())[0] == 408


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", ANTHROPIC, "POST"), ("PUT", OPENAI, "POST"), ("DELETE", "/v1/models", "GET, HEAD")],
)
async def test_a_wrong_method_is_405(gateway: Running, method: str, path: str, allowed: str) -> None:
    status, error = await ask(gateway, path, None, method)
    assert (status, error["message"]) == (405, f"{method} does not work here. Allowed: {allowed}.")
    async with aiohttp.ClientSession() as session, session.request(method, gateway.url + path) as answer:
        assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/complete", "/v1/messages/batches", "/v1/embeddings"])
async def test_an_unknown_path_is_404_and_says_what_there_is(gateway: Running, path: str) -> None:
    status, error = await ask(gateway, path)
    assert (status, error["message"]) == (
        404,
        f"There is no {path} at chat.trollllm.xyz. "
        "There is: POST /v1/messages, POST /v1/chat/completions, POST /v1/responses, GET /v1/models, GET /v1/key.",
    )


async def test_an_unknown_path_answers_anthropics_clients_in_their_shape(gateway: Running) -> None:
    async with (
        aiohttp.ClientSession(headers={"anthropic-version": "2023-06-01"}) as session,
        session.get(gateway.url + "/v1/files") as answer,
    ):
        assert (answer.status, (await answer.json())["type"]) == (404, "error")


@pytest.mark.parametrize(
    ("has", "path", "kind", "message"),
    [
        (
            "anthropic",
            OPENAI,
            "invalid_request_error",
            "The upstream openhands has no openai endpoint, so that /v1/chat/completions does not work here. "
            "Supported: POST https://chat.trollllm.xyz/v1/messages.",
        ),
        (
            "openai",
            ANTHROPIC,
            "not_found_error",
            "The upstream openhands has no anthropic endpoint, so that /v1/messages does not work here. "
            "Supported: POST https://chat.trollllm.xyz/v1/chat/completions.",
        ),
    ],
)
async def test_a_protocol_that_the_upstream_does_not_speak(
    provider: Provider, keys: Path, has: str, path: str, kind: str, message: str
) -> None:
    async with running_gateway(config_document(endpoints=endpoints_at(provider.url, has)), keys) as gateway:
        status, error = await ask(gateway, path)
        assert (status, error["type"], error["message"]) == (404, kind, message)
        status, _ = await ask(gateway, path, x_api_key="wrong")
        assert status == 401  # strangers are not told


async def test_a_failure_of_our_own_is_500_in_shape_and_logged_without_its_text(
    gateway: Running, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("prompt-CANARY")

    monkeypatch.setattr("goproxy.data_plane.request.admit", fail)
    status, error = await ask(gateway, ANTHROPIC)
    assert (status, error["type"]) == (500, "api_error")
    (line,) = lines.all("request failed")
    assert (line["exception"], line["level"]) == ("ZeroDivisionError", "error")
    assert (await lines.request())["outcome"] == "internal_error"
    assert "CANARY" not in "".join(lines.text)


async def test_what_is_not_http_leaves_no_bytes_of_it_in_the_log(gateway: Running, lines: Lines) -> None:
    for garbage in (b"\x16\x03\x01CANARY\r\n\r\n", b"GET / HTTP/1.1\r\nx-api-key: " + b"CANARY" * 2000 + b"\r\n\r\n"):
        async with connected(gateway.port) as raw:
            await raw.send(garbage)
            assert (await raw.head())[0] == 400
    assert lines.text
    assert "CANARY" not in "".join(lines.text)


async def test_two_requests_in_one_segment_are_two_requests(gateway: Running, provider: Provider) -> None:
    async with connected(gateway.port) as raw:
        await asyncio.gather(raw.post({"model": MODEL}), raw.post({"model": "nope"}))
        assert [(await raw.answer())[0] for _ in range(2)] == [200, 404]
    assert len(provider.received) == 1
