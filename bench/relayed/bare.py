"""The least that a relay in Python can do: what a client sends goes to the provider, and what that sends to the client.

uvloop and httptools, and no more of HTTP than where a message ends. It checks nothing, reads no body, meters nothing
and survives no error: what it costs is what the interpreter, the event loop and the parser cost any relay.

    python bare.py PORT PROVIDER_PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import uvloop

_HOST = "127.0.0.1"


class ToProvider(asyncio.Protocol):
    """One connection to the provider: one request at a time."""

    def __init__(self, pool: list[ToProvider]) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._client: asyncio.Transport | None = None
        self._is_whole = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, client: asyncio.Transport) -> None:
        """Send a request; `client` gets the answer."""
        self._client = client
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        assert self._client is not None
        self._parser.feed_data(data)
        self._client.write(data)
        if self._is_whole:
            self._is_whole, self._client = False, None
            self._pool.append(self)

    def on_message_complete(self) -> None:
        self._is_whole = True


class ToClient(asyncio.Protocol):
    """One connection of a client: one request at a time."""

    def __init__(self, pool: list[ToProvider], provider_port: int) -> None:
        self._pool = pool
        self._provider_port = provider_port
        self._target = b""
        self._fields: list[bytes] = []
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self._parser = httptools.HttpRequestParser(self)  # now that there is an `on_body`
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append(b"%b: %b\r\n" % (name, value))

    def on_message_complete(self) -> None:
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (self._parser.get_method(), self._target, b"".join(self._fields))
        request = head + b"".join(self._body)
        self._fields.clear()
        self._body.clear()
        if self._pool:
            self._pool.pop().send(request, self._transport)
        else:
            self._connecting = asyncio.create_task(self._connect_and_send(request))

    async def _connect_and_send(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: ToProvider(self._pool), _HOST, self._provider_port)
        connection.send(request, self._transport)


async def _serve(port: int, provider_port: int) -> None:
    pool: list[ToProvider] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ToClient(pool, provider_port), _HOST, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
