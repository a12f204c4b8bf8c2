"""The provider's side: how it is trusted, reached, and paid with our key."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from yarl import URL

from goproxy.config import Endpoint, Timeouts
from goproxy.core.outcome import Outcome
from goproxy.core.wire import Fault, Refusal
from goproxy.data_plane.bodies import Body
from goproxy.data_plane.deadlines import Deadlines
from goproxy.data_plane.reachability import why
from goproxy.data_plane.sending import Sending
from goproxy.data_plane.upstream_connection import Answer, AnswerBroken, UpstreamConnection
from goproxy.data_plane.upstream_pool import UpstreamPool
from goproxy.observe import RequestRecord, log

_SECRET = re.compile(r"[!-~]+")


class UnusableFile(Exception):
    """A file with a secret or a CA certificate cannot be used; the text says which and why, and quotes none of it."""


def read_secret(path: Path) -> str:
    """What stands in a file of secrets: the upstream's API key, or what we show to the backend.

    Raises:
        UnusableFile: there is none at `path`.
    """
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise UnusableFile(f"{path}: the secret cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        secret = ""
    if not _SECRET.fullmatch(secret):
        raise UnusableFile(f"{path}: holds no secret; expected one line of visible ASCII characters")
    return secret


def trust(ca_directory: Path) -> ssl.SSLContext:
    """TLS that trusts the system's authorities and those in `ca_directory`, should there be any.

    Raises:
        UnusableFile: a file there is no certificate.
    """
    context = ssl.create_default_context()
    for path in sorted(ca_directory.glob("*.pem")):
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise UnusableFile(f"{path}: no CA certificate can be read from it: {error.strerror or error}") from None
    return context


class Upstream:
    """One provider."""

    def __init__(self, name: str, secret: str, timeouts: Timeouts, tls: ssl.SSLContext) -> None:
        self.name = name
        self.timeouts = timeouts
        self._secret = secret
        self._tls = tls
        self._pools: dict[URL, UpstreamPool] = {}
        self._destinations: dict[str, _Destination] = {}

    def send(
        self,
        endpoint: Endpoint,
        target: str,
        fields: bytes,
        body: Body,
        deadlines: Deadlines,
        record: RequestRecord,
    ) -> Sending:
        """Send a request; what comes of it is for `answer` to tell.

        `target`: what comes after the endpoint's own path. `fields`: of the head, a line each. `body`: is dropped once
        it is sent.
        """
        destination = self._destination(endpoint)
        connection, sending = destination.pool.idle(), Sending(destination.pool.loop)
        head = destination.head(target, fields, len(body.data))
        if connection is None:
            connecting = self._connect_and_send(sending, endpoint, head, body, deadlines, record)
            sending.carried_by(asyncio.create_task(connecting).cancel)
        else:
            self._hand_over(sending, connection, head, body, deadlines)
        return sending

    async def answer(self, sending: Sending, endpoint: Endpoint, record: RequestRecord) -> Answer:
        """Wait for the head of an answer, which the caller must close.

        Raises:
            Refusal: there is no answer, or none that a client of ours should see.
        """
        try:
            answer = await sending.answer()
        except TimeoutError:
            self._tell("upstream does not answer", endpoint, record)
            record.outcome = Outcome.UPSTREAM_TIMEOUT
            raise Refusal(
                Fault.UPSTREAM_TIMEOUT,
                f"The upstream {self.name} did not begin to answer within "
                f"{min(self.timeouts.first_byte, self.timeouts.total):g} s.",
            ) from None
        except AnswerBroken as error:
            raise self._unreachable(error, endpoint, record) from None
        try:
            self._check(answer, endpoint, record)
        except Refusal:
            answer.close()
            raise
        return answer

    def answering(self, sending: Sending, endpoint: Endpoint, record: RequestRecord) -> asyncio.Task[Answer]:
        """`answer`, for who may give it up: cancelled, the request is given up, whatever came of it by then."""

        def give_up(task: asyncio.Task[Answer]) -> None:
            if task.cancelled():
                sending.give_up()

        task = asyncio.create_task(self.answer(sending, endpoint, record))
        task.add_done_callback(give_up)
        return task

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.close()

    async def _connect_and_send(
        self,
        sending: Sending,
        endpoint: Endpoint,
        head: bytes,
        body: Body,
        deadlines: Deadlines,
        record: RequestRecord,
    ) -> None:
        try:
            connection = await self._connect(endpoint, deadlines, record)
        except Exception as error:
            sending.failed(error)
        else:
            self._hand_over(sending, connection, head, body, deadlines)

    def _hand_over(
        self, sending: Sending, connection: UpstreamConnection, head: bytes, body: Body, deadlines: Deadlines
    ) -> None:
        connection.send(head, body, deadlines.for_answer(), sending)
        sending.is_handed_over = True
        sending.carried_by(connection.give_up)

    async def _connect(self, endpoint: Endpoint, deadlines: Deadlines, record: RequestRecord) -> UpstreamConnection:
        try:
            async with asyncio.timeout_at(deadlines.for_connection()):
                return await self._destination(endpoint).pool.connect()
        except TimeoutError:
            self._tell("upstream does not accept connections", endpoint, record)
            record.outcome = Outcome.UPSTREAM_UNREACHABLE
            raise Refusal(
                Fault.UPSTREAM_TIMEOUT,
                f"The upstream {self.name} did not accept a connection within "
                f"{self.timeouts.connect:g} s. Nothing was sent to it; try again later.",
            ) from None
        except OSError as error:
            raise self._unreachable(error, endpoint, record) from None

    def _destination(self, endpoint: Endpoint) -> _Destination:
        if endpoint.name not in self._destinations:
            url = URL(endpoint.base_url, encoded=True)
            if (origin := url.origin()) not in self._pools:
                self._pools[origin] = UpstreamPool(origin, self._tls)
            credential = endpoint.protocol.credential(self._secret)
            self._destinations[endpoint.name] = _Destination(self._pools[origin], url, credential)
        return self._destinations[endpoint.name]

    def _unreachable(self, error: Exception, endpoint: Endpoint, record: RequestRecord) -> Refusal:
        reason = why(error)
        self._tell("upstream cannot be reached", endpoint, record, reason=reason)
        record.outcome = Outcome.UPSTREAM_UNREACHABLE
        return Refusal(Fault.UPSTREAM_BROKEN, f"The upstream {self.name} cannot be reached: {reason}.")

    def _check(self, answer: Answer, endpoint: Endpoint, record: RequestRecord) -> None:
        record.upstream_status = answer.status
        record.upstream_request_id = answer.header("request-id") or answer.header("x-request-id")
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

    def _tell(self, event: str, endpoint: Endpoint, record: RequestRecord, **more: Any) -> None:
        log(
            event,
            level=logging.ERROR,
            upstream=self.name,
            endpoint=endpoint.name,
            host=URL(endpoint.base_url).host,
            request_id=record.request_id,
            **more,
        )


class _Destination:
    """Where an endpoint is: over which connections, and what every request to it begins with."""

    def __init__(self, pool: UpstreamPool, url: URL, credential: tuple[str, str]) -> None:
        self.pool = pool
        port = "" if url.is_default_port() else f":{url.explicit_port}"
        host = url.host_subcomponent or ""
        self._path = f"POST {url.raw_path}".encode()
        self._host = f" HTTP/1.1\r\nHost: {host}{port}\r\n".encode()
        self._credential = "{}: {}\r\n".format(*credential).encode()

    def head(self, target: str, fields: bytes, body_bytes: int) -> bytes:
        """The head of a request."""
        return b"%b%b%b%b%bContent-Length: %d\r\n\r\n" % (
            self._path,
            target.encode(),
            self._host,
            fields,
            self._credential,
            body_bytes,
        )


@asynccontextmanager
async def reach(name: str, secret: str, timeouts: Timeouts, tls: ssl.SSLContext) -> AsyncIterator[Upstream]:
    """Be ready to reach an upstream, until the end of the block."""
    upstream = Upstream(name, secret, timeouts, tls)
    try:
        yield upstream
    finally:
        upstream.close()
