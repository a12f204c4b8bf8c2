"""What an operator sees of a running goproxy: JSON lines on standard output, and metrics for Prometheus.

A request leaves one line. No line ever holds a key, a prompt or the text of an answer; exceptions are told by type and
place and not by their text, because the text of a parser's exception quotes the bytes that it stumbled over.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

_log = logging.getLogger("goproxy")


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # by the proxy; the upstream was not asked
    UPSTREAM_ERROR = "upstream_error"  # the upstream answered with an error
    UPSTREAM_UNREACHABLE = "upstream_unreachable"  # no answer at all
    UPSTREAM_TIMEOUT = "upstream_timeout"  # no answer in time
    UPSTREAM_STALLED = "upstream_stalled"  # fell silent in the middle of its answer
    UPSTREAM_TRUNCATED = "upstream_truncated"  # broke off in the middle of its answer
    CLIENT_GONE = "client_gone"
    CLIENT_STALLED = "client_stalled"  # did not take what it asked for
    SHUTDOWN = "shutdown"  # the grace period was over
    INTERNAL_ERROR = "internal_error"


@dataclass(slots=True)
class RequestRecord:
    """What is noted of one request while it lives."""

    request_id: str
    route: str
    protocol: str
    started: float = field(default_factory=time.monotonic)
    account: str | None = None
    model: str | None = None
    stream: bool = False
    status: int = 0
    outcome: Outcome = Outcome.INTERNAL_ERROR
    bytes_in: int = 0
    bytes_out: int = 0
    first_byte_ms: float | None = None
    upstream_request_id: str | None = None

    def age_ms(self) -> float:
        """Milliseconds since the request came."""
        return round((time.monotonic() - self.started) * 1000, 1)


class Observer:
    """Counts and logs the requests of one upstream."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._open: dict[int, RequestRecord] = {}

    def begin(self, record: RequestRecord) -> None:
        """A request came."""
        self._open[id(record)] = record

    def end(self, record: RequestRecord) -> None:
        """It is over: count it, and write its line."""
        del self._open[id(record)]
        self._requests[record.protocol, str(record.status), record.outcome] += 1
        log(
            "request",
            request_id=record.request_id,
            upstream=self._upstream,
            route=record.route,
            protocol=record.protocol,
            account=record.account,
            model=record.model,
            stream=record.stream,
            status=record.status,
            outcome=record.outcome,
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
            first_byte_ms=record.first_byte_ms,
            ms=record.age_ms(),
            upstream_request_id=record.upstream_request_id,
        )

    def metrics(self) -> str:
        """All metrics, in Prometheus's text format (0.0.4)."""
        upstream = {"upstream": self._upstream}
        streams = sum(record.stream for record in self._open.values())
        return "".join(
            (
                metric(
                    "goproxy_requests_total",
                    "counter",
                    "Requests that ended, by the status that the client got.",
                    (
                        (upstream | {"protocol": protocol, "status": status, "outcome": outcome}, n)
                        for (protocol, status, outcome), n in sorted(self._requests.items())
                    ),
                ),
                metric(
                    "goproxy_requests_in_flight",
                    "gauge",
                    "Requests that are being served.",
                    [(upstream, len(self._open))],
                ),
                metric(
                    "goproxy_streams_in_flight",
                    "gauge",
                    "Those of them that asked for a stream.",
                    [(upstream, streams)],
                ),
            )
        )


def metric(name: str, kind: str, text: str, samples: Iterable[tuple[dict[str, str], int]]) -> str:
    """One metric with its samples, in Prometheus's text format."""
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        # No label value here can hold a quote, a backslash or a line break, which would need escaping.
        written = ",".join(f'{label}="{content}"' for label, content in labels.items())
        lines.append(f"{name}{{{written}}} {value}" if labels else f"{name} {value}")
    return "\n".join(lines) + "\n"


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write one line: what happened, and what there is to know about it."""
    _log.log(level, event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Every log record, of this program or of a library, as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _log.name:
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= told(record.exc_info[1])
        return json.dumps(line, default=str)


def told(error: BaseException) -> dict[str, Any]:
    """An exception without its text: its type, and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "exception": type(error).__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def start_logging() -> None:
    """Send every log line to standard output, as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
