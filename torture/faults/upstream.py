"""U5 to U17: what a provider that was reached does wrong."""

from __future__ import annotations

import asyncio
import gzip
import zlib

from goproxy.core.usage import Usage
from tests.gateway import UPSTREAM_SECRET
from tests.streams import (
    DONE,
    MESSAGE_STOP,
    OVERLOADED,
    anthropic_event,
    anthropic_message,
    anthropic_stream,
    openai_choice,
    openai_chunk,
    openai_content,
    openai_usage,
)
from torture.client import Seen
from torture.faults.kind import (
    ESTIMATED,
    EXACT,
    FREE,
    Act,
    Answering,
    Billed,
    Charge,
    Check,
    Kind,
    Problem,
    Turn,
    breaks_off,
    look,
    passes,
    refused,
)

CONNECT, FIRST_BYTE, IDLE, TOTAL = 2, 5, 3, 60
"""Seconds of patience of the tortured proxies."""

_KIB = 1024
_MIB = 1024 * _KIB
_NOT_HTTP = "its answer is not valid HTTP"
_TOLD = Billed(("upstream_error",), Charge.WITHIN_HOLD)
_UNREAD = Billed(("estimated", "exact"), Charge.WITHIN_HOLD)


def _status(status: int, *headers: tuple[str, str]) -> Answering:
    async def answer(turn: Turn) -> None:
        body = b'{"type":"error","error":{"type":"theirs","message":"The provider says no: %d"}}' % turn.number
        await turn.message(body, status, *headers)

    return answer


def _refusing_us(status: int) -> Answering:
    async def answer(turn: Turn) -> None:
        await turn.message(b'{"error":{"message":"bad key %b"}}' % UPSTREAM_SECRET.encode(), status)

    return answer


def _stripped(status: int) -> Check:
    inner = passes(status)
    gone = ("set-cookie", "anthropic-organization-id", "x-ratelimit-limit-tokens", "www-authenticate-x")

    def check(seen: Seen, turn: Turn | None) -> Problem:
        if left := [name for name in gone if name in seen.headers]:
            return f"the client got the provider's headers {left}"
        return inner(seen, turn)

    return check


def _with_header(name: str, value: str, check: Check) -> Check:
    def both(seen: Seen, turn: Turn | None) -> Problem:
        if seen.headers.get(name) != value:
            return f"{name} is {seen.headers.get(name)!r} and not {value!r}"
        return check(seen, turn)

    return both


_ERRORS = [
    *(
        Kind("U5", f"status {status}", "status and body as they are", look(_stripped(status)), FREE, answer)
        for status in (400, 404, 413, 422)
        for answer in [
            _status(
                status,
                ("Set-Cookie", "a=b"),
                ("anthropic-organization-id", "theirs"),
                ("x-ratelimit-limit-tokens", "9"),
            )
        ]
    ),
    *(
        Kind(
            "U5",
            f"status {status}: it refuses our own key, and quotes it",
            "502 that says that the client's key is fine",
            look(refused(502, "gateway's own credentials")),
            FREE,
            _refusing_us(status),
        )
        for status in (401, 402, 403)
    ),
    Kind(
        "U6",
        "429 with Retry-After",
        "429 with Retry-After, asked once",
        look(_with_header("retry-after", "17", passes(429))),
        FREE,
        _status(429, ("Retry-After", "17")),
    ),
    Kind("U6", "429 without Retry-After", "429, asked once", look(passes(429)), FREE, _status(429)),
    *(
        Kind("U7", f"status {status}", f"{status}, asked once", look(passes(status)), FREE, _status(status))
        for status in (500, 502, 503, 529)
    ),
]


def _error_event(protocol: str) -> Answering:
    async def answer(turn: Turn) -> None:
        openai = b'data: {"error":{"message":"boom","type":"server_error","param":null,"code":null}}\n\n'
        turn.truth = Usage(input=turn.truth.input, output=1) if protocol == "anthropic" else Usage()
        await turn.stream(*turn.pieces[:4], OVERLOADED if protocol == "anthropic" else openai)

    return answer


async def _slow_first_byte(turn: Turn) -> None:
    await asyncio.sleep(FIRST_BYTE * 0.6)
    await turn.stream()


