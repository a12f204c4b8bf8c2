"""Attacks on the edge that are no smuggling: wrong names, weak TLS, spoofed addresses, slowness, floods, guessed keys.

Each is bounded in count and time, comes from an address of its own (127.0.0.9), and meets the limits per address as an
operator has them. Meanwhile an honest client at another address asks, and must be answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from h2.connection import H2Connection
from h2.events import ResponseReceived

from torture.deployment import DOMAINS, Deployment, deployed
from torture.smuggling.corpus import BODY
from torture.smuggling.record import Record, recording_provider

_log = logging.getLogger("torture")
_HOST, _OTHER = DOMAINS["openhands"], DOMAINS["ohmygpt"]
_ATTACKER = ("127.0.0.9", 0)
_LIMITS: Mapping[str, Any] = {"nginx_connections_per_address": 256, "nginx_requests_per_second": 50}
"""Those of the role."""

_PATIENCE = 20.0
_HEADER_SECONDS = 10.0
"""In which a head must have come, and some more until it is noticed."""

_SUITES = frozenset(
    f"ECDHE-{signed}-{suite}"
    for signed in ("ECDSA", "RSA")
    for suite in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
)
"""TLS 1.2, Mozilla's intermediate profile (guidelines 6.0)."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"x" * 8
_SETTINGS = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\xff\xff"
# :method GET, :scheme https, :path /, and an :authority, by the static table.
_BLOCK = b"\x82\x87\x84\x41" + bytes([len(_HOST)]) + _HOST.encode()


class _Stand:
    """What an attack has: the deployment, what came up, and an honest client's view."""

    def __init__(self, deployment: Deployment, record: Record, size: float) -> None:
        self.deployment = deployment
        self.record = record
        self.size = size
        self.failures: list[str] = []

    def many(self, number: int, least: int = 20) -> int:
        """So many at size 1."""
        return max(least, round(number * self.size))

    def fail(self, what: str) -> None:
        """Something that must not be."""
        self.failures.append(what)
        _log.warning("attacks: %s", what)

    async def open(
        self, *protocols: str, name: str = _HOST, address: tuple[str, int] | None = _ATTACKER
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the edge."""
        tls = self.deployment.tls(*(protocols or ("http/1.1",)))
        return await asyncio.open_connection(
            "127.0.0.1", self.deployment.edge_port, ssl=tls, server_hostname=name, local_addr=address
        )

    async def say(self, data: bytes, name: str = _HOST, address: tuple[str, int] | None = _ATTACKER) -> bytes:
        """Send, and read until the edge closes."""
        reader, writer = await self.open(name=name, address=address)
        try:
            async with asyncio.timeout(_PATIENCE):
                with suppress(OSError):
                    writer.write(data)
                    await writer.drain()
                with suppress(OSError):
                    return await reader.read(-1)
        finally:
            writer.transport.abort()
        return b""

    async def honest(self, number: int) -> None:
        """One request from another address."""
        target = f"/v1/messages?honest={number}"
        try:
            came = await self.say(_request(target, f"x-api-key: {self.deployment.key}"), address=None)
        except (OSError, TimeoutError) as error:
            self.fail(f"an honest client got {error!r}")
            return
        if not came.startswith(b"HTTP/1.1 200"):
            self.fail(f"an honest client got {came[:200]!r}")

    async def flood(self, data: bytes, times: int) -> None:
        """Write on one HTTP/2 connection as much as the edge takes."""
        reader, writer = await self.open("h2")
        try:
            async with asyncio.timeout(_PATIENCE):
                with suppress(OSError):
                    writer.write(_PREFACE)
                    for _ in range(times):
                        writer.write(data)
                        await writer.drain()
                    await asyncio.wait_for(reader.read(1), 1)
        except TimeoutError:
            pass
        finally:
            writer.transport.abort()


def _request(target: str, *headers: str, host: str = _HOST, body: bytes = BODY) -> bytes:
    lines = (
        f"POST {target} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        "Connection: close",
        *headers,
    )
    return "\r\n".join(lines).encode("latin-1") + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _status(came: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3})", came)
    return int(found[1]) if found else 0


async def wrong_names(stand: _Stand) -> None:
    """A Host that is not the SNI, and a SNI that nobody serves."""
    key = f"x-api-key: {stand.deployment.key}"
    for name, host in ((_HOST, _OTHER), (_OTHER, _HOST), (_HOST, "other.example.org"), (_HOST, "127.0.0.1")):
        came = await stand.say(_request("/v1/messages?misdirected", key, host=host), name)
        if _status(came) != 421 or stand.record.targets("misdirected"):
            stand.fail(f"{host} at a connection for {name}: {came[:100]!r}")
        if (status := await _status_over_h2(stand, name, host)) != 421:
            stand.fail(f"{host} over HTTP/2 at a connection for {name}: {status}")
    if (status := await _status_over_h2(stand, _HOST, _HOST)) != 200:
        stand.fail(f"an honest request over HTTP/2: {status}")
    tls = stand.deployment.tls()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    for name in ("other.example.org", ""):
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", stand.deployment.edge_port, ssl=tls, server_hostname=name, local_addr=_ATTACKER
            )
        except (ssl.SSLError, OSError):
            continue
        writer.transport.abort()
        stand.fail(f"a handshake for {name} was not refused")


async def _status_over_h2(stand: _Stand, name: str, authority: str) -> int:
    """What a request for `authority` gets on an HTTP/2 connection for `name`; 0: no answer."""
    reader, writer = await stand.open("h2", name=name)
    connection = H2Connection()
    connection.initiate_connection()
    asked = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": "/v1/models"}
    connection.send_headers(1, [*asked.items(), ("x-api-key", stand.deployment.key)], end_stream=True)
    try:
        async with asyncio.timeout(_PATIENCE):
            writer.write(connection.data_to_send())
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, ResponseReceived):
                        return int(dict(event.headers)[b":status"])
    finally:
        writer.transport.abort()
    return 0


async def weak_tls(stand: _Stand) -> None:
    """Old versions, and every suite that this OpenSSL has, one at a time: Mozilla's intermediate ones, or nothing."""

    async def is_taken(tls: ssl.SSLContext) -> bool:
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", stand.deployment.edge_port, ssl=tls, server_hostname=_HOST, local_addr=_ATTACKER
            )
        except (ssl.SSLError, OSError):
            return False
        writer.transport.abort()
        return True

    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        if await is_taken(_only(stand.deployment.tls(), version)):
            stand.fail(f"{version.name} is taken")
    known = _only(stand.deployment.tls(), ssl.TLSVersion.TLSv1_2).get_ciphers()
    suites = {each["name"] for each in known if "TLSv1.3" not in each["protocol"]}
    taken = {suite for suite in suites if await is_taken(_only(stand.deployment.tls(), ssl.TLSVersion.TLSv1_2, suite))}
    if weak := taken - _SUITES:
        stand.fail(f"suites that Mozilla's intermediate profile does not have: {weak}")
    if not taken & _SUITES or not await is_taken(_only(stand.deployment.tls(), ssl.TLSVersion.TLSv1_3)):
        stand.fail("not even good TLS is taken: the others may have been refused for another reason")


