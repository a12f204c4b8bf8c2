"""Payloads of HTTP/2: what the edge must not turn into HTTP/1 as it stands. Each is one request, or none.

Headers are written as bytes that no honest client would send; hpack carries them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from torture.smuggling.corpus import BODY, INNER

Header = tuple[bytes, bytes]
_PSEUDO: tuple[Header, ...] = (
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":authority", b"@HOST@"),
    (b":path", b"/v1/messages?beta=outer-@ID@"),
)
_USUAL: tuple[Header, ...] = ((b"x-api-key", b"@KEY@"), (b"content-type", b"application/json"))


@dataclass(frozen=True)
class Stream:
    """What is sent on one stream."""

    family: str
    headers: tuple[Header, ...]
    data: tuple[bytes, ...] = (INNER,)
    trailers: tuple[Header, ...] = ()
    more: tuple[bytes, ...] = field(default=())
    """DATA after the end of the stream."""


def _with(*headers: Header, pseudo: Iterable[Header] = _PSEUDO) -> tuple[Header, ...]:
    return (*pseudo, *_USUAL, *headers)


def _replaced(name: bytes, *values: bytes) -> tuple[Header, ...]:
    return tuple((key, value) for key, old in _PSEUDO for value in (values if key == name else (old,)))


def _lengths() -> Iterator[Stream]:
    """H2.CL: a length that is not that of the frames."""
    for value in (
        b"0",
        b"1",
        b"4",
        b"5",
        b"%d" % len(BODY),
        b"99999",
        b"+5",
        b"-1",
        b"5, 5",
        b"0x5",
        b"",
        b" ",
        b"x",
        b"5\r\n",
        b"9" * 30,
    ):
        yield Stream("h2 length", _with((b"content-length", value)))
        yield Stream("h2 length", _with((b"content-length", value)), (BODY, INNER))
    yield Stream("h2 length", _with((b"content-length", b"0"), (b"content-length", b"5")))
    yield Stream("h2 length", _with((b"content-length", b"5"), (b"content-length", b"5")))
    yield Stream("h2 length", _with(), (BODY,), more=(INNER,))
    yield Stream("h2 length", _with(), (), more=(INNER,))
    yield Stream("h2 length", _with((b"content-length", b"0")), (b"", b"", INNER))


def _codings() -> Iterator[Stream]:
    """H2.TE: a transfer coding, which HTTP/2 does not have."""
    body = (b"0\r\n\r\n" + INNER,)
    for value in (
        b"chunked",
        b"Chunked",
        b"identity",
        b"chunked, identity",
        b"xchunked",
        b" chunked",
        b"chunked\r\n",
        b"\tchunked",
    ):
        yield Stream("h2 coding", _with((b"transfer-encoding", value)), body)
        yield Stream("h2 coding", _with((b"Transfer-Encoding", value)), body)
        yield Stream("h2 coding", _with((b"transfer-encoding", value), (b"content-length", b"5")), body)
    for name in (
        b"transfer_encoding",
        b"transfer-encoding ",
        b" transfer-encoding",
        b"transfer-encoding\x00",
        b"transfer-encoding:",
    ):
        yield Stream("h2 coding", _with((name, b"chunked")), body)


_INJECTED = (
    b"\r\nTransfer-Encoding: chunked\r\nX: ",
    b"\r\nContent-Length: 0\r\n\r\n" + INNER,
    b"\nContent-Length: 0\n\n" + INNER,
    b"\rContent-Length: 0",
    b"\x00",
    b"\r\n\r\n" + INNER,
    b"\n\n" + INNER,
)


def _injections() -> Iterator[Stream]:
    """Line ends in names, values and pseudo-headers: headers and requests of their own once they are HTTP/1."""
    for text in _INJECTED:
        yield Stream("h2 injection", _with((b"x", b"y" + text)))
        yield Stream("h2 injection", _with((b"anthropic-beta", b"y" + text)))
        yield Stream("h2 injection", _with((b"x" + text, b"y")))
        yield Stream("h2 injection", _with((b"x: y" + text, b"z")))
        yield Stream("h2 injection", _with(pseudo=_replaced(b":path", b"/v1/messages?beta=outer-@ID@" + text)))
        yield Stream("h2 injection", _with(pseudo=_replaced(b":path", b"/v1/messages?beta=outer-@ID@ HTTP/1.1" + text)))
        yield Stream("h2 injection", _with(pseudo=_replaced(b":authority", b"@HOST@" + text)))
        yield Stream(
            "h2 injection", _with(pseudo=_replaced(b":method", b"POST /v1/messages?beta=outer-@ID@ HTTP/1.1" + text))
        )
        yield Stream("h2 injection", _with(pseudo=_replaced(b":scheme", b"https" + text)))
        yield Stream("h2 injection", _with((b"content-type", b"a" + text), (b"host", b"@HOST@" + text)))
        yield Stream("h2 injection", _with((b"cookie", b"a=b" + text), (b"cookie", b"c=d" + text)))


def _pseudo_headers() -> Iterator[Stream]:
    """Pseudo-headers twice, missing, late, unknown, or at odds with Host."""
    other = b"other.example.org"
    for name, values in (
        (b":path", (b"/v1/messages?beta=outer-@ID@", b"/v1/chat/completions?beta=inner-@ID@")),
        (b":path", (b"",)),
        (b":path", (b"*",)),
        (b":path", (b"v1/messages?beta=outer-@ID@",)),
        (b":path", (b"http://other.example.org/v1/messages?beta=outer-@ID@",)),
        (b":path", (b"//other.example.org/v1/messages?beta=outer-@ID@",)),
        (b":path", (b"/v1/messages?beta=outer-@ID@#x",)),
        (b":path", (b"/v1/../metrics",)),
        (b":path", ()),
        (b":method", (b"POST", b"GET")),
        (b":method", (b"post",)),
        (b":method", (b"P T",)),
        (b":method", (b"CONNECT",)),
        (b":method", ()),
        (b":scheme", (b"https", b"http")),
        (b":scheme", (b"http",)),
        (b":scheme", (b"https://@HOST@/v1/messages?x=",)),
        (b":scheme", ()),
        (b":authority", (b"@HOST@", other)),
        (b":authority", (other,)),
        (b":authority", (b"chat2.example.org",)),
        (b":authority", (b"x@@HOST@",)),
        (b":authority", (b"@HOST@:1",)),
        (b":authority", ()),
        (b":authority", (b"",)),
    ):
        yield Stream("h2 pseudo", _with(pseudo=_replaced(name, *values)), (BODY,))
        yield Stream("h2 pseudo", _with((b"host", b"@HOST@"), pseudo=_replaced(name, *values)), (BODY,))
        yield Stream("h2 pseudo", _with((b"host", other), pseudo=_replaced(name, *values)), (BODY,))
    for late in (
        (b":path", b"/v1/chat/completions?beta=inner-@ID@"),
        (b":authority", other),
        (b":status", b"200"),
        (b":x", b"y"),
        (b":", b"y"),
    ):
        yield Stream("h2 pseudo", _with(late), (BODY,))
        yield Stream("h2 pseudo", (late, *_with()), (BODY,))
        yield Stream("h2 pseudo", _with(), (BODY,), trailers=(late,))


def _headers() -> Iterator[Stream]:
    """What HTTP/2 forbids, and what HTTP/1 would read out of it."""
    for header in (
        (b"connection", b"keep-alive"),
        (b"connection", b"content-length"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"h2c"),
        (b"upgrade", b"websocket"),
        (b"te", b"trailers, chunked"),
        (b"expect", b"100-continue"),
        (b"expect", b"x"),
        (b"trailer", b"content-length"),
        (b"X-Upper", b"y"),
        (b"Content-Length", b"0"),
        (b"HOST", b"other.example.org"),
        (b"", b"y"),
        (b"x y", b"z"),
        (b"x\x7f", b"y"),
        (b"\xff", b"\xff"),
        (b"content_length", b"0"),
        (b"x", b"y" * 30_000),
        (b"x" * 30_000, b"y"),
        (b"http2-settings", b"AAMAAABkAAQAoAAAAAIAAAAA"),
    ):
        yield Stream("h2 headers", _with(header))
        yield Stream("h2 headers", _with(header), (BODY,))
    for trailer in (
        (b"content-length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"host", b"other.example.org"),
        (b"x-api-key", b"x"),
        (b"x\r\ny", b"z"),
        (b"x", b"y\r\n\r\n" + INNER),
    ):
        yield Stream("h2 trailers", _with(), (BODY,), trailers=(trailer,))
        yield Stream("h2 trailers", _with((b"content-length", b"%d" % len(BODY))), (BODY,), trailers=(trailer, trailer))


FAMILIES: tuple[Callable[[], Iterator[Stream]], ...] = (_lengths, _codings, _injections, _pseudo_headers, _headers)


def streams() -> list[Stream]:
    """All of them, each once."""
    return list(dict.fromkeys(stream for make in FAMILIES for stream in make()))
