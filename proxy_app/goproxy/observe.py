"""What an operator sees of a running goproxy: JSON lines on standard output.

A request leaves one line. No line ever holds a key, a prompt or the text of an answer; exceptions are told by type and
place and not by their text, because the text of a parser's exception quotes the bytes that it stumbled over.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import select
import stat
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from io import RawIOBase
from typing import Any, cast

from goproxy.core.compact_json import compact
from goproxy.core.outcome import Outcome
from goproxy.timestamps import unzoned

_log = logging.getLogger("goproxy")
_output: Output | None = None
"""Where lines go once logging has started."""

_SOON = 0.05
"""Seconds that a line may wait for others."""

_AGAIN = 0.25
"""Seconds until lines are offered again to a pipe that was full."""

_MOST_WAITING = 1024
"""Writes that wait for that: up to 4 MiB, of 10,000 requests and more."""


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
        return int((time.monotonic() - self.started) * 10_000) / 10


class Output:
    """Lines on their way out. A write costs as much as all the rest of a line, so that lines may wait for others.

    One write holds whole lines, and no more than a pipe takes at once: several processes can share it. A pipe that is
    full is not waited for: whoever reads it may be away (the Docker engine, while it starts again), and streams go on.
    """

    def __init__(self, stream: RawIOBase) -> None:
        """`stream`: where they go. If it is a pipe, it never blocks from now on, for nobody who has it."""
        self._stream = stream
        with suppress(OSError, ValueError):
            if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
                os.set_blocking(stream.fileno(), False)
        self._lock = threading.RLock()
        self._is_busy = False
        """Whoever has the lock is in the middle of a line."""
        self._aside: list[bytes] = []
        """Lines of finalizers, which the garbage collector may call there, in the same thread."""
        self._lines: list[bytes] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[bytes] = deque()
        """Writes that the pipe had no room for."""
        self._lost = 0
        """Lines that there was no room for here, either."""

    def write(self, line: bytes, *, is_patient: bool) -> None:
        """Write a line, at once, or in a moment and with those that come until then; that needs a running loop."""
        with self._lock:
            if self._is_busy:
                self._aside.append(line)
                return
            self._is_busy = True
            try:
                self._add(line)
                if not is_patient:
                    self._flush()
                elif self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(_SOON, self.flush)
                if self._aside:
                    self._flush()
            finally:
                self._is_busy = False

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            if self._is_busy:
                return
            self._is_busy = True
            try:
                self._timer = None
                self._flush()
            finally:
                self._is_busy = False

    def _add(self, line: bytes) -> None:
        if self._bytes + len(line) > select.PIPE_BUF:
            self._flush()
        self._lines.append(line)
        self._bytes += len(line)

    def _flush(self) -> None:
        while self._aside:
            self._add(self._aside.pop(0))
        lines, self._lines, self._bytes = self._lines, [], 0
        more = b"".join(lines)
        if self._waiting and len(self._waiting[-1]) + len(more) <= select.PIPE_BUF:
            self._waiting[-1] += more
        elif len(self._waiting) < _MOST_WAITING:
            self._waiting.append(more)
        else:
            self._lost += len(lines)
        while self._waiting:
            try:
                written = self._stream.write(self._waiting[0])
            except (OSError, ValueError):  # a full disk, a closed pipe: that nobody reads the log is no reason to fail
                self._waiting.clear()
                return
            if written is None:
                self._try_again()
                return
            rest = self._waiting.popleft()[written:]
            if rest:
                self._waiting.appendleft(rest)
            elif self._lost and not self._waiting:
                lost, self._lost = self._lost, 0
                self._waiting.append(_written("log lines were lost", logging.WARNING, {"lines": lost}))

    def _try_again(self) -> None:
        if self._timer is None:
            with suppress(RuntimeError):  # no loop runs here: the next line tries
                self._timer = asyncio.get_running_loop().call_later(_AGAIN, self.flush)


def log(event: str, *, level: int = logging.INFO, is_patient: bool = False, **fields: Any) -> None:
    """Write one line: what happened, and what there is to know about it.

    `is_patient`: it may wait for others for a moment; for lines that are many, and from within an event loop.
    """
    log_fields(event, fields, level=level, is_patient=is_patient)


def log_fields(event: str, fields: dict[str, Any], *, level: int = logging.INFO, is_patient: bool = False) -> None:
    """The same of fields that are in one dictionary already."""
    if _output is not None:
        # What the handler below does, for a fifth of what it costs; there is a line for every request.
        _output.write(_written(event, level, fields), is_patient=is_patient)
    elif _log.isEnabledFor(level):
        record = logging.LogRecord(_log.name, level, "", 0, event, (), None)
        record.fields = fields
        _log.handle(record)


def _written(event: str, level: int, fields: dict[str, Any]) -> bytes:
    name = "info" if level == logging.INFO else logging.getLevelName(level).lower()
    return _line({"time": f"{unzoned(time.time_ns())}+00:00", "level": name, "event": event, **fields}) + b"\n"


def flush_log() -> None:
    """Write what waits: before a process ends in a way that runs nothing any more."""
    if _output is not None:
        _output.flush()


class _ToOutput(logging.Handler):
    """Lines of libraries go the same way."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.write(self.format(record).encode() + b"\n", is_patient=False)


class JsonLines(logging.Formatter):
    """Every log record, of this program or of a library, as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{unzoned(int(record.created * 1e9))}+00:00",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _log.name:
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= exception_fields(record.exc_info[1])
        return _line(line).decode()


def _line(line: dict[str, Any]) -> bytes:
    try:
        return compact(line)
    except TypeError:
        return json.dumps(line, default=str).encode()


def exception_fields(error: BaseException) -> dict[str, Any]:
    """An exception without its text: its type, and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "exception": type(error).__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def start_logging() -> None:
    """Send every log line to standard output, as JSON."""
    global _output
    sys.stdout.flush()
    _output = Output(cast("RawIOBase", getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)))
    atexit.register(_output.flush)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # nobody reads them here
    handler = _ToOutput(_output)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
