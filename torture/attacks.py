"""Attacks on the edge that are no smuggling: wrong names, weak TLS, spoofed addresses, slowness, floods, guessed keys.

Each is bounded in count and time, comes from an address of its own (127.0.0.9), and meets the limits per address as an
operator has them. Meanwhile an honest client at another address asks, must be answered, and must not wait many times
as long as it did before the first attack.

An attack that does not get through is none: of the slow and of the floods it is counted what the edge took, and how
each connection ended, and too little of it is a failure.
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
from dataclasses import dataclass
from pathlib import Path
from statistics import median
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

_RESETS = 10
"""So often may the answer to one and the same request be lost."""

_CALM = 40
"""Honest requests before the first attack, with which those during the attacks are compared."""

_FEW = 5
"""Honest requests during an attack: by fewer, nothing is said of how long they take."""

_SLOWDOWN = 100.0
"""So many times as long as in calm may half of the honest requests take while an attack goes on. The attackers, their
victims and the honest client share the same cores, so that some of it is the attackers' own work."""

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


@dataclass
class _Ended:
    """What one attacking connection came to."""

    served: bool = False
    """The edge has taken it: a handshake, and for HTTP/2 its own first frames."""
    sent: int = 0
    """Bytes of the attack that were taken off our hands."""
    seconds: float = 0.0
    by_edge: bool = False
    """It was the edge that ended it."""


class _Stand:
    """What an attack has: the deployment, what came up, and an honest client's view."""

    def __init__(self, deployment: Deployment, record: Record, size: float) -> None:
        self.deployment = deployment
        self.record = record
        self.size = size
        self.failures: list[str] = []
        self.ended: list[_Ended] = []
        """Of all attacks."""

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
        """Send, and read until the edge closes, be it by a reset."""
        reader, writer = await self.open(name=name, address=address)
        came = b""
        try:
            async with asyncio.timeout(_PATIENCE):
                with suppress(OSError):
                    writer.write(data)
                    await writer.drain()
                with suppress(OSError):
                    while more := await reader.read(65536):
                        came += more
        finally:
            writer.transport.abort()
        return came

    async def honest(self, number: int) -> float | None:
        """One request from another address: the seconds that it took, if it was answered as it should be."""
        target = f"/v1/messages?beta=honest-{number}"
        began = asyncio.get_running_loop().time()
        try:
            came = await self.say(_request(target, f"x-api-key: {self.deployment.key}"), address=None)
        except (OSError, TimeoutError) as error:
            self.fail(f"an honest client got {error!r}")
            return None
        if not came.startswith(b"HTTP/1.1 200"):
            self.fail(f"an honest client got {came[:200]!r}")
            return None
        return asyncio.get_running_loop().time() - began

    async def flood(self, data: bytes, times: int) -> _Ended:
        """Write on one HTTP/2 connection as much as the edge takes."""
        ended = _Ended()
        try:
            reader, writer = await self.open("h2")
        except OSError:
            return ended
        writer.transport.set_write_buffer_limits(0)
        reading: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
                writer.write(_PREFACE)
                ended.served = bool(await reader.read(1))
                reading = asyncio.create_task(_read_on(reader))
                for _ in range(times):
                    writer.write(data)
                    await writer.drain()
                    ended.sent += len(data)
                await asyncio.wait_for(asyncio.shield(reading), 1)
                ended.by_edge = True
        except OSError:
            ended.by_edge = True
        except TimeoutError:
            pass
        finally:
            writer.transport.abort()
            if reading is not None:
                await reading
        return ended

    def must_have_got_through(self, attack: str, least: int, seconds: float, ended: Sequence[_Ended]) -> None:
        """Nine in ten were taken, and the half of these sent and lasted as long as they must to be an attack."""
        self.ended += ended
        served = [each for each in ended if each.served]
        if len(served) < 0.9 * len(ended):
            self.fail(f"{attack}: {len(served)} of {len(ended)} connections were taken: this was no attack")
        elif median(each.sent for each in served) < least:
            self.fail(f"{attack}: half of the connections took fewer than {least} bytes: this was no attack")
        elif median(each.seconds for each in served) < seconds:
            self.fail(f"{attack}: half of the connections were over within {seconds:.0f} s: this was no attack")


async def _read_on(reader: asyncio.StreamReader) -> None:
    """Until the connection ends."""
    with suppress(OSError):
        while await reader.read(65536):
            pass


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
        came = await stand.say(_request("/v1/messages?beta=misdirected", key, host=host), name)
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
        query = f"beta=spoofed-{name}"
        came = await stand.say(
            _request(f"/v1/messages?{query}", f"x-api-key: {stand.deployment.key}", f"{name}: {value}")
        )
        asked = [one for one in stand.record.asked if one.target.endswith(query)]  # the honest client asks, too
        if _status(came) != 200 or len(asked) != 1:
            stand.fail(f"{name}: asked {len(asked)} times, {came[:200]!r}")
        elif name.startswith(("X-Forwarded", "X-Real", "Forwarded")) and (told := asked[0].header(name.lower())):
            stand.fail(f"the provider was told {name}: {told}")
    if spoofed in stand.deployment.processes["edge"].written():
        stand.fail("the edge logs an address that a client wrote")


