"""U1 to U4: what is wrong on the way to a provider, before anything is sent to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from torture.faults.door import Door, Names
from torture.faults.kind import (
    ESTIMATED,
    EXACT,
    FREE,
    Kind,
    Turn,
    breaks_off,
    look,
    message_of,
    passes,
    refused,
)

UPSTREAM = "reaching"
_BELIEVED = 10.5
"""Seconds after which a name is looked up again."""

_UNTRUSTED = "its certificate is not trusted"
_HANDSHAKE = "cannot be reached"


@dataclass(frozen=True, slots=True)
class Way:
    """To the provider."""

    door: Door
    names: Names


Setting = Callable[[Way], Awaitable[None]]


def resolving_here(directory: Path) -> tuple[str, ...]:
    """A command that becomes the one after it, for which our name server is the only one."""
    path = directory / "resolv.conf"
    path.write_text("nameserver 127.0.0.53\noptions timeout:5 attempts:1\n")
    return ("unshare", "--mount", "sh", "-c", f'mount --bind {path} /etc/resolv.conf && exec "$@"', "sh")


def can_resolve_here() -> bool:
    """Whether a mount of one's own and port 53 may be had."""
    return os.geteuid() == 0


async def _open(way: Way) -> None:
    await way.door.open(way.door.certificate())


def _names(code: int | None) -> Setting:
    async def setting(way: Way) -> None:
        await _open(way)
        way.names.code = code
        await asyncio.sleep(_BELIEVED)

    return setting


async def _moved(way: Way) -> None:
    """The provider has another address."""
    way.names.code, way.names.address = 0, "127.0.0.2"
    await way.door.open(way.door.certificate(), "127.0.0.2")
    await asyncio.sleep(_BELIEVED)


async def _refused(way: Way) -> None:
    await way.door.shut()


async def _filled(way: Way) -> None:
    await way.door.fill()


async def _expired(way: Way) -> None:
    await way.door.open(way.door.certificate(days=-1))


async def _other_name(way: Way) -> None:
    await way.door.open(way.door.certificate("other.torture.test"))


async def _other_authority(way: Way) -> None:
    await way.door.open(way.door.certificate(authority=trustme.CA()))


async def _old_tls(way: Way) -> None:
    await way.door.open(way.door.old_tls())


async def _silent(way: Way) -> None:
    await way.door.say(None)


async def _plain(way: Way) -> None:
    await way.door.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def _garbage(way: Way) -> None:
    await way.door.say(bytes(range(256)))


async def _reset(way: Way) -> None:
    await way.door.say(None, is_reset=True)


def _kind(row: str, name: str, status: int, words: str, says: str = "") -> Kind:
    happens = f"{status}{': ' if says else ''}{says}"
    return Kind(row, name, happens, look(refused(status, words)), FREE, upstream=UPSTREAM, share=0.5, reaches=False)


def _good(row: str, name: str) -> Kind:
    return Kind(row, name, "the answer", look(passes()), EXACT, upstream=UPSTREAM, share=0.5)


async def _cut(turn: Turn) -> None:
    """Half a body whose end only the connection's end tells, and no farewell: somebody on the way may have cut it."""
    whole = message_of(turn.number, turn.protocol)
    await turn.bytes(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", whole[: len(whole) // 2])
    turn.wire.cut()


BY_SETTING: list[tuple[Kind, Setting]] = [
    (_good("U4", "a good certificate of the operator's own authority"), _open),
    (
        Kind(
            *("U11", "TLS ends without its farewell", "a body that breaks off", look(breaks_off(), is_stream=False)),
            *(ESTIMATED, _cut, UPSTREAM, 0.5),
        ),
        _open,
    ),
    (_kind("U1", "connection refused", 502, "connection refused", "connection refused"), _refused),
    (_kind("U2", "no answer to a SYN", 504, "did not accept a connection", "after the time for a connection"), _filled),
    (_kind("U4", "an expired certificate", 502, _UNTRUSTED, _UNTRUSTED), _expired),
    (_kind("U4", "a certificate of another name", 502, _UNTRUSTED, _UNTRUSTED), _other_name),
    (_kind("U4", "a certificate of an unknown authority", 502, _UNTRUSTED, _UNTRUSTED), _other_authority),
    (_kind("U4", "TLS 1.1 at most", 502, _HANDSHAKE, "the handshake failed"), _old_tls),
    (_kind("U4", "a handshake that is not answered", 504, "did not accept a connection"), _silent),
    (_kind("U4", "plain HTTP instead of TLS", 502, _HANDSHAKE, "the handshake failed"), _plain),
    (_kind("U4", "garbage instead of TLS", 502, _HANDSHAKE, "the handshake failed"), _garbage),
    (_kind("U4", "a reset in the handshake", 502, _HANDSHAKE, "the handshake failed"), _reset),
]
BY_NAME: list[tuple[Kind, Setting]] = [
    (_kind("U3", "the name does not exist", 502, "its name does not resolve", "its name does not resolve"), _names(3)),
    (_good("U3", "the name server fails, as the name was known before"), _names(2)),
    (_good("U3", "the name server is silent, as the name was known before"), _names(None)),
    (_good("U3", "the provider moves to another address"), _moved),
]


@asynccontextmanager
async def names_for_all(names: Names) -> AsyncIterator[None]:
    """The name server answers."""
    await names.start()
    try:
        yield
    finally:
        names.close()
