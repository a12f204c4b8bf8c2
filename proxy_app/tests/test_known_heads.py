"""A head that is known is read as if it were new."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from goproxy.core.keys import digest
from goproxy.data_plane.known_heads import KnownHeads
from goproxy.data_plane.plain_request import BODY_BYTES, read_plain
from goproxy.data_plane.request_head import RequestHead

PATHS = {"/v1/messages"}
KEY = "tg-a-key-of-the-client"
BODY = b'{"model": "x"}'


def a_request(length: str = "14", body: bytes = BODY, name: str = "Content-Length") -> bytes:
    return (
        f"POST /v1/messages?beta=true HTTP/1.1\r\nHost: h\r\nx-api-key: {KEY}\r\n{name}: {length}\r\nX-More: 1\r\n\r\n"
    ).encode() + body


@pytest.fixture
def heads() -> KnownHeads:
    heads = KnownHeads(PATHS)
    assert isinstance(heads.read(a_request()), tuple)
    return heads


def test_a_head_is_known_whatever_the_length_of_the_body(heads: KnownHeads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy.data_plane.known_heads.read_plain", lambda *_: pytest.fail("it is known"))
    found = heads.read(a_request("3", b"abc", name="CONTENT-LENGTH") + b"POST")
    assert isinstance(found, tuple)
    known, body, length = found
    assert (known.path, known.head.query, known.head.keys, body) == (
        "/v1/messages",
        "?beta=true",
        frozenset({digest(KEY)}),
        b"abc",
    )
    assert length == len(a_request("3", b"abc"))


def test_a_body_that_has_come_in_part_is_waited_for(heads: KnownHeads) -> None:
    whole = a_request()
    assert heads.read(whole[:-1]) == len(whole)


NOT_PLAIN = {
    "another length in front": a_request().replace(b"Host: h", b"Host: h\r\ncontent-length: 3"),
    "another length behind": a_request().replace(b"X-More: 1", b"X-More: 1\r\ncontent-length: 14"),
    "the same length twice": a_request().replace(b"X-More: 1", b"Content-Length: 14\r\nX-More: 1"),
    "a length beyond the bound": a_request(str(BODY_BYTES + 1)),
    "a length that is none": a_request("14, 14"),
    "a folded length": a_request("14\r\n "),
    "chunks": a_request().replace(b"X-More: 1", b"Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_beside_a_known_head_the_others_are_what_they_were(heads: KnownHeads, data: bytes) -> None:
    assert heads.read(data) is None


_BYTES = st.one_of(
    st.binary(max_size=4), st.sampled_from([b"\r\n", b"\n", b":", b" ", b"\r\nContent-Length: 3", b"14", b"X-More"])
)


@given(st.lists(st.tuples(st.integers(0, len(a_request())), st.integers(0, 3), _BYTES), max_size=3))
@example([])
def test_a_known_head_is_read_as_a_new_one(edits: list[tuple[int, int, bytes]]) -> None:
    """However a request is distorted, before and after the one that it came from."""
    data = a_request()
    for at, length, instead in edits:
        data = data[:at] + instead + data[at + length :]
    fresh = read_plain(data, PATHS)
    heads = KnownHeads(PATHS)
    heads.read(a_request())
    for _ in range(2):
        found = heads.read(data)
        if isinstance(fresh, tuple):
            request, length = fresh
            assert isinstance(found, tuple)
            known, body, taken = found
            assert (known.path, known.keeps_alive) == (request.path, request.keeps_alive)
            assert known.head == RequestHead.of(request.query, request.headers)
            assert (body, taken) == (request.body, length)
        elif fresh is None:
            assert found is None
        else:
            assert isinstance(found, int)


def test_no_key_is_kept(heads: KnownHeads) -> None:
    assert KEY not in repr(heads._known)


def test_the_oldest_are_forgotten() -> None:
    heads = KnownHeads(PATHS)
    for number in range(2000):
        heads.read(a_request().replace(b"X-More: 1", b"X-More: %d" % number))
    assert len(heads._known) == 512
