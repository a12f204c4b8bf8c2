"""Names whose servers are silent stand in nobody's way."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goproxy.data_plane import name_lookup
from goproxy.data_plane.name_lookup import resolve


@pytest.fixture
def speaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until this is set the name server is silent about names that end in `.silent`."""
    getaddrinfo, speaks = socket.getaddrinfo, threading.Event()

    def look_up(host: str, *args: Any, **settings: Any) -> Any:
        if host.endswith(".silent"):
            speaks.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "whatever")
        return getaddrinfo(host, *args, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield speaks
    speaks.set()


async def test_names_that_nobody_tells_keep_none_from_being_found(speaks: threading.Event) -> None:
    silent = [asyncio.create_task(resolve(f"{n}.silent", 443)) for n in range(name_lookup._MOST - 1)]
    await asyncio.sleep(0)
    found = await asyncio.wait_for(resolve("127.0.0.1", 443), 5)
    assert [each[4] for each in found] == [("127.0.0.1", 443)]
    speaks.set()
    assert {type(each) for each in await asyncio.gather(*silent, return_exceptions=True)} == {socket.gaierror}


async def test_there_are_never_more_than_some(speaks: threading.Event, eventually: Callable[..., Any]) -> None:
    """Who gives up leaves a thread behind."""
    for n in range(name_lookup._MOST):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolve(f"{n}.silent", 443), 0.01)
    with pytest.raises(socket.gaierror, match="too many"):
        await resolve("127.0.0.1", 443)
    speaks.set()
    await eventually(lambda: name_lookup._left._value == name_lookup._MOST)
    assert await resolve("127.0.0.1", 443)


async def test_what_is_no_name_is_an_error() -> None:
    with pytest.raises(UnicodeError):
        await resolve("a" * 64, 443)


async def test_no_thread_is_no_fault_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    for _ in range(name_lookup._MOST + 1):
        with pytest.raises(BlockingIOError):
            await resolve("127.0.0.1", 443)


_LEAVING = """
import asyncio, socket, time, uvloop
from goproxy.data_plane.upstream_pool import resolve

socket.getaddrinfo = lambda *_, **__: time.sleep(30)

async def main():
    try:
        await asyncio.wait_for(resolve("a.silent", 443), 0.1)
    except TimeoutError:
        print("left")

uvloop.run(main())
"""


def test_a_process_that_leaves_does_not_wait_for_a_name_server() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _LEAVING], check=True, capture_output=True, text=True, timeout=50)
    assert done.stdout == "left\n"
    assert time.monotonic() - began < 15
