"""The sockets that a process listens on: opening them on every address, and having the kernel refuse what is new."""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress

from goproxy.observe import log

BACKLOG = 1024
"""Connections that may wait to be accepted: a rush comes faster than a process takes them. What comes beyond
that the kernel drops, and it asks again a second later."""

_SO_ATTACH_FILTER = 26
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the flags, byte 13 of a TCP header
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone: the next one, else that after it
    (0x06, 0, 0, 0),  # take nothing of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
)
"""Linux: a socket filter that drops what asks for a new connection (classic BPF: code, jumps if true and false, value).

One that drops every packet drops the last one of a handshake too: its client is connected, sends, and is reset."""


class CannotListen(Exception):
    """A port cannot be had; the text says which and why."""


def listen(port: int) -> list[socket.socket]:
    """Sockets on every IPv4 address, and on every IPv6 address where there is IPv6.

    Raises:
        CannotListen: the port cannot be had.
    """
    try:
        sockets = [_listen_on(socket.AF_INET, "0.0.0.0", port)]  # noqa: S104 - the container's network is the boundary
    except OSError as error:
        raise CannotListen(f"port {port} cannot be listened on: {error.strerror}") from None
    except OverflowError:
        raise CannotListen(f"port {port} cannot be listened on: expected a port from 1 to 65535") from None
    try:
        sockets.append(_listen_on(socket.AF_INET6, "::", port))
    except OSError as error:
        log("listening on IPv4 only", reason=error.strerror)
    return sockets


def _listen_on(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener


def refuse_new_connections(listener: socket.socket) -> None:
    """Have the kernel drop what asks for a new connection, while those that are made or half made go on.

    Closing a listening socket resets what waits there, and whoever has sent a request by then may not send it again.
    Who is dropped here asks once more a second later, and is refused at once: then it knows that nothing was sent.
    """
    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    code = ctypes.create_string_buffer(instructions)
    program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(code))
    with suppress(OSError):  # where the kernel has no filters: then it is as with any other server
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def address_of(listener: socket.socket) -> str:
    """Where it listens, as the log tells it."""
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
