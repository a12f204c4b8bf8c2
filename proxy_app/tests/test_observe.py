"""Log lines and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO, FileIO, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

import aiohttp
import pytest

from goproxy.observe import JsonLines, Output
from tests.backend import running_backend
from tests.conftest import Lines
from tests.gateway import ALICE, Running, config_document
from tests.process import serving


def formatted(record: logging.LogRecord) -> dict[str, object]:
    text = JsonLines().format(record)
    assert "\n" not in text
    line: dict[str, object] = json.loads(text)
    return line


def test_a_librarys_line_is_json_too_and_its_exception_has_no_text() -> None:
    try:
        raise ValueError("CANARY")
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord("aiohttp.server", logging.ERROR, __file__, 1, "Error from %s", ("::1",), info)
    line = formatted(record)
    assert (line["logger"], line["level"], line["event"]) == ("aiohttp.server", "error", "Error from ::1")
    assert line["exception"] == "ValueError"
    assert "test_observe.py" in str(line["at"])
    assert "CANARY" not in json.dumps(line)


async def test_a_refused_request_leaves_one_line(gateway: Running, lines: Lines) -> None:
    async with aiohttp.ClientSession() as session, session.post(f"{gateway.url}/v1/messages", data=b"{}"):
        pass
    line = await lines.request()
    assert line.pop("ms") >= 0
    assert line.pop("time").endswith("+00:00")
    assert line.pop("request_id").startswith("req_")
    assert line.pop("bytes_out") > 0
    assert line == {
        "level": "info",
        "event": "request",
        "upstream": "openhands",
        "route": "messages",
        "protocol": "anthropic",
        "account": None,
        "model": None,
        "stream": False,
        "status": 401,
        "outcome": "refused",
        "bytes_in": 0,
        "first_byte_ms": None,
        "upstream_request_id": None,
    }


async def test_metrics_count_requests_tokens_and_money_and_have_no_account_and_no_key(
    gateway: Running, client: aiohttp.ClientSession
) -> None:
    async with client.post(
        "v1/messages", json={"model": "claude-opus-4-5", "max_tokens": 50, "messages": []}
    ) as answer:
        assert answer.status == 200
    (row,) = await gateway.rows()
    async with client.get("metrics") as answer:
        text = await answer.text()
    metrics = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    of = 'upstream="openhands"'
    assert metrics[f'goproxy_requests_total{{outcome="ok",protocol="anthropic",status="200",{of}}}'] == "1.0"
    assert metrics[f'goproxy_rows_total{{settlement="{row["settlement"]}",{of}}}'] == "1.0"
    assert float(metrics[f"goproxy_cost_nanodollars_total{{{of}}}"]) == row["cost_nanodollars"]
    assert metrics[f"goproxy_held_nanodollars{{{of}}}"] == "0.0"
    assert metrics[f"goproxy_requests_in_flight{{{of}}}"] == "0.0"
    assert metrics[f"goproxy_first_byte_seconds_count{{{of}}}"] == "1.0"
    assert "alice" not in text
    assert ALICE not in text
    assert row["key_id"] not in text


def written(reader: BinaryIO, output: Output) -> list[dict[str, Any]]:
    """The lines that come out of a pipe, once it is read."""
    text = b""
    while piece := reader.read():
        text += piece
        output.flush()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, Output]]:
    """Nobody reads it but the test."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb") as read, FileIO(writer, "wb") as write:
        yield read, Output(write)


def test_a_pipe_that_nobody_reads_is_not_waited_for(pipe: tuple[BinaryIO, Output]) -> None:
    """And no line is lost, if that is for a while."""
    reader, output = pipe
    for number in range(10_000):
        output.write(b'{"number":%d}\n' % number, is_patient=False)
    found = written(reader, output)
    assert [line["number"] for line in found] == [*range(10_000)]


def test_lines_that_there_is_no_room_for_are_counted(pipe: tuple[BinaryIO, Output]) -> None:
    reader, output = pipe
    line = b'{"number":1,"more":"%b"}\n' % (b"x" * 4000)
    for _ in range(1100):
        output.write(line, is_patient=False)
    found = written(reader, output)
    lost = found.pop()
    assert (lost["level"], lost["event"]) == ("warning", "log lines were lost")
    assert len(found) + lost["lines"] == 1100
    assert lost["lines"] > 0


def test_a_finalizer_may_log_in_the_middle_of_a_line() -> None:
    """The garbage collector calls it whenever something is allocated: here, in the thread that has the log's lock."""

    class Collecting(BytesIO):
        def write(self, data: Any) -> int:
            if not self.getvalue():
                output.write(b"the finalizer's\n", is_patient=False)
            return super().write(data)

    stream = Collecting()
    output = Output(cast("RawIOBase", stream))
    writing = threading.Thread(target=lambda: output.write(b"a line\n", is_patient=False), daemon=True)
    writing.start()
    writing.join(30)
    assert not writing.is_alive()
    assert stream.getvalue() == b"a line\nthe finalizer's\n"


async def test_who_reads_the_log_holds_up_no_request(tmp_path: Path, keys: Path) -> None:
    """As while the Docker engine starts again: the container's output is a pipe that is read by nobody."""
    reader, writer = os.pipe()
    document = config_document()
    async with (
        running_backend(tmp_path / "backend", keys, document) as backend,
        serving(document, backend, tmp_path / "proxy", is_awaited=False, output=writer) as proxy,
        aiohttp.ClientSession(f"http://127.0.0.1:{proxy.port}/") as session,
        asyncio.timeout(15),
    ):
        os.close(writer)
        while True:
            with suppress(aiohttp.ClientConnectorError):
                await (await session.get("healthz")).read()
                break
            await asyncio.sleep(0.05)
        for _ in range(600):
            async with session.post("v1/messages", data=b"{}") as answer:
                assert answer.status == 401
    os.close(reader)