async def _no_first_byte(turn: Turn) -> None:
    await turn.wire.until_closed()


def _stall(pieces: int, cut: int = 0) -> Answering:
    """Silence after so many events, and so many bytes of the next."""

    async def answer(turn: Turn) -> None:
        await turn.begin()
        await turn.events(*turn.pieces[:pieces])
        if cut:
            await turn.events(turn.pieces[pieces][:cut])
        await turn.wire.until_closed()

    return answer


async def _json_stall(turn: Turn) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
    await turn.bytes(head, b'{"type":"message",')
    await turn.wire.until_closed()


_TIMES = [
    Kind("U8", "an error event in the middle (Anthropic)", "the event, as it is", look(passes()),
         Billed(("upstream_error",), Charge.TRUTH), _error_event("anthropic")),
    Kind("U8", "an error event in the middle (OpenAI)", "the event, as it is", look(passes(), "openai"),
         Billed(("upstream_error",), Charge.TRUTH), _error_event("openai")),
    Kind("U9", "a slow first byte", "the whole answer", look(passes()), EXACT, _slow_first_byte, share=0.5),
    Kind("U9", "no first byte", "504", look(refused(504, "did not begin to answer")), FREE, _no_first_byte, share=0.5),
    Kind("U10", "a stall between two events", "an error event, and no clean end",
         look(breaks_off("sent nothing for")), ESTIMATED, _stall(4), share=0.5),
    Kind("U10", "a stall inside a line", "an error event on a line of its own, and no clean end",
         look(breaks_off("sent nothing for")), ESTIMATED, _stall(4, 20), share=0.5),
    Kind("U10", "a stall before the first event", "an error event, and no clean end",
         look(breaks_off("sent nothing for")), ESTIMATED, _stall(0), share=0.5),
    Kind("U10", "a stall in a JSON body", "a body that breaks off", look(breaks_off(), is_stream=False),
         _UNREAD, _json_stall, share=0.5),
]  # fmt: skip


def _truncated(how: str) -> Answering:
    """The connection ends at some byte of the stream, which differs from request to request."""

    async def answer(turn: Turn) -> None:
        body = b"".join(turn.pieces)
        at = turn.number * 37 % len(body)
        await turn.begin()
        if how == "in a chunk":
            await turn.bytes(b"%x\r\n" % len(body), body[:at])
        elif at:
            await turn.events(body[:at])
        if how == "reset":
            await asyncio.sleep(0.02)
            turn.wire.reset()
        elif how == "in a chunk's size":
            await turn.wire.send(b"1f")
            turn.wire.hang_up()
        else:
            turn.wire.hang_up()

    return answer


async def _no_end(turn: Turn) -> None:
    await turn.stream(*turn.pieces[:-3])


async def _short_body(turn: Turn) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n"
    await turn.bytes(head, anthropic_message({"input_tokens": 5, "output_tokens": 5})[:-40])
    turn.wire.hang_up()


async def _reset_at_once(turn: Turn) -> None:
    turn.wire.reset()


async def _hang_up_at_once(turn: Turn) -> None:
    turn.wire.hang_up()


async def _half_a_head(turn: Turn) -> None:
    await turn.wire.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    turn.wire.hang_up()


_NO_ANSWER = "it closed the connection without an answer"
_BROKEN = Billed(("estimated", "exact"), Charge.WITHIN_HOLD)
_CUTS = [
    Kind("U11", "the stream ends without its last events", "what was sent, with the end that the provider wrote",
         look(passes()), Billed(("estimated",), Charge.WITHIN_HOLD, "final_usage_missing"), _no_end),
    Kind("U11", "cut at any byte, inside a chunk", "what was sent, and no clean end", look(breaks_off()), _BROKEN,
         _truncated("in a chunk"), share=2),
    Kind("U11", "cut at any byte, between two chunks", "what was sent, and no clean end", look(breaks_off()), _BROKEN,
         _truncated("between chunks"), share=2),
    Kind("U11", "cut inside a chunk's size", "what was sent, and no clean end", look(breaks_off()), _BROKEN,
         _truncated("in a chunk's size")),
    Kind("U11", "a JSON body shorter than its length", "a body that breaks off", look(breaks_off(), is_stream=False),
         _UNREAD, _short_body),
    Kind("U12", "a reset in the middle", "what had come, and no clean end", look(breaks_off()), _BROKEN,
         _truncated("reset")),
    Kind("U12", "a reset before the answer", "502, asked once", look(refused(502, _NO_ANSWER)), FREE, _reset_at_once),
    Kind("U12", "closed before the answer", "502, asked once", look(refused(502, _NO_ANSWER)), FREE,
         _hang_up_at_once),
    Kind("U12", "closed inside the head", "502, asked once", look(refused(502)), FREE, _half_a_head),
]  # fmt: skip


