"""The whole `goproxy serve`, under strace: the disk has a hold before the upstream hears of the request, and a row
before the backend does.

strace stops a thread when a system call begins and when it returns, and writes a line each time. So a sync whose return
stands above the beginning of a send had returned before a byte of it went out. Each sync is made to take long: whoever
does not wait for it is seen.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.backend import Backend
from tests.crash.strace import Call, NoStrace, calls_in
from tests.gateway import ALICE
from tests.process import serving
from tests.provider import ANTHROPIC_EVENTS, Provider, Received, Wire

pytestmark = pytest.mark.timeout(60)

REQUESTS = ("a-canary-of-the-first-request", "a-canary-of-the-second-request")
"""Sent one after the other: the second finds a connection of the first one in the pool."""

_SYNC_TAKES = 500_000
"""Microseconds on top: longer than a row waits for others before it is posted."""

_SENDING = ("write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice", "pwritev2")
_RECEIVING = ("read", "readv", "recvfrom", "recvmsg", "recvmmsg")
_SEEN = (*_SENDING, *_RECEIVING, "connect", "pwrite64", "fdatasync", "fsync")


@dataclass(frozen=True)
class Trace:
    """What a process did that served `REQUESTS`."""

    calls: Sequence[Call]
    ids: Sequence[str]
    """Of the requests, as their clients were told."""
    upstream: int
    backend: int
    """Their ports."""

    def asked(self, request: int) -> int:
        """Where the proxy had something of a request of its client."""
        canary = REQUESTS[request].encode()
        return first(call.returned for call in self.calls if call.name in _RECEIVING and holds(call, canary))

    def contacts(self, request: int) -> Iterator[Call]:
        """All by which the upstream could hear of a request: from its arrival to that of the next one."""
        begin = self.asked(request)
        end = self.asked(request + 1) if request + 1 < len(REQUESTS) else float("inf")
        return (
            call
            for call in self.calls
            if begin < call.begun < end and (self.is_sent_to(self.upstream, call) or self.connects(call))
        )

    def connects(self, call: Call) -> bool:
        """Whether this is a connection to the upstream."""
        return call.name == "connect" and f"htons({self.upstream})" in call.arguments

    def posted(self, request: int) -> int:
        """Where the backend is first told of a request's row."""
        id_ = self.ids[request].encode()
        return first(call.begun for call in self.calls if self.is_sent_to(self.backend, call) and holds(call, id_))

    def is_sent_to(self, port: int, call: Call) -> bool:
        """Whether something goes out to this port of another process."""
        return call.name in _SENDING and re.match(rf"\d+<TCP(v6)?:\[[^>]*->[^>]*:{port}\]>", call.arguments) is not None

    def synced(self, record: bytes) -> int:
        """Where the disk had a record of the journal."""
        (written,) = [call for call in self.calls if call.name == "pwrite64" and holds(call, record)]
        return first(
            call.returned
            for call in self.calls
            if call.name in ("fdatasync", "fsync")
            and call.descriptor == written.descriptor
            and call.begun > written.returned
            and call.succeeded
        )

    def hold_synced(self, request: int) -> int:
        return self.synced(f'{{"kind":"open","hold":{{"id":"{self.ids[request]}"'.encode())

    def row_synced(self, request: int) -> int:
        return self.synced(f'{{"kind":"settle","row":{{"id":"{self.ids[request]}"'.encode())


def holds(call: Call, text: bytes) -> bool:
    """Whether a call carries these bytes, whichever way they are scattered over its buffers."""
    return text in b"".join(call.strings)


def first(places: Iterator[int]) -> int:
    """The first of some places; there must be one."""
    found = min(places, default=None)
    assert found is not None
    return found


@pytest.fixture
def trace_of(
    provider: Provider, backend: Backend, document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """Lets a module serve `REQUESTS` as `goproxy serve` does, and gives its trace."""

    async def run(module: str) -> Trace:
        log = tmp_path / "trace"
        monkeypatch.setattr(sys, "executable", str(traced_python(tmp_path, log, module)))
        provider.script = stream
        ids = []
        async with serving(document, backend, tmp_path) as served:
            async with aiohttp.ClientSession(headers={"x-api-key": ALICE}) as client:
                for canary in REQUESTS:
                    ids.append(await ask(client, served.port, canary))
                    while len((await backend.get("rows", kind="request"))["rows"]) < len(ids):
                        await asyncio.sleep(0.02)
            served.process.terminate()
            assert await served.process.wait() == 0
        while not re.search(rf"^{served.process.pid} +\+\+\+ exited with 0", log.read_text(), re.MULTILINE):
            await asyncio.sleep(0.02)
        calls = list(calls_in(log.read_text().splitlines()))
        return Trace(calls, ids, provider.port, backend.port)

    return run


async def stream(_: Received, wire: Wire) -> None:
    await wire.stream(ANTHROPIC_EVENTS)


async def ask(client: aiohttp.ClientSession, port: int, canary: str) -> str:
    """Send a streamed request and take its answer; its id."""
    body = {
        "model": "claude-opus-4-5",
        "max_tokens": 9,
        "stream": True,
        "messages": [{"role": "user", "content": canary}],
    }
    headers = {"anthropic-beta": canary}  # so that head and body of the request can both be known
    async with client.post(f"http://127.0.0.1:{port}/v1/messages", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert b"".join(ANTHROPIC_EVENTS) == await answer.read()
        return answer.headers["X-Request-Id"]


def traced_python(directory: Path, log: Path, module: str) -> Path:
    """A Python that runs `module` in the place of the one it is asked for, under strace: `-D` keeps the process's id.

    Raises:
        NoStrace: it cannot be run.
    """
    if shutil.which("strace") is None:
        raise NoStrace("strace is not installed; on Debian: apt-get install strace")
    options = f"-D -f -q -yy -xx -s 32768 -e signal=none -e trace={','.join(_SEEN)} -o {log}"
    delay = f"-e inject=fdatasync:delay_enter={_SYNC_TAKES}"
    script = directory / "traced-python"
    script.write_text(f'#!/bin/sh -e\nshift 2\nexec strace {options} {delay} {sys.executable} -m {module} "$@"\n')
    script.chmod(0o700)
    return script


async def test_the_disk_has_it_before_anybody_else(trace_of: Callable[[str], Any]) -> None:
    trace: Trace = await trace_of("goproxy.cli")
    for request, canary in enumerate(REQUESTS):
        contacts = list(trace.contacts(request))
        assert any(holds(call, canary.encode()) for call in contacts if not trace.connects(call))
        assert trace.asked(request) < trace.hold_synced(request) < min(call.begun for call in contacts)
        assert trace.hold_synced(request) < trace.row_synced(request) < trace.posted(request)


async def test_the_check_sees_who_does_not_wait(trace_of: Callable[[str], Any]) -> None:
    trace: Trace = await trace_of("tests.crash.impatient")
    for request in range(len(REQUESTS)):
        assert trace.hold_synced(request) > min(call.begun for call in trace.contacts(request))
        assert trace.row_synced(request) > trace.posted(request)
