"""What cannot be read as HTTP: anyone who reaches the port can send it, so that it fills no log and no memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.http_exceptions import HttpProcessingError

from goproxy import unreadable
from tests.conftest import Lines
from tests.gateway import Running, config_document, running_gateway
from tests.raw import connected

_LEFT_OUT = "unreadable requests left out of the log"


async def send(port: int, data: bytes = b"\x16\x03\x01CANARY\r\n\r\n") -> None:
    async with connected(port) as raw:
        await raw.send(data)
        assert (await raw.head())[0] == 400


async def test_the_log_has_some_and_the_number_of_the_others(keys: Path, lines: Lines) -> None:
    async with running_gateway(config_document(), keys) as gateway:
        for _ in range(unreadable.LINES + 3):
            await send(gateway.port)
        told = lines.all("unreadable request")
        assert len(told) == unreadable.LINES
        assert {(line["level"], line["remote"]) for line in told} == {("warning", "127.0.0.1")}
        assert lines.all(_LEFT_OUT) == []
    assert [line["count"] for line in lines.all(_LEFT_OUT)] == [3], "told at the latest when the process leaves"
    assert "CANARY" not in "".join(lines.text)


async def test_a_new_period_has_lines_again(
    lines: Lines, eventually: Callable[[Callable[[], bool]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreadable, "PERIOD", 0)
    requests = unreadable.UnreadableRequests()
    for _ in range(unreadable.LINES + 1):
        requests.tell(None, None)
    await eventually(lambda: len(lines.all(_LEFT_OUT)) == 1)
    requests.tell(None, None)
    assert len(lines.all("unreadable request")) == unreadable.LINES + 1


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
async def test_nothing_of_it_stays(gateway: Running) -> None:
    """What the parser raises holds all that came; a circle around it would stay until a whole garbage collection."""
    for data in (b"POST / HTTP/1.1\r\nx-api-key: " + b"x" * 12_000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nX: \x01\r\n\r\n"):
        async with connected(gateway.port) as raw:
            await raw.send(data)
            await raw.reader.read()
    assert [each for each in gc.get_objects() if isinstance(each, HttpProcessingError)] == []
