"""A kind of fault: what a provider, a client or the world does wrong, what the client must see, what must be billed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from goproxy.core.usage import Usage
from tests.provider import Received, Wire
from tests.streams import anthropic_message, anthropic_stream, openai_completion, openai_stream, openai_usage
from torture.client import End, Seen, a_client
from torture.stand import Row, Stand, cost, usage_of

Problem = str | None
"""What was not as it must be."""


class Charge(StrEnum):
    """How much."""

    TRUTH = "what the provider bills"
    NOTHING = "nothing"
    WITHIN_HOLD = "at most the hold"


@dataclass(frozen=True, slots=True)
class Billed:
    """What the rows of a kind may say."""

    settlements: tuple[str, ...]
    """None: there is no row, since the upstream was not asked."""
    charge: Charge = Charge.NOTHING
    flag: str = ""
    """Must stand in the row."""

    def __str__(self) -> str:
        if not self.settlements:
            return "no row"
        flag = f" ({self.flag})" if self.flag else ""
        return f"{' or '.join(self.settlements)}{flag}: {self.charge}"

    def judge(self, row: Row, turn: Turn | None) -> Problem:
        """Hold a row against it."""
        usage = Usage.from_json(row["usage"])
        said = f"{row['settlement']} {row['cost_nanodollars']} {row['flags']}"
        truth = turn.truth if turn is not None else Usage()
        if row["settlement"] not in self.settlements:
            return f"settled as {said}, not as {self}"
        if row["settlement"] in ("exact", "drained") and not row["flags"] and usage != truth:
            return f"claims to be exact with {usage}, and the provider bills {truth}"
        if self.flag and self.flag not in row["flags"]:
            return f"settled as {said}, without the flag {self.flag}"
        if self.charge is Charge.NOTHING and row["cost_nanodollars"]:
            return f"charged: {said}"
        if self.charge is Charge.TRUTH and (usage, row["cost_nanodollars"]) != (truth, cost(truth)):
            return f"charged {usage} ({said}), and the provider bills {truth}"
        if row["cost_nanodollars"] > row["hold_nanodollars"] and "above_hold" not in row["flags"]:
            return f"charged more than was held: {said}"
        return None


EXACT = Billed(("exact",), Charge.TRUTH)
DRAINED = Billed(("drained",), Charge.TRUTH)
ESTIMATED = Billed(("estimated",), Charge.WITHIN_HOLD)
FREE = Billed(("upstream_error",))
NO_ROW = Billed(())


@dataclass
class Turn:
    """A request at the provider, while it is answered."""

    number: int
    request: Received
    wire: Wire
    truth: Usage
    """What the provider bills for it."""
    said: bytearray = field(default_factory=bytearray)
    """The body of the answer, as a client is to see it."""
    ended_after: float = -1.0
    """Seconds after which the provider was done with it, or saw that the connection was closed."""

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The events of a whole answer."""
        return pieces_of(self.number, self.protocol)

    @property
    def protocol(self) -> str:
        return "anthropic" if self.request.target.startswith("/v1/messages") else "openai"

    @property
    def wants_stream(self) -> bool:
        return bool(json.loads(self.request.body)["stream"])

    async def begin(self, *headers: tuple[str, str]) -> None:
        await self.wire.begin_stream(*headers)

    async def events(self, *pieces: bytes) -> None:
        """A chunk each."""
        for piece in pieces:
            self.said += piece
            await self.wire.chunk(piece)

    async def stream(self, *pieces: bytes) -> None:
        """A whole stream."""
        await self.begin()
        await self.events(*(pieces or self.pieces))
        await self.wire.end_stream()

    async def message(self, body: bytes | None = None, status: int = 200, *headers: tuple[str, str]) -> None:
        """A whole JSON body."""
        body = message_of(self.number, self.protocol) if body is None else body
        self.said += body
        await self.wire.whole(body, status, *headers)

    async def bytes(self, head: bytes, body: bytes = b"") -> None:
        """Anything."""
        self.said += body
        await self.wire.send(head + body)


def pieces_of(number: int, protocol: str) -> tuple[bytes, ...]:
    """The events of a whole stream."""
    usage = usage_of(number)
    if protocol == "anthropic":
        return anthropic_stream({"input_tokens": usage.input, "output_tokens": 1}, {"output_tokens": usage.output})
    return openai_stream(openai_usage(usage.input, usage.output))


def message_of(number: int, protocol: str) -> bytes:
    """A whole JSON answer."""
    usage = usage_of(number)
    if protocol == "anthropic":
        return anthropic_message({"input_tokens": usage.input, "output_tokens": usage.output})
    return openai_completion(openai_usage(usage.input, usage.output))


Answering = Callable[[Turn], Awaitable[None]]
Check = Callable[[Seen, Turn | None], Problem]


@dataclass
class Injection:
    """One request of a kind."""

    number: int
    key: str
    port: int
    stand: Stand
    turn: Callable[[], Turn | None]
    """Its request at the provider, if it has come there."""


Act = Callable[[Injection], Awaitable[Problem]]


async def answer_all(turn: Turn) -> None:
    """A provider that does nothing wrong."""
    if turn.wants_stream:
        await turn.stream()
    else:
        await turn.message()


def look(check: Check, protocol: str = "anthropic", *headers: str, is_stream: bool = True) -> Act:
    """A client that does nothing wrong, and looks at what it gets."""

    async def act(injection: Injection) -> Problem:
        async with a_client(injection.port) as client:
            await client.ask(injection.key, injection.number, protocol, *headers, is_stream=is_stream)
            return check(await client.seen(), injection.turn())

    return act


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    row: str
    """In the matrix of docs/reliability.md."""
    name: str
    happens: str
    """What the client gets, in words."""
    act: Act
    billed: Billed
    answer: Answering = answer_all
    upstream: str = "drains"
    share: float = 1.0
    """How often it is injected, as a part of the usual number."""
    reaches: bool | None = True
    """The provider gets the request; None: perhaps."""

    def __str__(self) -> str:
        return f"{self.row} {self.name}"


# What a client must see.


def passes(status: int = 200) -> Check:
    """The answer, whole and byte by byte as the provider sent it."""

    def check(seen: Seen, turn: Turn | None) -> Problem:
        assert turn is not None
        if (seen.end, seen.status, seen.body) == (End.WHOLE, status, bytes(turn.said)):
            return None
        return f"the client got {seen}, and {len(turn.said)} bytes with {status} were sent"

    return check


def refused(status: int, *words: str) -> Check:
    """An error of the gateway, in the protocol's shape, that says this."""

    def check(seen: Seen, _: Turn | None) -> Problem:
        if (seen.end, seen.status) != (End.WHOLE, status):
            return f"the client got {seen}, and {status} was due"
        try:
            message = json.loads(seen.body)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            return f"the client got no error in the protocol's shape: {seen}"
        return None if all(word in message for word in words) else f"the error says {message!r}, not {words}"

    return check


def breaks_off(error: str = "") -> Check:
    """What was sent and no more, without an end that HTTP would take for one; `error`: an event that says why."""

    def check(seen: Seen, turn: Turn | None) -> Problem:
        assert turn is not None
        body = seen.body
        if error:
            body, mark, event = body.partition(b"event: error\ndata: ")
            if not mark or error.encode() not in event:
                return f"the client is not told {error!r}: {seen}"
            body = body if bytes(turn.said).endswith(b"\n") else body.removesuffix(b"\n")
        if seen.end is not End.BROKEN or seen.status != 200:
            return f"the client got {seen}, and not a broken answer"
        return None if turn.said.startswith(body) else f"the client got bytes that nobody sent: {seen}"

    return check
