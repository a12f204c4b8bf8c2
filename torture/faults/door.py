"""The way to a provider: its name, its port, its TLS; each of them can be wrong."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import trustme
from relayed.process import free_port

from tests.provider import Provider, Script

NAME = "provider.torture.test"
_DNS = ("127.0.0.53", 53)
_FOUND = 0


class Names:
    """A name server of one name."""

    def __init__(self) -> None:
        self.code: int | None = _FOUND
        """Of its answers; None: it does not answer."""
        self.address = "127.0.0.1"
        self._transport: asyncio.DatagramTransport

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: it may not, or somebody else does.
        """
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Resolving(self), local_addr=_DNS)

    def close(self) -> None:
        self._transport.close()

    def answer(self, query: bytes) -> bytes | None:
        """What is answered to a query."""
        if self.code is None:
            return None
        end = query.index(b"\0", 12) + 5
        question, kind = query[12:end], query[end - 4 : end - 2]
        has_address = self.code == _FOUND and kind == b"\0\x01"
        head = query[:2] + bytes([0x81, 0x80 | self.code]) + b"\0\x01" + bytes([0, has_address]) + b"\0\0\0\0"
        record = b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04" + socket.inet_aton(self.address)
        return head + question + (record if has_address else b"")


class _Resolving(asyncio.DatagramProtocol):
    def __init__(self, names: Names) -> None:
        self._names = names
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if answer := self._names.answer(data):
            self._transport.sendto(answer, addr)


class Door:
    """A port, and who is behind it at the moment."""

    def __init__(self, name: str, directory: Path, script: Script) -> None:
        self.name = name
        self.port = free_port()
        self.authority = trustme.CA()
        self.script = script
        self.provider = Provider()
        self._server: asyncio.Server | None = None
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        directory.mkdir(parents=True)
        self.authority.cert_pem.write_to_path(str(directory / "ca.pem"))

    @property
    def url(self) -> str:
        return f"https://{self.name}:{self.port}"

    def certificate(self, name: str = "", authority: trustme.CA | None = None, days: float = 10) -> ssl.SSLContext:
        """TLS with a certificate that holds for so many days."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        until = datetime.now(UTC) + timedelta(days=days)
        issued = (authority or self.authority).issue_cert(
            name or self.name, not_after=until, not_before=until - timedelta(days=90)
        )
        issued.configure_cert(context)
        return context

    def old_tls(self) -> ssl.SSLContext:
        """A good certificate, and no version that is safe."""
        context = self.certificate()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        return context

    async def open(self, tls: ssl.SSLContext, address: str = "127.0.0.1") -> None:
        """Somebody answers, with this certificate."""
        await self.shut()
        self.provider = Provider(port=self.port, script=self.script)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self.provider.serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._server = await asyncio.start_server(connected, address, self.port, ssl=tls)

    async def say(self, words: bytes | None, *, is_reset: bool = False) -> None:
        """Somebody says this instead of TLS; None: nothing at all."""
        await self.shut()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.read(1)
                if words is None and not is_reset:
                    await reader.read()
                elif words is not None:
                    writer.write(words)
            except ConnectionError:
                pass
            finally:
                if is_reset:
                    writer.transport.abort()
                writer.close()

        self._server = await asyncio.start_server(serve, "127.0.0.1", self.port)

    async def fill(self) -> None:
        """Nobody accepts: no answer comes to a SYN."""
        await self.shut()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0)
        self._sockets.append(listener)
        for _ in range(2):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", self.port))
            self._sockets.append(waiting)

    async def shut(self) -> None:
        """Nobody is there, and no connection is left."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.2)


@asynccontextmanager
async def a_door(name: str, directory: Path, script: Script) -> AsyncIterator[Door]:
    """One with nobody behind it."""
    door = Door(name, directory, script)
    try:
        yield door
    finally:
        await door.shut()
