"""Requests that cannot be read as HTTP: what they are answered, what the log says of them, and what they may cost.

Whoever reaches a port can send them, without a key and as fast as he likes. So the log takes a few a minute and the
number of the others, and of their bytes nothing is kept.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web

from goproxy.observe import log

LINES = 10
"""For so many of them in a period, a line each."""

PERIOD = 60.0
"""Seconds."""


class UnreadableRequests:
    """Those of one process, in the log."""

    def __init__(self) -> None:
        self._seen = 0
        """In this period."""
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, remote: str | None, error: BaseException | None) -> None:
        """Another one came; its bytes, which the text of the error quotes, are not told."""
        self._seen += 1
        if self._seen <= LINES:
            log("unreadable request", level=logging.WARNING, remote=remote, problem=type(error).__name__)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self.close)

    def close(self) -> None:
        """The period is over: tell how many were left out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._seen > LINES:
            log("unreadable requests left out of the log", level=logging.WARNING, count=self._seen - LINES)
        self._seen = 0


class StrictRequestHandler(web.RequestHandler):
    """aiohttp's connection, but for requests that it cannot read."""

    __slots__ = ("_is_unreadable", "_unreadable")

    def __init__(self, server: web.Server, unreadable: UnreadableRequests, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._unreadable = unreadable
        self._is_unreadable = False

    def data_received(self, data: bytes) -> None:
        """Bytes came. After those that cannot be read nothing can be."""
        if self._is_unreadable:
            return
        super().data_received(data)
        error = getattr(self._messages[-1][0], "exc", None) if self._messages else None
        if error is not None:
            self._is_unreadable = True
            # What was raised waits to be answered in a frame that its traceback holds, with all that came: a circle
            # that stays until a whole garbage collection, which a process without many new objects hardly ever has.
            error.__traceback__ = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Make the answer: JSON in a shape that every client understands, without an echo."""
        is_ours = status >= 500
        if is_ours:
            super().handle_error(request, status, exc, message)  # logs it
        else:
            self._unreadable.tell(request.remote, exc)
        told: dict[str, Any] = {
            "type": "api_error" if is_ours else "invalid_request_error",
            "message": "The gateway failed." if is_ours else "The request is not valid HTTP.",
            "param": None,
            "code": "internal_error" if is_ours else "bad_request",
        }
        answer = web.json_response({"type": "error", "error": told}, status=status, headers={"Server": "goproxy"})
        answer.force_close()
        return answer
