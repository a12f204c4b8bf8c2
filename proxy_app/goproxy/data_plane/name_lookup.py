"""A provider's name, looked up in a thread of its own.

The event loop has threads for that, too, but few: libuv has two lookups run at a time that may be slow, and with two
names whose servers are silent nothing else would be found, the backend among it. Nor does a process that leaves wait
for a name server.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

import aiohappyeyeballs

Addresses = Sequence[aiohappyeyeballs.AddrInfoType]

_MOST = 16
"""Lookups at a time. Each upstream's host has one; those of connections that were given up may still run beside."""

_left = threading.Semaphore(_MOST)


async def resolve(host: str, port: int) -> Addresses:
    """The addresses of a name, in the system's order. Who is cancelled leaves a lookup that runs on to its end.

    Raises:
        OSError: there are none, or it cannot be found out now.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Addresses] = loop.create_future()

    def tell(addresses: Addresses, error: Exception | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(addresses)
        else:
            found.set_exception(error)

    def look_up() -> None:
        addresses: Addresses = ()
        error: Exception | None = None
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        except Exception as failure:  # be it that the name is none at all
            error = failure
        finally:
            _left.release()
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, addresses, error)

    if not _left.acquire(blocking=False):
        raise socket.gaierror(socket.EAI_AGAIN, "too many names are being looked up")
    try:
        threading.Thread(target=look_up, name="name lookup", daemon=True).start()
    except RuntimeError:
        _left.release()
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
    return await found
