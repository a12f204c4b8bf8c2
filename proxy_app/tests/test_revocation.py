"""What an operator changes about keys soon holds, on open connections too.

"Soon" is a second (docs/billing.md); the benchmark `revocation` measures it, and these tests, which share their machine
with anything, only wait for it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goproxy.config import parse_config
from goproxy.data_plane.books import books_for
from goproxy.data_plane.server import front_of, gateway_for, make_app
from goproxy.data_plane.upstream import reach
from goproxy.hosting import Stay, make_runner, serving
from goproxy.watched_file import LOOK_EVERY
from tests.gateway import ALICE, BOB, Running, running_gateway, write_keys
from tests.raw import RawClient, connected

ASK = {"model": "claude-opus-4-5-20251101"}


async def answered_with(raw: RawClient, status: int, key: str) -> None:
    """Ask until the answer is that; fail if it still is not long after it had to be."""
    began = time.monotonic()
    while True:
        await raw.post(ASK, key=key)
        got, _ = await raw.answer()
        if got == status:
            return
        assert time.monotonic() - began < 10, f"still {got}"
        await asyncio.sleep(0.01)


async def test_a_removed_key_is_refused_on_an_open_connection(gateway: Running) -> None:
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.answer())[0] == 200
        write_keys(gateway.keys, bob=BOB)
        await answered_with(raw, 401, ALICE)
        await raw.post(ASK, key=BOB)
        assert (await raw.answer())[0] == 200


async def test_a_new_key_is_let_in(gateway: Running) -> None:
    write_keys(gateway.keys, bob=BOB)
    async with connected(gateway.port) as raw:
        await answered_with(raw, 401, ALICE)
        write_keys(gateway.keys, alice=ALICE, bob=BOB)
        await answered_with(raw, 200, ALICE)


async def test_a_key_that_the_operator_revokes_is_refused_on_an_open_connection(
    gateway: Running,
) -> None:
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.answer())[0] == 200
        (key,) = (await gateway.backend.get("keys", account="alice"))["keys"]
        await gateway.backend.post(f"keys/{key['id']}/revoke", None)
        await answered_with(raw, 401, ALICE)


@pytest.mark.parametrize(
    ("change", "status"),
    [({"limit_nanodollars": 1}, 402), ({"requests_per_minute": 1}, 429)],
    ids=["limit", "rate"],
)
async def test_what_the_operator_changes_of_a_key_holds_on_an_open_connection(
    gateway: Running, change: dict[str, Any], status: int
) -> None:
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.answer())[0] == 200
        (key,) = (await gateway.backend.get("keys", account="alice"))["keys"]
        await gateway.backend.post(f"keys/{key['id']}/set", change)
        await answered_with(raw, status, ALICE)
        await gateway.backend.post(f"keys/{key['id']}/set", dict.fromkeys(change))
        await answered_with(raw, 200, ALICE)


@pytest.mark.parametrize("content", [b"", b'{"keys": [{"acc', b'{"keys": [{}]}', None])
async def test_a_broken_file_leaves_the_last_good_keys(gateway: Running, content: bytes | None) -> None:
    if content is None:
        gateway.keys.unlink()
    else:
        gateway.keys.write_bytes(content)
    await asyncio.sleep(2 * LOOK_EVERY)
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.answer())[0] == 200
        write_keys(gateway.keys, bob=BOB)  # and the next good file counts again
        await answered_with(raw, 401, ALICE)


async def test_keys_are_believed_while_the_backend_is_away(gateway: Running) -> None:
    async with connected(gateway.port) as raw:
        for _ in range(2):  # the first request leaves a lease behind
            await raw.post(ASK)
            assert (await raw.answer())[0] == 200
            await gateway.backend.stop()
        await gateway.backend.start()
        write_keys(gateway.keys, bob=BOB)
        await answered_with(raw, 401, ALICE)


async def test_keys_are_not_believed_for_ever(
    document: dict[str, Any], keys: Path, eventually: Callable[..., Any]
) -> None:
    document["staleness_seconds"] = 1
    async with running_gateway(document, keys) as gateway:
        await gateway.backend.stop()
        await eventually(lambda: gateway.books.keys_age > 1, seconds=5)
        async with connected(gateway.port) as raw:
            await raw.post(ASK)
            assert (await raw.answer())[0] == 503
            await raw.send(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
            status, body = await raw.answer()
            assert (status, b"no API keys" in body) == (503, True)


async def test_requests_are_503_and_not_401_before_the_backend_has_told_any_keys(
    document: dict[str, Any], tmp_path: Path
) -> None:
    config = parse_config(json.dumps(document).encode())
    async with (
        books_for(config, tmp_path / "journal", "http://127.0.0.1:9", "token") as books,
        reach(config.upstream, "secret", config.timeouts, ssl.create_default_context()) as upstream,
        gateway_for(config, books, upstream, Stay(), 1) as gateway,
    ):
        listener = socket.create_server(("127.0.0.1", 0))
        async with (
            serving(make_runner(make_app(gateway)), [listener], front_of(gateway)),
            connected(listener.getsockname()[1]) as raw,
        ):
            await raw.post(ASK)
            assert (await raw.answer())[0] == 503
