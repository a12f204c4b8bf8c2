"""Answers in a Content-Encoding, which none was asked for: decoded for the meter alone. The client gets what came.

What is decoded at once is bounded, and so is what is decoded in all: a few bytes can unpack to as many as one likes.
"""

from __future__ import annotations

from aiohttp import compression_utils as codings

from goproxy.core.meter import Meter

_AT_ONCE = 64 * 1024
_MOST = 32 * 1024 * 1024
"""Bytes, when decoded. Four times what is read of a JSON body, and more than any stream of today."""

_Decompressor = codings.ZLibDecompressor | codings.BrotliDecompressor | codings.ZSTDDecompressor


class Decoded:
    """A meter, fed with what a coded body says."""

    def __init__(self, meter: Meter, coding: str) -> None:
        """`coding`: the Content-Encoding of the answer."""
        self._meter = meter
        self._coding = coding
        self._decompressor: _Decompressor | None = None
        self.bytes = 0
        """Of the body as it came, by now."""

    def feed(self, data: bytes) -> None:
        """The next piece of the body, as it came."""
        if not self.bytes and data:
            self._decompressor = _decompressor(self._coding, data)
            if self._decompressor is None:
                self._meter.lose()
        self.bytes += len(data)
        if self._decompressor is None:
            return
        try:
            self._decode(self._decompressor, data)
        except Exception:  # each library has its own
            self._decompressor = None
            self._meter.lose()

    def _decode(self, decompressor: _Decompressor, data: bytes) -> None:
        while True:
            self._meter.feed(decompressor.decompress_sync(data, _AT_ONCE))
            if self._meter.bytes > _MOST:
                raise OverflowError
            if not decompressor.data_available:
                return
            data = b""


def content_coding(told: str | None) -> str | None:
    """What of a Content-Encoding is one; None: the body is as it is."""
    if told is None:
        return None
    names = [name.strip().lower() for name in told.split(",")]
    return ",".join(name for name in names if name not in ("", "identity")) or None


def _decompressor(coding: str, data: bytes) -> _Decompressor | None:
    """None: it cannot be decoded here. `data`: what the body begins with."""
    match coding:
        case "gzip" | "x-gzip":
            return codings.ZLibDecompressor("gzip")
        case "deflate":  # some leave out the head that it has: its first byte would end in 8
            return codings.ZLibDecompressor("deflate", suppress_deflate_header=data[0] & 0xF != 8)
        case "br" if codings.HAS_BROTLI:
            return codings.BrotliDecompressor()
        case "zstd" if codings.HAS_ZSTD:
            return codings.ZSTDDecompressor()
    return None
