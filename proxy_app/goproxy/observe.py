"""What an operator sees of a running goproxy: JSON lines on standard output, and Prometheus's text format.

A request leaves one line. No line ever holds a key, a prompt or the text of an answer; exceptions are told by type and
place and not by their text, because the text of a parser's exception quotes the bytes that it stumbled over.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, BinaryIO

from goproxy.core.compact_json import compact

_log = logging.getLogger("goproxy")
_output: BinaryIO | None = None
"""Where lines go once logging has started."""


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
    upstream_status: int = 0
    """Of its answer; 0: none came."""
    upstream_request_id: str | None = None
    is_paid: bool = False
    """Something is held for it: its line is written when it is settled."""

    def age_ms(self) -> float:
        """Milliseconds since the request came."""
        return round((time.monotonic() - self.started) * 1000, 1)


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
    if _output is not None:
        # What the handler below does, for a fifth of what it costs; there is a line for every request.
        head = {"time": _moment(time.time_ns()), "level": logging.getLevelName(level).lower(), "event": event}
        try:
            _output.write(_line(head | fields) + b"\n")
            _output.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe: that nobody reads the log is no reason to fail
            pass
    elif _log.isEnabledFor(level):
        record = logging.LogRecord(_log.name, level, "", 0, event, (), None)
        record.fields = fields
        _log.handle(record)


class JsonLines(logging.Formatter):
    """Every log record, of this program or of a library, as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _moment(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _log.name:
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= told(record.exc_info[1])
        return _line(line).decode()


def _line(line: dict[str, Any]) -> bytes:
    try:
        return compact(line)
    except TypeError:
        return json.dumps(line, default=str).encode()


def _moment(nanoseconds: int) -> str:
    milliseconds = nanoseconds // 1_000_000
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}+00:00"


@lru_cache(maxsize=4)
def _second(number: int) -> str:
    return datetime.fromtimestamp(number, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def told(error: BaseException) -> dict[str, Any]:
    """An exception without its text: its type, and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "exception": type(error).__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def start_logging() -> None:
    """Send every log line to standard output, as JSON."""
    global _output
    _output = sys.stdout.buffer
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # nobody reads them here
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
