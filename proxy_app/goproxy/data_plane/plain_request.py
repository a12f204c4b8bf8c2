"""Requests of the plain shape: what nearly every client and every edge sends, read with one look.

Only what can be understood in one way is plain: POST to one of a few paths, HTTP/1.1, visible ASCII, one Host, one
Content-Length, no transfer coding, nothing that asks for more than an answer. Whatever is not exactly that is for a
complete HTTP implementation to judge (front.py gives it to aiohttp), and so is a request that is long in coming.
Sans-IO.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from goproxy.core.headers import Headers
from goproxy.data_plane.request_head import CONTENT_LENGTH

HEAD_BYTES = 8 * 1024
"""Bytes of a head that can be plain; aiohttp refuses longer lines than that."""

BODY_BYTES = 256 * 1024
"""Bytes of a body that can be plain. Longer ones are read by aiohttp, with backpressure."""

_LINE = re.compile(rb"POST (/[!-~]*+) HTTP/1\.1\r\n")
_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[ \t]*+(?:[!-~][ -~\t]*+)?\r\n)*")
_NOT_PLAIN = frozenset(
    {
        "transfer-encoding",
        "expect",
        "upgrade",
        "te",
        "trailer",
        "content-encoding",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "http2-settings",
    }
)
_CONNECTION = {"keep-alive": True, "": True, "close": False}
_LENGTH = re.compile(CONTENT_LENGTH)


class PlainRequest(NamedTuple):
    """One request, read whole."""

    path: str
    query: str
    """With its question mark; empty if there is none."""

    headers: Headers
    body: bytes
    keeps_alive: bool


class _NotPlain(Exception):
    """It is for aiohttp."""


def read_plain(data: bytes, paths: Collection[str]) -> tuple[PlainRequest, int] | int | None:
    """The request that `data` begins with, and how many bytes it took.

    A number instead: it may be plain, and has so many bytes in all at least. None: it is not plain.
    """
    end = data.find(b"\r\n\r\n", 0, HEAD_BYTES)
    if end < 0:
        is_begun = len(data) < HEAD_BYTES and (data.startswith(b"POST /") or b"POST /".startswith(data))
        return len(data) + 1 if is_begun else None
    line = _LINE.match(data)
    if line is None:
        return None
    fields = _FIELDS.match(data, line.end(), end + 2)
    if fields is None or fields.end() != end + 2:
        return None
    path, mark, query = line[1].decode().partition("?")
    if path not in paths or "#" in query:
        return None
    try:
        headers, length, keeps_alive = _read_fields(data[line.end() : end].decode())
    except _NotPlain:
        return None
    whole = end + 4 + length
    if len(data) < whole:
        return whole
    return PlainRequest(path, mark + query, headers, data[end + 4 : whole], keeps_alive), whole


def _read_fields(fields: str) -> tuple[Headers, int, bool]:
    headers: Headers = []
    hosts, length, connection = 0, None, ""
    for field in fields.split("\r\n"):
        name, _, value = field.partition(":")
        value = value.strip(" \t")
        match name.lower():
            case "content-length":
                if length is not None or not _LENGTH.fullmatch(value) or int(value) > BODY_BYTES:
                    raise _NotPlain
                length = int(value)
            case "host":
                hosts += 1
            case "connection":
                if connection or value.lower() not in _CONNECTION:
                    raise _NotPlain
                connection = value.lower()
            case lower if lower in _NOT_PLAIN:
                raise _NotPlain
        headers.append((name, value))
    if hosts != 1 or length is None:
        raise _NotPlain
    return headers, length, _CONNECTION[connection]
