"""keys.json is watched: what an operator changes holds within a second, on open connections too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goproxy.data_plane.keyring import Keyring, NoKeys
from tests.conftest import Lines
from tests.gateway import ALICE, BOB, Running, write_keys
from tests.raw import RawClient, connected

ASK = {"model": "claude-opus-4-5-20251101"}


async def seconds_until(raw: RawClient, status: int, key: str) -> float:
    began = time.monotonic()
    while True:
        await raw.post(ASK, key=key)
        got, _ = await raw.answer()
        if got == status:
            return time.monotonic() - began
        assert time.monotonic() - began < 1, f"still {got}"
        await asyncio.sleep(0.01)


async def test_a_removed_key_is_refused_within_a_second_on_an_open_connection(gateway: Running) -> None:
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.answer())[0] == 200
        write_keys(gateway.keys, bob=BOB)
        assert await seconds_until(raw, 401, ALICE) < 1
        await raw.post(ASK, key=BOB)
        assert (await raw.answer())[0] == 200


async def test_a_new_key_is_let_in_within_a_second(gateway: Running) -> None:
    write_keys(gateway.keys, bob=BOB)
    async with connected(gateway.port) as raw:
        await seconds_until(raw, 401, ALICE)
        write_keys(gateway.keys, alice=ALICE, bob=BOB)
        assert await seconds_until(raw, 200, ALICE) < 1


@pytest.mark.parametrize("content", [b"", b'{"keys": [{"acc', b'{"keys": [{}]}', None])
async def test_a_broken_file_leaves_the_last_good_keys(
    gateway: Running, lines: Lines, eventually: Callable[..., Any], content: bytes | None
) -> None:
    if content is None:
        gateway.keys.unlink()
    else:
        gateway.keys.write_bytes(content)
    await eventually(lambda: bool(lines.all("keys file is broken; the last good set stays")))
    async with connected(gateway.port) as raw:
        await raw.post(ASK)
        assert (await raw.answer())[0] == 200
        await raw.send(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
        status, body = await raw.answer()
        assert (status, b"its last good set stays" in body) == (200, True)
        write_keys(gateway.keys, bob=BOB)  # and the next good file counts again
        assert await seconds_until(raw, 401, ALICE) < 1
    assert len(lines.all("keys file is broken; the last good set stays")) <= 2


class TestWithoutAnyKeys:
    """No keys.json was ever read."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> Path:
        return tmp_path / "keys.json"

    async def test_requests_are_503_and_not_401_until_there_is_one(self, gateway: Running) -> None:
        async with connected(gateway.port) as raw:
            await raw.post(ASK)
            assert (await raw.answer())[0] == 503
            await raw.send(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
            status, body = await raw.answer()
            assert (status, b"no API keys: keys.json cannot be read: No such file" in body) == (503, True)
            write_keys(gateway.keys, alice=ALICE)
            assert await seconds_until(raw, 200, ALICE) < 1


def test_a_keyring_without_keys_says_so(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys.json")
    keyring.look()
    with pytest.raises(NoKeys):
        keyring.account_of(ALICE)