def _between(*odd: bytes) -> Answering:
    """A stream with something odd in its middle."""

    async def answer(turn: Turn) -> None:
        await turn.stream(*turn.pieces[:3], *odd, *turn.pieces[3:])

    return answer


async def _byte_by_byte(turn: Turn) -> None:
    await turn.stream(*(bytes([byte]) for byte in b"".join(turn.pieces)))


async def _line_ends(turn: Turn) -> None:
    first, *others = turn.pieces
    mixed = [piece.replace(b"\n", (b"\r\n", b"\r")[index % 2]) for index, piece in enumerate(others)]
    await turn.stream(b"\xef\xbb\xbf" + first.replace(b"\n", b"\r\n"), *mixed)


async def _several_data_lines(turn: Turn) -> None:
    delta = (
        b'data: {"type": "message_delta",\ndata:"delta": {"stop_reason":\ndata: "end_turn"},\n'
        b'data: "usage": {"output_tokens"\ndata::%d}}\n\n' % turn.truth.output
    )
    await turn.stream(*turn.pieces[:-2], delta, MESSAGE_STOP)


_NUL = b'event: x\0y\ndata: {"a":"\0"}\n\n'
_BAD_UTF8 = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"\xff\xfe\xc3"}}\n\n'
_ODD = [
    Kind("U13", "an event that is no JSON", "the bytes as they are", look(passes()),
         Billed(("exact",), Charge.TRUTH, "unparsed_event"), _between(b"event: content_block_delta\ndata: {no\n\n")),
    Kind("U13", "bytes that are no UTF-8", "the bytes as they are", look(passes()), EXACT, _between(_BAD_UTF8)),
    Kind("U13", "a NUL in an event", "the bytes as they are", look(passes()), EXACT, _between(_NUL)),
    Kind("U13", "comments and unknown events", "the bytes as they are", look(passes()), EXACT,
         _between(b": ping\n\n", anthropic_event("vibe_check", mood={"usage": 3}), b"id: 7\nretry: 1\n\n", b"\n\n\n")),
    Kind("U13", "CRLF, CR, LF and a BOM mixed", "the bytes as they are", look(passes()), EXACT, _line_ends),
    Kind("U13", "one byte at a time", "the bytes as they are", look(passes()), EXACT, _byte_by_byte, share=0.3),
    Kind("U13", "JSON over several data lines", "the bytes as they are", look(passes()), EXACT, _several_data_lines),
    Kind("U13", "deeply nested JSON", "the bytes as they are", look(passes()),
         Billed(("exact",), Charge.TRUTH), _between(b"event: content_block_delta\ndata: " + b"[" * 20_000 + b"\n\n")),
]  # fmt: skip


