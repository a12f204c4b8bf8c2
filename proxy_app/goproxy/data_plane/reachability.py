"""Can the upstream be reached from here, as requests would: name, connection, TLS. And in a few words: why not."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass

from yarl import URL

from goproxy.config import Config, Endpoint
from goproxy.data_plane.upstream_connection import InvalidAnswer, NoAnswer
from goproxy.data_plane.upstream_pool import UpstreamPool


@dataclass(frozen=True, slots=True)
class Reach:
    """What came of trying one endpoint."""

    endpoint: str
    host: str
    port: int
    reachable: bool
    detail: str


async def try_endpoints(config: Config, tls: ssl.SSLContext) -> list[Reach]:
    """Try every endpoint of the configuration, without sending a request."""
    attempts = (_try(endpoint, config, tls) for endpoint in config.endpoints.values())
    return list(await asyncio.gather(*attempts))


async def _try(endpoint: Endpoint, config: Config, tls: ssl.SSLContext) -> Reach:
    origin = URL(endpoint.base_url, encoded=True).origin()
    host, port = origin.raw_host or "", origin.port or 0
    pool = UpstreamPool(origin, tls)
    try:
        async with asyncio.timeout(config.timeouts.connect):
            connection = await pool.connect()
    except (OSError, TimeoutError, ValueError) as error:
        return Reach(endpoint.name, host, port, False, why(error))
    detail = f"connected, {connection.tls_version or 'without TLS'}"
    pool.close()  # no TLS farewell to wait for: there was no conversation
    return Reach(endpoint.name, host, port, True, detail)


def why(error: BaseException) -> str:
    """A failed connection in a few words, without addresses and without a library's vocabulary."""
    match error:
        case socket.gaierror():
            return "its name does not resolve"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
        case ssl.SSLError():
            return f"the TLS handshake failed ({getattr(error, 'reason', None) or 'no reason given'})"
        case TimeoutError():
            return "no connection in time"
        case ConnectionRefusedError():
            return "connection refused"
        case NoAnswer() | ConnectionResetError():
            return "it closed the connection without an answer"
        case InvalidAnswer():
            return "its answer is not valid HTTP"
        case OSError() if error.errno:
            return os.strerror(error.errno).lower()
        case OSError():  # asyncio's sum of what happened at several addresses
            return "none of its addresses accepts a connection"
        case _:
            return type(error).__name__