async def slow_heads(stand: _Stand) -> None:
    """Heads that come byte by byte: each connection ends after seconds, and holds nobody else up."""

    async def one() -> _Ended:
        ended = _Ended()
        try:
            reader, writer = await stand.open()
        except OSError:
            return ended
        ended.served = True
        began = asyncio.get_running_loop().time()
        reading = asyncio.create_task(_read_on(reader))
        try:
            for byte in _request("/v1/messages", "X-Slow: " + "y" * 400):
                writer.write(bytes([byte]))
                await writer.drain()
                ended.sent += 1
                await asyncio.sleep(0.5)
                ended.seconds = asyncio.get_running_loop().time() - began
                if reading.done():
                    ended.by_edge = True
                    break
                if ended.seconds > 2 * _HEADER_SECONDS:
                    stand.fail("a slow head was waited for")
                    break
        except OSError:
            ended.by_edge = True
        finally:
            writer.transport.abort()
            await reading
        return ended

    ended = await asyncio.gather(*(one() for _ in range(stand.many(150, 10))))
    stand.must_have_got_through("slow heads", 5, _HEADER_SECONDS / 2, ended)


async def oversized(stand: _Stand) -> None:
    """Heads, targets and bodies beyond the limits: refused at the edge, nothing goes up."""
    path = "/v1/messages?beta=oversized"
    before = len(stand.record.targets("oversized"))
    key = f"x-api-key: {stand.deployment.key}"
    announced = f"POST {path} HTTP/1.1\r\nHost: {_HOST}\r\n{key}\r\nContent-Length: 99999999999\r\n\r\n"
    for data, expected in (
        (_request(path + "x" * 20_000, key), {400, 414}),
        (_request(path, key, "X: " + "y" * 40_000), {400}),
        (_request(path, key, *(f"X-{number}: {'y' * 100}" for number in range(1000))), {400}),
        (announced.encode(), {413}),
    ):
        for _ in range(_RESETS):
            came = await stand.say(data)
            # Closed with bytes unread, a connection may be reset before its answer is read.
            if came:
                break
        if _status(came) not in expected:
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
    ended = await asyncio.gather(*(stand.flood(frames, 1) for _ in range(stand.many(300))))
    stand.must_have_got_through("rapid resets", len(frames), 0, ended)


async def endless_continuations(stand: _Stand) -> None:
    """HTTP/2: a head that never ends."""
    begin = len(_BLOCK).to_bytes(3) + b"\x01\x00" + (1).to_bytes(4) + _BLOCK
    more = (8000).to_bytes(3) + b"\x09\x00" + (1).to_bytes(4) + b"\x00\x01x\x7f\xbe\x3d" + b"y" * 7994
    # By single frames, for the edge ends it soon, and what it took until then is to be counted.
    ended = await asyncio.gather(*(stand.flood(begin + more, 200) for _ in range(stand.many(40, 5))))
    stand.must_have_got_through("endless continuations", 2 * len(more), 0, ended)


async def pings_and_settings(stand: _Stand) -> None:
    """HTTP/2: frames that each want an answer."""
    ended = await asyncio.gather(
        *(stand.flood(frame * 1000, 20) for frame in (_PING, _SETTINGS) for _ in range(stand.many(10, 2)))
    )
    stand.must_have_got_through("pings and settings", 1000 * len(_SETTINGS), 0, ended)


async def guessed_keys(stand: _Stand) -> None:
    """Keys by the thousand from one address: 401, then 429; nothing goes up, and honest clients are served."""
    before = len(stand.record.targets("guess"))
    free = asyncio.Semaphore(20)
    statuses: dict[int, int] = {}

    async def one(number: int) -> None:
        async with free:
            key = stand.deployment.key[:-8] + f"{number:08}"
            came = await stand.say(_request("/v1/messages?beta=guess", f"x-api-key: {key}"))
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


async def _meanwhile(stand: _Stand, attack: Coroutine[Any, Any, None]) -> list[float]:
    """Attack; the seconds that the honest client's requests took meanwhile."""
    seconds: list[float | None] = []
    running = asyncio.create_task(attack)
    while not running.done():
        seconds.append(await stand.honest(len(seconds)))
        await asyncio.sleep(0.1)
    await running
    return [each for each in seconds if each is not None]


async def _measure(size: float, scratch: Path) -> tuple[_Stand, Mapping[str, int | float]]:
    slowest, honest = 1.0, 0
    async with recording_provider() as record:
        with deployed(scratch / "attacks", record.url, **_LIMITS) as deployment:
            stand = _Stand(deployment, record, size)
            calm = await _meanwhile(stand, asyncio.sleep(_CALM * 0.1))
            for attack in ATTACKS:
                seconds = await _meanwhile(stand, attack(stand))
                honest += len(seconds)
                if len(seconds) < _FEW or not calm:
                    continue
                slower = median(seconds) / median(calm)
                slowest = max(slowest, slower)
                if slower > _SLOWDOWN:
                    stand.fail(f"{attack.__name__}: honest clients wait {slower:.0f} times as long as in calm")
            for name, process in deployment.processes.items():
                if not process.is_alive:
                    stand.fail(f"{name} has ended")
            if "exited on signal" in deployment.processes["edge"].written():
                stand.fail("a worker of the edge has fallen")
    return stand, {
        "attacks.honest_requests": honest,
        "attacks.honest_ms_calm": round(1000 * median(calm), 1) if calm else 0,
        "attacks.honest_slowdown": round(slowest, 1),
    }


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Attack in every way, one after the other."""
    stand, honest = asyncio.run(_measure(size, scratch))
    return {
        "attacks.kinds": len(ATTACKS),
        "attacks.connections": sum(each.served for each in stand.ended),
        "attacks.refused_connections": sum(not each.served for each in stand.ended),
        "attacks.connections_ended_by_edge": sum(each.by_edge for each in stand.ended),
        "attacks.sent_kib": round(sum(each.sent for each in stand.ended) / 1024),
        **honest,
        "attacks.failures": len(stand.failures),
    }
