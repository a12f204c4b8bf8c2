"""Recorded answers, spoiled: by a seed, so that what was found once can be found again."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from goproxy.core.sse import MAX_EVENT
from tests.provider import ANTHROPIC_EVENTS, OPENAI_EVENTS
from tests.streams import ANSWERS, STREAMS

_NUMBER = re.compile(rb"(?<=[:\[,])-?\d+(?:\.\d+)?")
_STRING = re.compile(rb'"(?:[^"\\]|\\.){0,80}"')
_ODD_VALUES = (
    b"-1",
    b"0",
    b"-0",
    b"1.5",
    b"1e3",
    b"1e999",
    b"-1e999",
    b"9" * 25,
    b"9" * 5000,
    b"1000000000",
    b"1000000001",
    b"18446744073709551616",
    b"null",
    b"true",
    b'"7"',
    b'""',
    b"[]",
    b"{}",
    b"[7]",
    b'{"input_tokens":3}',
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"",
    b"0x10",
    b"007",
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xff\xfe"',
)
_JUNK = (
    b"data: ",
    b"data:",
    b"data",
    b"event: error\n",
    b"event: message_delta\n",
    b"event:\n",
    b"\n\n",
    b"\r\r",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b":\n",
    b": a comment\n",
    b"id: 1\nretry: 5\n",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff",
    b"\xf0\x9f",
    b'"usage":{',
    b'"usage":{"output_tokens":5}',
    b'{"type":"message_delta","usage":{"output_tokens":-5}}',
    b"data: [DONE]\n\n",
    b"data: {}\n\n",
    b"data: []\n\n",
    b"data: 7\n\n",
    b"data: null\n\n",
    b'data: {"type":"message_stop"}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n',
    b'data: {"usage":' + b'{"a":' * 60 + b"1" + b"}" * 60 + b"}\n\n",
    b"data: " + b"[" * 3000 + b"\n\n",
    b'data: {"error":{"type":"overloaded_error"}}\n\n',
    b"}}",
    b"\\",
    b'"',
)
_HUGE = (
    b"data: " + b"x" * (MAX_EVENT + 10) + b"\n\n",
    b"x" * (MAX_EVENT + 10),
    b"data: x\n" * (MAX_EVENT // 6),
    b": comment\n" * 120_000,
    b'data: {"delta":{"text":"' + b"y" * MAX_EVENT + b'"}}\n\n',
    b"\n" * 1_000_000,
    b'data: {"usage":{' + b",".join(b'"k%d":1' % number for number in range(20_000)) + b"}}\n\n",
)
_EVENTS = tuple(piece for answer in STREAMS for piece in answer.pieces) + ANTHROPIC_EVENTS + OPENAI_EVENTS
_ONE_IN_HUGE = 4000


@dataclass(frozen=True)
class Spoiled:
    """What a meter is fed."""

    protocol: str
    is_stream: bool
    pieces: tuple[bytes, ...]
    """In the slicing in which it is fed."""

    ends: bool
    """HTTP says that it is whole."""

    is_huge: bool = False

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


def spoiled(seed: int) -> Spoiled:
    """The answer of this number."""
    draw = random.Random(seed)
    answer = draw.choice(ANSWERS)
    pieces = list(answer.pieces)
    for _ in range(draw.choice((0, 1, 1, 2, 3, 5))):
        draw.choice(_MUTATIONS)(draw, pieces)
    is_huge = draw.randrange(_ONE_IN_HUGE) == 0
    if is_huge:
        pieces.insert(draw.randrange(len(pieces) + 1), draw.choice(_HUGE))
    protocol = answer.protocol if draw.random() < 0.95 else draw.choice(("anthropic", "openai", "responses"))
    is_stream = answer.stream if draw.random() < 0.95 else not answer.stream
    return Spoiled(protocol, is_stream, _sliced(draw, pieces), draw.random() < 0.8, is_huge)


def _sliced(draw: random.Random, pieces: list[bytes]) -> tuple[bytes, ...]:
    way = draw.random()
    if way < 0.3:
        return tuple(pieces)
    data = b"".join(pieces)
    if way < 0.35 and len(data) < 3000:
        return tuple(data[at : at + 1] for at in range(len(data)))
    cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(8)))
    return tuple(data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True))


def _drop(draw: random.Random, pieces: list[bytes]) -> None:
    if pieces:
        del pieces[draw.randrange(len(pieces))]


def _repeat(draw: random.Random, pieces: list[bytes]) -> None:
    if pieces:
        pieces.insert(draw.randrange(len(pieces) + 1), draw.choice(pieces))


def _borrow(draw: random.Random, pieces: list[bytes]) -> None:
    pieces.insert(draw.randrange(len(pieces) + 1), draw.choice(_EVENTS))


def _shuffle(draw: random.Random, pieces: list[bytes]) -> None:
    draw.shuffle(pieces)


def _cut(draw: random.Random, pieces: list[bytes]) -> None:
    if pieces:
        at = draw.randrange(len(pieces))
        pieces[at] = pieces[at][: draw.randrange(len(pieces[at]) + 1)]


def _junk(draw: random.Random, pieces: list[bytes]) -> None:
    _put(draw, pieces, draw.choice(_JUNK))


def _noise(draw: random.Random, pieces: list[bytes]) -> None:
    _put(draw, pieces, draw.randbytes(draw.randrange(12)))


def _put(draw: random.Random, pieces: list[bytes], what: bytes) -> None:
    at = draw.randrange(len(pieces) + 1)
    if at == len(pieces):
        pieces.append(what)
    else:
        where = draw.randrange(len(pieces[at]) + 1)
        pieces[at] = pieces[at][:where] + what + pieces[at][where:]


def _flip(draw: random.Random, pieces: list[bytes]) -> None:
    at = draw.randrange(len(pieces)) if pieces else 0
    if pieces and pieces[at]:
        data = bytearray(pieces[at])
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        pieces[at] = bytes(data)


def _value(draw: random.Random, pieces: list[bytes]) -> None:
    _replace(draw, pieces, _NUMBER)


def _text(draw: random.Random, pieces: list[bytes]) -> None:
    _replace(draw, pieces, _STRING)


def _replace(draw: random.Random, pieces: list[bytes], pattern: re.Pattern[bytes]) -> None:
    if pieces:
        at = draw.randrange(len(pieces))
        found = [*pattern.finditer(pieces[at])]
        if found:
            one = draw.choice(found)
            pieces[at] = pieces[at][: one.start()] + draw.choice(_ODD_VALUES) + pieces[at][one.end() :]


def _line_ends(draw: random.Random, pieces: list[bytes]) -> None:
    end = draw.choice((b"\r", b"\r\n"))
    pieces[:] = [piece.replace(b"\n", end) for piece in pieces]


_MUTATIONS = (_drop, _repeat, _borrow, _shuffle, _cut, _junk, _noise, _flip, _value, _value, _value, _text, _line_ends)
