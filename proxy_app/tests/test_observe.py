"""Log lines and metrics."""

from __future__ import annotations

import json
import logging
import sys

import aiohttp

from goproxy.observe import JsonLines, metric
from tests.conftest import Lines
from tests.gateway import ALICE, Running


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


def test_a_metric_without_labels() -> None:
    assert metric("a", "gauge", "What.", [({}, 1)]) == "# HELP a What.\n# TYPE a gauge\na 1\n"
