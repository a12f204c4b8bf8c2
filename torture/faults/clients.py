"""C1 to C5, C8 and C9: what a client does wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from goproxy.core.keys import new_key
from tests.gateway import OPUS, UPSTREAM_SECRET
from torture.client import Client, End, a_client
from torture.faults.kind import (
    DRAINED,
    ESTIMATED,
    EXACT,
    NO_ROW,
    Act,
    Billed,
    Charge,
    Injection,
    Kind,
    Problem,
    Turn,
    passes,
)
from torture.stand import request_body

_SEEN_WITHIN = 1.0
_KIB = 1024


async def _when(holds: Callable[[], bool], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.01)
    return True


def _go(client: Client, how: str) -> None:
    if how == "reset":
        client.vanish()
    else:
        client.leave()


def _leaves_before_an_answer(how: str) -> Act:
    async def act(injection: Injection) -> Problem:
        async with a_client(injection.port) as client:
            await client.ask(injection.key, injection.number)
            if not await _when(lambda: injection.turn() is not None):
                return "the provider was not asked"
            _go(client, how)
        return None

    return act


def _leaves_and_is_noticed(how: str) -> Act:
    """With the policy `abort` the provider sees within a second that nobody waits any more."""
    leave = _leaves_before_an_answer(how)

    async def act(injection: Injection) -> Problem:
        if problem := await leave(injection):
            return problem
        left, turn = time.monotonic(), injection.turn()
        assert turn is not None
        if not await _when(lambda: turn.ended_after >= 0):
            return "the provider's connection stays open"
        took = time.monotonic() - left
        return None if took < _SEEN_WITHIN else f"the provider's connection was closed after {took:.1f} s"

    return act


async def _slowly(turn: Turn) -> None:
    """Time enough to leave in."""
    await asyncio.sleep(0.3)
    await turn.stream()


async def _never(turn: Turn) -> None:
    await turn.wire.until_closed()


def _leaves_after_events(how: str) -> Act:
    async def act(injection: Injection) -> Problem:
        async with a_client(injection.port) as client:
            await client.ask(injection.key, injection.number)
            await client.seen(events=1 + injection.number % 6)
            _go(client, how)
        return None

    return act


async def _paced(turn: Turn) -> None:
    await turn.begin()
    try:
        for piece in turn.pieces:
            await turn.events(piece)
            await asyncio.sleep(0.03)
        await turn.wire.end_stream()
    except ConnectionError:
        pass


async def _large(turn: Turn) -> None:
    """12 MiB of events: more than sockets take."""
    await turn.begin()
    try:
        await turn.events(*turn.pieces[:4])
        comment = b": " + b"x" * 65_000 + b"\n\n"
        for _ in range(192):
            await turn.events(comment)
        await turn.events(*turn.pieces[4:])
        await turn.wire.end_stream()
    except ConnectionError:
        pass


async def _reads_nothing(injection: Injection) -> Problem:
    async with a_client(injection.port, receives=4096) as client:
        await client.ask(injection.key, injection.number)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        turn = injection.turn
        done = await _when(lambda: (each := turn()) is not None and each.ended_after >= 0, 30)
    return None if done else "the provider still waits after 30 s"


async def _reads_slowly(injection: Injection) -> Problem:
    async with a_client(injection.port, receives=4096) as client:
        await client.ask(injection.key, injection.number)
        await asyncio.sleep(1)
        return passes()(await client.seen(), injection.turn())


async def _closes_its_side(injection: Injection) -> Problem:
    """As much as leaving: nothing more will come from it."""
    async with a_client(injection.port) as client:
        await client.ask(injection.key, injection.number)
        if not await _when(lambda: injection.turn() is not None):
            return "the provider was not asked"
        client.writer.write_eof()
        await client.reader.read()
    return None


_ABORTED = Billed(("estimated", "drained", "exact"), Charge.WITHIN_HOLD)
_LEAVING = [
    *(
        Kind("C1", f"gone by {how} before the first byte (drain)", "nothing; the answer is read for the count",
             _leaves_before_an_answer(how), DRAINED, _slowly)
        for how in ("reset", "close")
    ),
    *(
        Kind("C1", f"gone by {how} before the first byte (abort)",
             "nothing; the provider's connection is closed within a second",
             _leaves_and_is_noticed(how), ESTIMATED, _never, upstream="aborts")
        for how in ("reset", "close")
    ),
    *(
        Kind("C2", f"gone by {how} after some events (drain)", "what came; the rest is read for the count",
             _leaves_after_events(how), Billed(("drained", "exact"), Charge.TRUTH), _paced)
        for how in ("reset", "close")
    ),
    *(
        Kind("C2", f"gone by {how} after some events (abort)", "what came", _leaves_after_events(how), _ABORTED,
             _paced, upstream="aborts")
        for how in ("reset", "close")
    ),
    Kind("C4", "closes its sending side", "as if it had left", _closes_its_side,
         Billed(("drained", "exact"), Charge.TRUTH), _paced),
]  # fmt: skip


_SLOW = [
    Kind("C3", "reads nothing of 12 MiB (drain)", "it is cut after three idle times; the rest is read for the count",
         _reads_nothing, DRAINED, _large, share=0.07),
    Kind("C3", "reads nothing of 12 MiB (abort)", "it is cut after three idle times", _reads_nothing, ESTIMATED, _large,
         upstream="aborts", share=0.07),
    Kind("C3", "reads 12 MiB late", "the bytes as they are", _reads_slowly, EXACT, _large, share=0.07),
]  # fmt: skip


def _sends(head: str, body: bytes, *statuses: int, message: str = "", or_reset: bool = False) -> Act:
    """A request by hand; `head`: with {key}, {number} and {length}.

    `or_reset`: more is sent than is read before the connection is closed, and then TCP may throw away the answer that
    is on its way.
    """

    async def act(injection: Injection) -> Problem:
        async with a_client(injection.port) as client:
            text = head.format(key=injection.key, length=len(body))
            await _send(client, text.encode("latin-1") + b"\r\n" + body)
            seen = await client.seen()
        if or_reset and seen.end is End.NONE:
            return None
        if seen.end is not End.WHOLE or seen.status not in statuses:
            return f"the client got {seen}, and {statuses} was due"
        if UPSTREAM_SECRET.encode() in seen.body or injection.key.encode() in seen.body:
            return f"a secret in the answer: {seen}"
        return None if message.encode() in seen.body else f"no {message!r} in {seen}"

    return act


async def _send(client: Client, data: bytes) -> None:
    with suppress(ConnectionError):  # it may be refused before it was all taken
        await client.send(data)


_POST = "POST /v1/messages HTTP/1.1\r\nHost: h\r\n"
_HEAD = _POST + "x-api-key: {key}\r\nContent-Length: {length}\r\n"
_CHUNKED = _POST + "x-api-key: {key}\r\nTransfer-Encoding: chunked\r\n"
_MODEL = str(OPUS["id"]).encode()
_NO_REQUESTS = {
    "no JSON": b"hello",
    "an empty body": b"",
    "a list": b"[]",
    "no model": b"{}",
    "a model that is no text": b'{"model":7}',
    "a name twice": b'{"model":"%b","model":"b"}' % _MODEL,
    "bytes that are no UTF-8": b'{"model":"\xff"}',
    "a NUL": b'{"model":"%b"}\0' % _MODEL,
    "100,000 brackets": b"[" * 100_000,
    "100,000 brackets within": b'{"model":"%b","a":%b' % (_MODEL, b"[" * 100_000),
    "a number without end": b'{"model":"%b","max_tokens":%b}' % (_MODEL, b"9" * 50_000),
    "max_tokens below 0": b'{"model":"%b","max_tokens":-5}' % _MODEL,
}
_BODIES = [
    *(
        Kind("C5", name, "400 in the protocol's shape", _sends(_HEAD, body, 400), NO_ROW, reaches=False)
        for name, body in _NO_REQUESTS.items()
    ),
    Kind("C5", "an unknown model", "404 that names the known ones", _sends(_HEAD, b'{"model":"gpt-0"}', 404), NO_ROW,
         reaches=False),
    Kind("C5", "a body that is too large", "413 before it is read",
         _sends(_POST + "x-api-key: {key}\r\nContent-Length: 99999999999\r\n", b"", 413), NO_ROW, reaches=False),
    Kind("C5", "a chunked body that grows too large", "413",
         _sends(_CHUNKED, (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17, 413), NO_ROW, reaches=False, share=0.2),
    Kind("C5", "a broken chunk", "400", _sends(_CHUNKED, b'5\r\n{"mod\r\nzz\r\n', 400), NO_ROW, reaches=False),
    Kind("C5", "a compressed body", "400; it is not unpacked",
         _sends(_HEAD + "Content-Encoding: gzip\r\n", b"\x1f\x8b", 400), NO_ROW, reaches=False),
    Kind("C4", "a body that never comes", "408 after the idle time", _sends(
        _POST + "x-api-key: {key}\r\nContent-Length: 500\r\n", b"{", 408), NO_ROW, reaches=False, share=0.3),
]  # fmt: skip


async def _spoofs(injection: Injection) -> Problem:
    headers = (
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Host: evil.example",
        "Forwarded: for=10.0.0.1",
        "X-Real-IP: 10.0.0.1",
        "Cookie: a=b",
        "Connection: x-hop, keep-alive",
        "X-Hop: 1",
        "TE: trailers",
        "Proxy-Authorization: Basic eA==",
    )
    async with a_client(injection.port) as client:
        await client.ask(injection.key, injection.number, "anthropic", *headers)
        problem = passes()(await client.seen(), injection.turn())
    turn = injection.turn()
    assert turn is not None
    gone = {header.partition(":")[0].lower() for header in headers}
    if left := gone & {name.lower() for name, _ in turn.request.headers}:
        return f"the provider got {left}"
    if any(injection.key in value for _, value in turn.request.headers):
        return "the provider got the client's key"
    return problem


def _target(target: str, *statuses: int) -> Act:
    body = b'{"model":"nope"}'
    return _sends(f"POST {target} HTTP/1.1\r\nHost: h\r\nx-api-key: {{key}}\r\nContent-Length: {{length}}\r\n", body,
                  *statuses)  # fmt: skip


def _unknown_key(key: str | None, *more: str, statuses: tuple[int, ...] = (401,), or_reset: bool = False) -> Act:
    lines = "".join(f"{line}\r\n" for line in (*more, *([f"x-api-key: {key}"] if key is not None else [])))
    body: bytes = request_body(1)
    head = _POST + "Content-Length: {length}\r\n" + lines.replace("{", "{{").replace("}", "}}")
    return _sends(head, body, *statuses, or_reset=or_reset)


async def _two_keys(injection: Injection) -> Problem:
    body = request_body(injection.number)
    head = _POST + f"x-api-key: {injection.key}\r\nx-api-key: {new_key()}\r\nContent-Length: {len(body)}\r\n\r\n"
    async with a_client(injection.port) as client:
        await client.send(head.encode() + body)
        seen = await client.seen()
    return None if seen.status == 401 else f"the client got {seen}"


async def _new_key(injection: Injection, **wishes: object) -> str:
    (account,) = [name for name, key in injection.stand.keys.items() if key == injection.key]
    key: str = (await injection.stand.admin.post(f"accounts/{account}/keys", wishes))["key"]
    return key


async def _status_with(client: Client, key: str) -> int:
    await client.send(f"GET /v1/models HTTP/1.1\r\nHost: h\r\nx-api-key: {key}\r\n\r\n".encode())
    return (await client.answer())[0]


async def _until(status: int, client: Client, key: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while await _status_with(client, key) != status:
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.01)
    return True


async def _revoked(injection: Injection) -> Problem:
    """On a connection that is open and has been used."""
    key = await _new_key(injection)
    async with a_client(injection.port) as client:
        if not await _until(200, client, key, 10):
            return "a new key is not known after 10 s"
        (account,) = [name for name, each in injection.stand.keys.items() if each == injection.key]
        known = (await injection.stand.admin.get("keys", account=account))["keys"]
        (id_,) = [each["id"] for each in known if key.startswith(each["prefix"])]
        await injection.stand.admin.post(f"keys/{id_}/revoke", None)
        return None if await _until(401, client, key, 1) else "a revoked key is let in after 1 s"


async def _not_here(injection: Injection) -> Problem:
    """A key that is for another upstream is not told here, though one is that was made after it."""
    key, later = await _new_key(injection, upstreams=["neighbour"]), await _new_key(injection)
    body = request_body(injection.number)
    async with a_client(injection.port) as client:
        if not await _until(200, client, later, 10):
            return "a new key is not known after 10 s"
        await client.post(body, key=key)
        seen = await client.seen()
    return None if seen.status == 401 else f"the client got {seen}"


Shows = Callable[[Injection], Awaitable[Problem]]
_SHOWS: dict[str, Shows] = {
    "no key": _unknown_key(None),
    "an unknown key": _unknown_key(new_key()),
    "garbage": _unknown_key("x"),
    "SQL and quotes": _unknown_key("' OR 1=1; DROP TABLE keys; --"),
    "bytes of Latin-1": _unknown_key("\xfc\xe9"),
    "Basic authorization": _unknown_key(None, "Authorization: Basic eDp5"),
    "a Bearer without a key": _unknown_key(None, "Authorization: Bearer"),
    "a key of 6,000 bytes": _unknown_key("x" * 6_000),
    "a key of 1 MiB": _unknown_key("x" * 1024 * _KIB, statuses=(400,), or_reset=True),
    "two keys": _two_keys,
}
_KEYS = [
    *(
        Kind("C9", name, "401, always the same" if "MiB" not in name else "400, or a reset while it still sends", act,
             NO_ROW, reaches=False)
        for name, act in _SHOWS.items()
    ),
    Kind("C9", "revoked on an open connection", "401 within a second", _revoked, NO_ROW, reaches=False, share=0.2),
    Kind("C9", "a key for another upstream", "401", _not_here, NO_ROW, reaches=False, share=0.2),
]  # fmt: skip
_FORMS = [
    Kind("C8", "forwarding and hop-by-hop headers", "the answer; the provider gets none of them", _spoofs, EXACT),
    Kind("C8", "a target with a scheme and a host", "as if only its path had come",
         _target("http://evil.example/v1/messages", 404, 400), NO_ROW, reaches=False),
    Kind("C8", "a target that leaves its path", "404", _target("/v1/messages/../../admin", 404, 400), NO_ROW,
         reaches=False),
    Kind("C8", "CONNECT", "4xx", _sends("CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: h\r\n", b"", 400, 404, 405),
         NO_ROW, reaches=False),
]  # fmt: skip

GROUPS = {
    "leaving clients": _LEAVING,
    "slow clients": _SLOW,
    "bodies": _BODIES,
    "targets and headers": _FORMS,
    "keys": _KEYS,
}
