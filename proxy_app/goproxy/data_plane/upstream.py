"""The provider's side: how it is trusted, reached, paid with our key, and how long it may take."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import aiohttp
from aiohttp import hdrs
from yarl import URL

from goproxy.config import Endpoint, Timeouts
from goproxy.core.headers import Headers
from goproxy.core.wire import Fault, Refusal
from goproxy.data_plane.reachability import why
from goproxy.observe import Outcome, RequestRecord, log

_READ_BUFFER = 64 * 1024
"""aiohttp stops reading from the upstream when twice this much waits for the client."""

_PIECE = 256 * 1024
"""Bytes of a body that are written at once; a larger one waits for the upstream to take each piece."""

_HEADER_LINE = 64 * 1024
"""Bytes in a header line of an answer; aiohttp's own 8 KiB are less than what some gateways put into one."""

_KEPT_ALIVE = 15.0
"""Seconds an idle connection is kept: well below what providers' load balancers allow, so that a request seldom meets
a connection that is just being closed. (A POST that met one is not repeated: the upstream may have run it.)"""

_SECRET = re.compile(r"[!-~]+")

_ADDED_BY_AIOHTTP = (hdrs.ACCEPT, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)


class UnusableSecret(Exception):
    """The upstream's key or a CA file cannot be used; the text says which and why, and quotes neither."""


def read_secret(path: Path) -> str:
    """What stands in a file of secrets: the upstream's API key, or what we show to the backend.

    Raises:
        UnusableSecret: there is none at `path`.
    """
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise UnusableSecret(f"{path}: the secret cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        secret = ""
    if not _SECRET.fullmatch(secret):
        raise UnusableSecret(f"{path}: holds no secret; expected one line of visible ASCII characters")
    return secret


def trust(ca_directory: Path) -> ssl.SSLContext:
    """TLS that trusts the system's authorities and those in `ca_directory`, should there be any.

    Raises:
        UnusableSecret: a file there is no certificate.
    """
    context = ssl.create_default_context()
    for path in sorted(ca_directory.glob("*.pem")):
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise UnusableSecret(f"{path}: no CA certificate can be read from it: {error.strerror or error}") from None
    return context


class Patience:
    """How much longer one exchange may wait. All points in time are on the event loop's clock."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self._now = asyncio.get_running_loop().time
        self._first_byte = self._now() + timeouts.first_byte
        self._total = self._now() + timeouts.total

    def for_connection(self) -> float:
        """Until when all must be over, while aiohttp limits the connecting itself."""
        return self._total

    def for_answer(self) -> float:
        """The request has just been sent: until when its answer must have begun."""
        self._first_byte = self._now() + self.timeouts.first_byte
        return min(self._first_byte, self._total)

    def for_piece(self, *, first: bool) -> float:
        """Until when the next piece of the answer must be there."""
        idle = self._now() + self.timeouts.idle
        return min(max(idle, self._first_byte) if first else idle, self._total)

    def for_client(self) -> float:
        """Until when the client must have taken a piece."""
        return min(self._now() + self.timeouts.idle, self._total)

    def is_over(self) -> bool:
        """Whether the exchange has had all the time that there is."""
        return self._now() >= self._total


class Upstream:
    """One provider, reached over one pool of connections."""

    def __init__(self, name: str, secret: str, timeouts: Timeouts, session: aiohttp.ClientSession) -> None:
        self.name = name
        self.timeouts = timeouts
        self._secret = secret
        self._session = session

    def credential(self, endpoint: Endpoint) -> tuple[str, str]:
        """The header that pays at this endpoint."""
        return endpoint.protocol.credential(self._secret)

    async def send(
        self,
        endpoint: Endpoint,
        target: URL,
        headers: Headers,
        body: bytes,
        patience: Patience,
        record: RequestRecord,
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of its answer, which the caller must close.

        Raises:
            Refusal: there is no answer, or none that a client of ours should see.
        """
        try:
            async with asyncio.timeout_at(patience.for_connection()) as limit:
                answer = await self._session.post(
                    target,
                    headers=[*headers, ("Content-Length", str(len(body)))],
                    data=body if len(body) <= _PIECE else _in_pieces(body),
                    skip_auto_headers=_ADDED_BY_AIOHTTP,
                    allow_redirects=False,
                    trace_request_ctx=(limit, patience),
                )
        except aiohttp.ConnectionTimeoutError:
            self._tell("upstream does not accept connections", endpoint, record)
            record.outcome = Outcome.UPSTREAM_UNREACHABLE
            raise Refusal(
                Fault.UPSTREAM_TIMEOUT,
                f"The upstream {self.name} did not accept a connection within "
                f"{self.timeouts.connect:g} s. Nothing was sent to it; try again later.",
            ) from None
        except TimeoutError:
            self._tell("upstream does not answer", endpoint, record)
            record.outcome = Outcome.UPSTREAM_TIMEOUT
            raise Refusal(
                Fault.UPSTREAM_TIMEOUT,
                f"The upstream {self.name} did not begin to answer within "
                f"{min(self.timeouts.first_byte, self.timeouts.total):g} s.",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = why(error)
            self._tell("upstream cannot be reached", endpoint, record, reason=reason)
            record.outcome = Outcome.UPSTREAM_UNREACHABLE
            raise Refusal(Fault.UPSTREAM_BROKEN, f"The upstream {self.name} cannot be reached: {reason}.") from None
        try:
            self._check(answer, endpoint, record)
        except Refusal:
            answer.close()
            raise
        return answer

    def _check(self, answer: aiohttp.ClientResponse, endpoint: Endpoint, record: RequestRecord) -> None:
        record.upstream_status = answer.status
        record.upstream_request_id = answer.headers.get("request-id") or answer.headers.get("x-request-id")
        record.outcome = Outcome.UPSTREAM_ERROR
        if answer.status in (401, 402, 403):
            self._tell("upstream refuses our key", endpoint, record, status=answer.status)
            raise Refusal(
                Fault.UPSTREAM_REFUSED_US,
                f"The upstream {self.name} does not accept this gateway's own credentials. "
                "Your API key is fine; the gateway's operator has to act.",
            )
        if not (200 <= answer.status < 300 or answer.status >= 400):
            self._tell("upstream answers with a redirect", endpoint, record, status=answer.status)
            raise Refusal(
                Fault.UPSTREAM_BROKEN,
                f"The upstream {self.name} answered with status {answer.status}, which is not followed.",
            )
        if answer.ok:
            record.outcome = Outcome.OK

    def _tell(self, event: str, endpoint: Endpoint, record: RequestRecord, **more: object) -> None:
        log(
            event,
            level=logging.ERROR,
            upstream=self.name,
            endpoint=endpoint.name,
            host=URL(endpoint.base_url).host,
            request_id=record.request_id,
            **more,
        )


@asynccontextmanager
async def reach(name: str, secret: str, timeouts: Timeouts, tls: ssl.SSLContext) -> AsyncIterator[Upstream]:
    """Open the pool of connections to an upstream."""
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_sent)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, limit=0, keepalive_timeout=_KEPT_ALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect),
        trace_configs=[tracing],
        auto_decompress=False,
        read_bufsize=_READ_BUFFER,
        max_line_size=_HEADER_LINE,
        max_field_size=_HEADER_LINE,
    ) as session:
        yield Upstream(name, secret, timeouts, session)


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), _PIECE):
        yield body[at : at + _PIECE]


async def _sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    """The connection stands and the request's head is on its way: from here on the first byte is waited for."""
    limit, patience = context.trace_request_ctx
    limit.reschedule(patience.for_answer())
