"""What takes the fast lane: only what every HTTP implementation understands in the same way."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from goproxy.core.headers import Headers
from goproxy.data_plane.plain_request import BODY_BYTES, HEAD_BYTES, PlainRequest, read_plain

PATHS = {"/v1/messages", "/v1/chat/completions"}
HEAD = (
    b"POST /v1/messages?beta=true HTTP/1.1\r\n"
    b"Host: chat.trollllm.xyz\r\n"
    b"x-api-key: key\r\n"
    b"X-Forwarded-For: 1.2.3.4\r\n"
    b"Connection: keep-alive\r\n"
    b"Content-Length: 14\r\n"
    b"\r\n"
)
BODY = b'{"model": "x"}'
PLAIN = HEAD + BODY


def read(data: bytes) -> tuple[PlainRequest, int] | int | None:
    return read_plain(data, PATHS)


def with_field(field: bytes) -> bytes:
    return PLAIN.replace(b"x-api-key: key", field)


def test_a_plain_request_is_read() -> None:
    found = read(PLAIN + b"POST /next")
    assert found == (
        PlainRequest(
            path="/v1/messages",
            query="?beta=true",
            headers=[
                ("Host", "chat.trollllm.xyz"),
                ("x-api-key", "key"),
                ("X-Forwarded-For", "1.2.3.4"),
                ("Connection", "keep-alive"),
                ("Content-Length", "14"),
            ],
            body=BODY,
            keeps_alive=True,
        ),
        len(PLAIN),
    )


def test_it_says_when_a_client_wants_no_other() -> None:
    found = read(PLAIN.replace(b"keep-alive", b"Close"))
    assert isinstance(found, tuple)
    assert not found[0].keeps_alive


@pytest.mark.parametrize("length", range(len(PLAIN)))
def test_what_has_come_in_part_is_waited_for(length: int) -> None:
    needs = read(PLAIN[:length])
    assert isinstance(needs, int)
    assert length < needs <= len(PLAIN)


NOT_PLAIN = {
    "another method": PLAIN.replace(b"POST", b"GET "),
    "another path": PLAIN.replace(b"/v1/messages", b"/v1/models"),
    "a path with a detour": PLAIN.replace(b"/v1/messages", b"/v1/./messages"),
    "a path in disguise": PLAIN.replace(b"/v1/messages", b"/v1/message%73"),
    "an absolute target": PLAIN.replace(b"POST /", b"POST http://x/"),
    "a fragment": PLAIN.replace(b"beta=true", b"beta=#true"),
    "HTTP/1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/2 said aloud": PLAIN.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "two spaces": PLAIN.replace(b"POST ", b"POST  "),
    "a line feed alone": PLAIN.replace(b"\r\nHost", b"\nHost"),
    "a carriage return alone": with_field(b"x-api-key: a\rb"),
    "a null byte": with_field(b"x-api-key: a\0b"),
    "a byte that is no ASCII": with_field(b"x-api-key: \xe9"),
    "a space before the colon": with_field(b"x-api-key : key"),
    "a folded line": with_field(b"x-api-key: a\r\n b"),
    "a field without a colon": with_field(b"x-api-key"),
    "a field without a name": with_field(b": key"),
    "no host": PLAIN.replace(b"Host: chat.trollllm.xyz\r\n", b""),
    "two hosts": with_field(b"HOST: other"),
    "no length": PLAIN.replace(b"Content-Length: 14\r\n", b""),
    "two lengths": with_field(b"content-length: 14"),
    "a length of two numbers": PLAIN.replace(b": 14", b": 14, 14"),
    "a signed length": PLAIN.replace(b": 14", b": +14"),
    "a padded length": PLAIN.replace(b": 14", b": 014"),
    "a hexadecimal length": PLAIN.replace(b": 14", b": 0x0e"),
    "a length beyond the bound": PLAIN.replace(b": 14", b": %d" % (BODY_BYTES + 1)),
    "chunks": with_field(b"Transfer-Encoding: chunked"),
    "chunks in disguise": with_field(b"transfer-encoding: \tChunked"),
    "an expectation": with_field(b"Expect: 100-continue"),
    "an upgrade": with_field(b"Upgrade: h2c"),
    "a packed body": with_field(b"Content-Encoding: gzip"),
    "a connection that names a header": PLAIN.replace(b"keep-alive", b"x-api-key"),
    "a connection said twice": with_field(b"Connection: close"),
    "a head without end": PLAIN[: len(HEAD) - 4] + b"\r\nx: " + b"x" * HEAD_BYTES,
    "something else": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_left_to_aiohttp(data: bytes) -> None:
    assert read(data) is None


class Judge:
    """What llhttp reads."""

    def __init__(self, data: bytes) -> None:
        self.headers: Headers = []
        self.body = b""
        self.url = b""
        self.complete = 0
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode(), value.decode().rstrip(" \t")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


_BYTES = st.one_of(
    st.binary(min_size=0, max_size=4), st.sampled_from([b"\r\n", b"\n", b"\r", b":", b" ", b"\t", b"\0"])
)


@given(st.lists(st.tuples(st.integers(0, len(PLAIN)), st.integers(0, 3), _BYTES), min_size=1, max_size=3))
@example([(0, 0, b"")])
def test_what_is_taken_for_plain_is_what_llhttp_reads(edits: list[tuple[int, int, bytes]]) -> None:
    """However a request is distorted: taken is only what llhttp takes, and as llhttp takes it, to the byte."""
    data = PLAIN
    for at, length, instead in edits:
        data = data[:at] + instead + data[at + length :]
    found = read(data)
    if not isinstance(found, tuple):
        return
    request, length = found
    judge = Judge(data[:length])
    assert judge.complete == 1
    assert (judge.parser.get_method(), judge.url.decode()) == (b"POST", request.path + request.query)
    assert (judge.headers, judge.body) == (request.headers, request.body)
    assert judge.parser.should_keep_alive() == request.keeps_alive
