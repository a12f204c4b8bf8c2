"""What the provider received and what it sent, request by request, as GET /_requests tells it. No I/O."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from .model import Json

KEPT = 5000  # requests; the oldest go first
LARGE_BODY = 1 << 20  # bytes; of a larger request body only length and digest are kept


@dataclass
class Record:
    """One request. `usage` is what was reported so far; `ended` is None while the answer is under way."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes
    started: float
    received_bytes: int
    received_sha256: str
    status: int | None = None
    usage: Json | None = None
    first_byte: float | None = None
    ended: float | None = None
    complete: bool = False
    client_gone: bool = False
    sent: bytearray = field(default_factory=bytearray)

    def as_json(self) -> Json:
        """Give the record as the control API shows it: the response body exactly, in base64."""
        return {
            "method": self.method,
            "host": self.host,
            "path": self.path,
            "headers": self.headers,
            "body": _readable(self.body),
            "received_bytes": self.received_bytes,
            "received_sha256": self.received_sha256,
            "status": self.status,
            "usage": self.usage,
            "started": self.started,
            "first_byte": self.first_byte,
            "ended": self.ended,
            "complete": self.complete,
            "client_gone": self.client_gone,
            "sent_bytes": len(self.sent),
            "sent_sha256": hashlib.sha256(self.sent).hexdigest(),
            "sent": base64.b64encode(self.sent).decode(),
        }


class Records:
    """The latest requests, oldest first."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: deque[Record] = deque(maxlen=KEPT)

    def open(self, method: str, host: str, path: str, headers: dict[str, str], *, body: bytes, now: float) -> Record:
        """Note a request as it arrives."""
        kept = body if len(body) <= LARGE_BODY else b""
        digest = hashlib.sha256(body).hexdigest()
        record = Record(method, host, path, headers, kept, now, len(body), digest)
        self._kept.append(record)
        return record

    def clear(self) -> None:
        """Forget all; answers under way go on unseen."""
        self._kept.clear()

    def as_json(self) -> list[Json]:
        """Give what GET /_requests shows."""
        return [record.as_json() for record in self._kept]


def _readable(body: bytes) -> Any:
    """Give a body as parsed JSON where it is JSON, as text otherwise."""
    text = body.decode("utf-8", "backslashreplace")
    try:
        return json.loads(text)
    except ValueError:
        return text
