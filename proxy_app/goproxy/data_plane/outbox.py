"""What is to be sent, on any connection, goes out at the end of the event loop's turn.

By then everything that came in this turn has been read, and the system calls that send follow one another. That costs
a small event half as much as to be sent alone: each sending wakes the process at the other end, which is still awake
when the next one follows at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
from contextlib import suppress
from typing import Protocol

from goproxy.observe import exception_fields, log


class Sender(Protocol):
    """Who has something to send."""

    def flush(self) -> None:
        """Send it now."""

    def abort(self) -> None:
        """Close the connection: what was to be sent on it is lost."""


class Outbox:
    """Who has something to send in this turn of the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        """For whoever needs it: to ask for the running loop is a system call in CPython 3.11."""
        self._senders: list[Sender] = []

    def add(self, sender: Sender) -> None:
        """Have it send at the end of this turn."""
        if not self._senders:
            self.loop.call_soon(self._send)
        self._senders.append(sender)

    def _send(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            try:
                sender.flush()
            except Exception as error:  # it is one connection's, and what the others sent must go out all the same
                log("what is to be sent cannot be", level=logging.CRITICAL, **exception_fields(error))
                sender.abort()


def waiting_on(transport: asyncio.Transport) -> int:
    """Bytes that were sent on a connection and that its other end has not taken: here, and in the kernel."""
    size = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    with suppress(OSError, ValueError):  # it is closed
        size += int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
    return size
