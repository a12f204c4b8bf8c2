"""Plain requests by heads that are known: a client sends the same head with each request, but for the body's length.

A head is read once (plain_request.py), and what follows from it is kept for the requests that begin with the same
bytes. It is found by a digest, so that no client's key stays in memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from hashlib import blake2b
from typing import NamedTuple

from goproxy.data_plane.plain_request import BODY_BYTES, HEAD_BYTES, read_plain
from goproxy.data_plane.request_head import CONTENT_LENGTH, RequestHead

_LENGTH = re.compile(rb"\r\n(?i:content-length):[ \t]*+(%b)[ \t]*+(?=\r\n)" % CONTENT_LENGTH.encode())

_KEPT = 512
"""Heads that are known at a time; the oldest one goes first."""


class KnownHead(NamedTuple):
    """A head that was read."""

    path: str
    head: RequestHead
    keeps_alive: bool


class KnownHeads:
    """The heads that were seen lately."""

    def __init__(self, paths: Collection[str]) -> None:
        """`paths`: of the requests that are plain."""
        self._paths = paths
        self._known: dict[bytes, KnownHead] = {}

    def read(self, data: bytes) -> tuple[KnownHead, bytes, int] | int | None:
        """The request that `data` begins with: its head, its body, and how many bytes it took.

        A number instead: it may be plain, and has so many bytes in all at least. None: it is not plain.
        """
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES)
        length = _LENGTH.search(data, 0, end + 2) if end >= 0 else None
        if length is None:
            return self._read(data, None)
        key = blake2b(data[: length.start()] + data[length.end() : end]).digest()
        known = self._known.get(key)
        if known is None or (size := int(length[1])) > BODY_BYTES:
            return self._read(data, key)
        whole = end + 4 + size
        return whole if len(data) < whole else (known, data[end + 4 : whole], whole)

    def _read(self, data: bytes, key: bytes | None) -> tuple[KnownHead, bytes, int] | int | None:
        found = read_plain(data, self._paths)
        if found is None or isinstance(found, int):
            return found
        request, whole = found
        known = KnownHead(request.path, RequestHead.of(request.query, request.headers), request.keeps_alive)
        if key is not None:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = known
        return known, request.body, whole
