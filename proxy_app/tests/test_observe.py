"""Log lines and metrics."""

from __future__ import annotations

import json
import logging
import sys

from goproxy.observe import JsonLines, Observer, Outcome, RequestRecord, metric
from tests.conftest import Lines


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


def test_a_request_leaves_one_line(lines: Lines) -> None:
    observer = Observer("openhands")
    record = RequestRecord("req_1", "messages", "anthropic", account="alice", model="m", status=200)
    record.outcome = Outcome.OK
    observer.begin(record)
    assert lines.text == []
    observer.end(record)
    line = lines.request
    assert line.pop("ms") >= 0
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "req_1",
        "upstream": "openhands",
        "route": "messages",
        "protocol": "anthropic",
        "account": "alice",
        "model": "m",
        "stream": False,
        "status": 200,
        "outcome": "ok",
        "bytes_in": 0,
        "bytes_out": 0,
        "first_byte_ms": None,
        "upstream_request_id": None,
    }


def test_metrics_have_no_account_and_no_key() -> None:
    observer = Observer("openhands")
    record = RequestRecord("req_1", "messages", "anthropic", account="alice", status=401, stream=True)
    observer.begin(record)
    assert 'goproxy_requests_in_flight{upstream="openhands"} 1' in observer.metrics()
    assert 'goproxy_streams_in_flight{upstream="openhands"} 1' in observer.metrics()
    observer.end(record)
    assert 'status="401",outcome="internal_error"} 1' in observer.metrics()
    assert "alice" not in observer.metrics()


def test_a_metric_without_labels() -> None:
    assert metric("a", "gauge", "What.", [({}, 1)]) == "# HELP a What.\n# TYPE a gauge\na 1\n"