def _long_line(size: int) -> Answering:
    async def answer(turn: Turn) -> None:
        await turn.begin()
        await turn.events(*turn.pieces[:3], b"event: content_block_delta\ndata: ")
        for _ in range(size // (64 * _KIB)):
            await turn.events(b"x" * 64 * _KIB)
        await turn.events(b"\n\n", *turn.pieces[3:])
        await turn.wire.end_stream()

    return answer


async def _endless_line(turn: Turn) -> None:
    """Goes on until the connection is cut, which the provider does after 32 MiB."""
    await turn.begin()
    await turn.events(turn.pieces[0], b"data: ")
    for _ in range(512):
        await turn.events(b"x" * 64 * _KIB)
    turn.wire.hang_up()


_LONG = [
    Kind("U14", "a line of 900 KiB", "the bytes as they are", look(passes()),
         Billed(("exact",), Charge.TRUTH, "unparsed_event"), _long_line(900 * _KIB), share=0.2),
    Kind("U14", "a line of 16 MiB", "the bytes as they are; no more than 1 MiB of it is kept", look(passes()),
         Billed(("exact",), Charge.TRUTH, "oversized_event"), _long_line(16 * _MIB), share=0.05),
    Kind("U14", "a line without end", "the bytes as they are, and no clean end", look(breaks_off()), ESTIMATED,
         _endless_line, share=0.05),
]  # fmt: skip


def _compressed(data: bytes, coding: str) -> Answering:
    async def answer(turn: Turn) -> None:
        turn.truth = _OF_SMALL
        await turn.message(data, 200, ("Content-Encoding", coding))

    return answer


async def _compressed_stream(turn: Turn) -> None:
    packed = gzip.compress(b"".join(turn.pieces))
    await turn.begin(("Content-Encoding", "gzip"))
    await turn.events(packed[:100], packed[100:])
    await turn.wire.end_stream()


_SMALL = anthropic_message({"input_tokens": 5, "output_tokens": 5})
_OF_SMALL = Usage(input=5, output=5)
_UNDECODED = Billed(("estimated",), Charge.WITHIN_HOLD, "undecoded_body")
_BOMB = gzip.compress(b"\0" * 100 * _MIB)
_PACKED = [
    *(
        Kind("U15", f"a body in {coding}, unasked", "the bytes as they are, with Content-Encoding",
             look(_with_header("content-encoding", coding, passes()), is_stream=False),
             billed, _compressed(data, coding))
        for coding, data, billed in (("gzip", gzip.compress(_SMALL), EXACT), ("deflate", zlib.compress(_SMALL), EXACT),
                                     ("br", b"\x8b\x03\x80abc\x03", _UNDECODED),
                                     ("zstd", b"\x28\xb5\x2f\xfd\x04\x00", _UNDECODED))
    ),
    Kind("U15", "a gzip bomb", "the bytes as they are; 32 MiB of it are unpacked at most",
         look(passes(), is_stream=False), _UNDECODED, _compressed(_BOMB, "gzip"), share=0.3),
    Kind("U15", "a stream in gzip", "the bytes as they are, with Content-Encoding",
         look(_with_header("content-encoding", "gzip", passes())), EXACT, _compressed_stream),
]  # fmt: skip


def _telling(start: object, last: object, truth: Usage) -> Answering:
    """A stream with these usage objects."""

    async def answer(turn: Turn) -> None:
        turn.truth = truth
        await turn.stream(*anthropic_stream(start, last))  # type: ignore[arg-type]

    return answer


async def _cumulative(turn: Turn) -> None:
    usage = turn.truth
    await turn.stream(
        *anthropic_stream({"input_tokens": 1, "output_tokens": 1}, {"output_tokens": 3}, usage.to_json() and {
            "input_tokens": usage.input, "output_tokens": usage.output})
    )  # fmt: skip


async def _beside_content(turn: Turn) -> None:
    """Usage in a chunk whose choices are not empty."""
    usage = openai_usage(turn.truth.input, turn.truth.output)
    *content, _ = openai_content()
    await turn.stream(*content, openai_chunk([openai_choice("stop")], usage=usage), DONE)


async def _unasked_chunk(turn: Turn) -> None:
    """The client did not ask for the usage chunk: it may not see it."""
    await turn.begin()
    for piece in turn.pieces:
        if b'"choices":[]' in piece:
            await turn.wire.chunk(piece)
        else:
            await turn.events(piece)
    await turn.wire.end_stream()


def _without_wish(check: Check) -> Act:
    """An OpenAI client that does not ask for usage."""
    from tests.gateway import OPUS  # noqa: PLC0415
    from torture.client import a_client  # noqa: PLC0415
    from torture.faults.kind import Injection  # noqa: PLC0415

    async def act(injection: Injection) -> Problem:
        async with a_client(injection.port) as client:
            body = {"model": OPUS["id"], "max_tokens": injection.number, "stream": True, "messages": []}
            await client.post(_padded(body), "/v1/chat/completions", key=injection.key)
            return check(await client.seen(), injection.turn())

    return act


def _padded(body: object) -> bytes:
    import json  # noqa: PLC0415

    return json.dumps(body).encode().ljust(512)


_INVALID = Billed(("exact", "estimated"), Charge.WITHIN_HOLD, "invalid_usage")
_FIVE = {"input_tokens": 5, "output_tokens": 1}
_USAGE = [
    Kind("U16", "no usage at all", "the bytes as they are", look(passes()), _UNREAD, _telling(None, None, Usage())),
    Kind("U16", "usage null in the end", "the bytes as they are", look(passes()), _UNREAD,
         _telling(_FIVE, {"output_tokens": None}, Usage(input=5, output=1))),
    Kind("U16", "an explicit 0", "the bytes as they are; an answer with words in it is not free", look(passes()),
         Billed(("estimated",), Charge.WITHIN_HOLD, "zero_usage"),
         _telling({"input_tokens": 0, "output_tokens": 0}, {"output_tokens": 0}, Usage())),
    Kind("U16", "cumulative usage, told three times", "the bytes as they are; the last one counts", look(passes()),
         EXACT, _cumulative),
    Kind("U16", "a negative count", "the bytes as they are", look(passes()), _INVALID,
         _telling(_FIVE, {"output_tokens": -7}, Usage(input=5, output=1))),
    Kind("U16", "a fraction", "the bytes as they are", look(passes()), _INVALID,
         _telling(_FIVE, {"output_tokens": 7.5}, Usage(input=5, output=1))),
    Kind("U16", "a huge count", "the bytes as they are", look(passes()), _INVALID,
         _telling(_FIVE, {"output_tokens": 10**30}, Usage(input=5, output=1))),
    Kind("U16", "usage beside content (OpenAI)", "the bytes as they are", look(passes(), "openai"), EXACT,
         _beside_content),
    Kind("U16", "the usage chunk for a client that did not ask", "the bytes without that chunk",
         _without_wish(passes()), EXACT, _unasked_chunk),
]  # fmt: skip


def _flood(head: bytes) -> Answering:
    async def answer(turn: Turn) -> None:
        try:
            await turn.wire.send(head)
            await turn.wire.until_closed()
        except ConnectionError:
            pass

    return answer


async def _two_answers(turn: Turn) -> None:
    """The second one must never become the answer to somebody else's request."""
    await turn.message()
    await turn.wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")


async def _unsendable(turn: Turn) -> None:
    await turn.message(None, 200, ("X-Odd", "caf\xe9"), ("X-Long", "x" * 30_000))


_OK = b"HTTP/1.1 200 OK\r\n"
_HEADS = {
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "a header of 1 MiB": _OK + b"X: " + b"x" * _MIB + b"\r\n\r\n",
    "10,000 headers": _OK + b"X: y\r\n" * 10_000 + b"Content-Length: 0\r\n\r\n",
    "101 Switching Protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "two lengths": _OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": _OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a header in two lines": _OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a length that is no number": _OK + b"Content-Length: x\r\n\r\n",
    "a NUL in a header": _OK + b"A: b\0c\r\nContent-Length: 0\r\n\r\n",
    "a CR in a header": _OK + b"A: b\rX-Injected: 1\r\nContent-Length: 0\r\n\r\n",
    "no HTTP at all": b"220 mail.example.org ESMTP\r\n\r\n",
    "HTTP/2 unasked": b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\x10\0\0\0\0\x02\0\0\0\0",
}
_ATTACKS = [
    *(
        Kind("U17", name, "502, and the connection is dropped", look(refused(502, _NOT_HTTP)), FREE, _flood(head))
        for name, head in _HEADS.items()
    ),
    *(
        Kind("U17", f"{status} to a metadata address", "502; it is not followed",
             look(refused(502, "which is not followed")), FREE,
             _status(status, ("Location", "http://169.254.169.254/latest/meta-data/")))
        for status in (301, 307)
    ),
    Kind("U17", "a second answer that nobody asked for", "the first; the connection is not used again",
         look(passes(), is_stream=False), EXACT, _two_answers),
    Kind("U17", "odd and long headers", "the answer", look(passes(), is_stream=False), EXACT, _unsendable),
]  # fmt: skip

GROUPS = {
    "errors": _ERRORS,
    "times": _TIMES,
    "cuts": _CUTS,
    "odd streams": _ODD,
    "long lines": _LONG,
    "compressed": _PACKED,
    "usage": _USAGE,
    "header attacks": _ATTACKS,
}
