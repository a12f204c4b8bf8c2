"""What most tests need: a provider, keys, and a goproxy between the test and the provider."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from hypothesis import settings

from goproxy.observe import JsonLines
from tests.backend import Backend, running_backend
from tests.gateway import ALICE, BOB, Running, config_document, endpoints_at, running_gateway, write_keys
from tests.provider import Provider, running_provider

settings.register_profile("goproxy", deadline=None, print_blob=True)
settings.load_profile("goproxy")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """Every test runs on the loop that the proxies run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with running_provider() as running:
        yield running


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    write_keys(path, alice=ALICE, bob=BOB)
    return path


@pytest.fixture
def document(provider: Provider) -> dict[str, Any]:
    """The configuration of `gateway`; a test changes it before it asks for that."""
    return config_document(endpoints=endpoints_at(provider.url))


@pytest.fixture
async def backend(document: dict[str, Any], keys: Path, tmp_path: Path) -> AsyncIterator[Backend]:
    """A backend alone, for proxies that a test starts itself. (A `gateway` has its own.)"""
    async with running_backend(tmp_path / "backend", keys, document) as running:
        yield running


@pytest.fixture
async def gateway(document: dict[str, Any], keys: Path) -> AsyncIterator[Running]:
    async with running_gateway(document, keys) as running:
        yield running


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that shows Alice's key and takes bodies as they come."""
    async with aiohttp.ClientSession(
        base_url=gateway.url + "/",
        headers={"x-api-key": ALICE},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


class Lines(logging.Handler):
    """The log as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(self.format(record))

    def all(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        lines: list[dict[str, Any]] = [json.loads(text) for text in self.text]
        return [line for line in lines if line["event"] == event]

    async def request(self) -> dict[str, Any]:
        """The line of the only request. That of a paid one is written when it is settled, which may be a moment off."""
        async with asyncio.timeout(30):
            while not self.all("request"):
                await asyncio.sleep(0.005)
        (line,) = self.all("request")
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(autouse=True)
def nothing_unforeseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may make aiohttp or asyncio log an error."""
    yield
    unforeseen = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name.startswith(("aiohttp", "asyncio")) and record.levelno >= logging.ERROR
    ]
    assert not unforeseen, unforeseen


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Any]:
    """Wait until something holds, however slow the machine is."""

    async def wait(holds: Callable[[], bool], seconds: float = 30.0) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not holds():
            assert loop.time() < until, f"does not hold within {seconds} s"
            await asyncio.sleep(0.005)

    return wait