def _only(tls: ssl.SSLContext, version: ssl.TLSVersion, suites: str = "ALL:COMPLEMENTOFALL") -> ssl.SSLContext:
    """A client that this is all of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions, as is right
        tls.set_ciphers(f"{suites}:@SECLEVEL=0")
        tls.minimum_version = tls.maximum_version = version
    return tls


async def spoofed_addresses(stand: _Stand) -> None:
    """What a client says of its address goes nowhere, and gets nothing."""
    spoofed = "203.0.113.77"
    names = (
        *("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"),
        *("X-Client-IP", "True-Client-IP", "CF-Connecting-IP", "X-Original-URL", "X-Rewrite-URL", "Via"),
    )
    for name in names:
        value = "/v1/models" if "URL" in name else f"for={spoofed}" if name == "Forwarded" else spoofed
        came = await stand.say(
            _request("/v1/messages?spoofed", f"x-api-key: {stand.deployment.key}", f"{name}: {value}")
        )
        asked = stand.record.asked[-1]
        if _status(came) != 200 or "spoofed" not in asked.target:
            stand.fail(f"{name}: {came[:200]!r}")
        if name.startswith(("X-Forwarded", "X-Real", "Forwarded")) and asked.header(name.lower()):
            stand.fail(f"the provider was told {name}: {asked.header(name.lower())}")
    if spoofed in stand.deployment.processes["edge"].written():
        stand.fail("the edge logs an address that a client wrote")


async def slow_heads(stand: _Stand) -> None:
    """Heads that come byte by byte: each connection ends after seconds, and holds nobody else up."""

    async def one() -> None:
        reader, writer = await stand.open()
        began = asyncio.get_running_loop().time()
        ending = asyncio.create_task(reader.read(-1))
        try:
            for byte in _request("/v1/messages", "X-Slow: " + "y" * 400):
                if ending.done():
                    break
                with suppress(OSError):
                    writer.write(bytes([byte]))
                    await writer.drain()
                await asyncio.sleep(0.5)
                if asyncio.get_running_loop().time() - began > 2 * _HEADER_SECONDS:
                    stand.fail("a slow head was waited for")
                    break
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await ending

    await asyncio.gather(*(one() for _ in range(stand.many(150, 10))), return_exceptions=True)


async def oversized(stand: _Stand) -> None:
    """Heads, targets and bodies beyond the limits: refused at the edge, nothing goes up."""
    before = len(stand.record.targets("oversized"))
    key = f"x-api-key: {stand.deployment.key}"
    announced = f"POST /v1/messages?oversized HTTP/1.1\r\nHost: {_HOST}\r\n{key}\r\nContent-Length: 99999999999\r\n\r\n"
    for data, expected in (
        (_request("/v1/messages?oversized=" + "x" * 20_000, key), {400, 414}),
        (_request("/v1/messages?oversized", key, "X: " + "y" * 40_000), {400}),
        (_request("/v1/messages?oversized", key, *(f"X-{number}: {'y' * 100}" for number in range(1000))), {400}),
        (announced.encode(), {413}),
    ):
        came = await stand.say(data)
        # Closed with bytes unread, a connection may be reset before its answer is read.
        if _status(came) not in {*expected, 0}:
            stand.fail(f"an oversized request got {came[:100]!r}")
    if len(stand.record.targets("oversized")) != before:
        stand.fail("an oversized request reached the provider")


async def rapid_resets(stand: _Stand) -> None:
    """HTTP/2: streams that are opened and reset at once."""
    frames = b""
    for number in range(1, 400, 2):
        stream = number.to_bytes(4)
        frames += (
            len(_BLOCK).to_bytes(3)
            + b"\x01\x05"
            + stream
            + _BLOCK
            + b"\x00\x00\x04\x03\x00"
            + stream
            + b"\x00\x00\x00\x08"
        )
    await asyncio.gather(*(stand.flood(frames, 1) for _ in range(stand.many(300))))


async def endless_continuations(stand: _Stand) -> None:
    """HTTP/2: a head that never ends."""
    begin = len(_BLOCK).to_bytes(3) + b"\x01\x00" + (1).to_bytes(4) + _BLOCK
    more = (8000).to_bytes(3) + b"\x09\x00" + (1).to_bytes(4) + b"\x00\x01x\x7f\xbe\x3d" + b"y" * 7994
    await asyncio.gather(*(stand.flood(begin + more * 20, 10) for _ in range(stand.many(40, 5))))


async def pings_and_settings(stand: _Stand) -> None:
    """HTTP/2: frames that each want an answer."""
    await asyncio.gather(
        *(stand.flood(frame * 1000, 20) for frame in (_PING, _SETTINGS) for _ in range(stand.many(10, 2)))
    )


async def guessed_keys(stand: _Stand) -> None:
    """Keys by the thousand from one address: 401, then 429; nothing goes up, and honest clients are served."""
    before = len(stand.record.targets("guess"))
    free = asyncio.Semaphore(20)
    statuses: dict[int, int] = {}

    async def one(number: int) -> None:
        async with free:
            key = stand.deployment.key[:-8] + f"{number:08}"
            came = await stand.say(_request("/v1/messages?guess", f"x-api-key: {key}"))
            statuses[_status(came)] = statuses.get(_status(came), 0) + 1
            if _status(came) in (401, 429) and not isinstance(json.loads(came.partition(b"\r\n\r\n")[2]), dict):
                stand.fail("a refusal that is not JSON")

    await asyncio.gather(*map(one, range(stand.many(3000, 400))))
    if not statuses.keys() <= {401, 429} or len(stand.record.targets("guess")) != before:
        stand.fail(f"guessed keys got {statuses}")


ATTACKS: Sequence[Callable[[_Stand], Coroutine[Any, Any, None]]] = (
    wrong_names,
    weak_tls,
    spoofed_addresses,
    oversized,
    rapid_resets,
    endless_continuations,
    pings_and_settings,
    guessed_keys,
    slow_heads,
)


async def _measure(size: float, scratch: Path) -> tuple[int, list[str]]:
    honest = 0
    async with recording_provider() as record:
        with deployed(scratch / "attacks", record.url, **_LIMITS) as deployment:
            stand = _Stand(deployment, record, size)
            for attack in ATTACKS:
                running = asyncio.create_task(attack(stand))
                while not running.done():
                    honest += 1
                    await stand.honest(honest)
                    await asyncio.sleep(0.1)
                await running
            for name, process in deployment.processes.items():
                if not process.is_alive:
                    stand.fail(f"{name} has ended")
            if "exited on signal" in deployment.processes["edge"].written():
                stand.fail("a worker of the edge has fallen")
    return honest, stand.failures


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Attack in every way, one after the other."""
    honest, failures = asyncio.run(_measure(size, scratch))
    return {"attacks.kinds": len(ATTACKS), "attacks.honest_requests": honest, "attacks.failures": len(failures)}
