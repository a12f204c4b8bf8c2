"""HTTP to the admin API, for the command line: one question, one answer, and a refusal in its own words."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, urlencode, urlsplit

_SECONDS = 600.0
"""For an answer, but not of what takes as long as the store is large: see `AdminClient.send`."""

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""A host that has gone without a word is given up after a minute and a half, however long its answer may take."""

_NO_OPERATOR = (
    "what was shown is not the operator's, which is gateway_operator_token in the inventory; "
    "one that was changed there holds after site.yml"
)


class AdminError(Exception):
    """What was asked was not done; the text says why."""


class AnswerLost(AdminError):
    """Whether it was done is not known; the text says why."""


class AdminClient:
    """The admin API at a URL, with the operator's token."""

    def __init__(self, url: str, token: str) -> None:
        """Connect with the first question.

        Raises:
            AdminError: this is no URL, or no token, or the token would be sent in clear to wherever that is.
        """
        self._url = backend_url(url)
        if self._url.scheme == "http" and not _is_near(self._url.hostname or ""):
            raise AdminError(
                f"{url!r}: the operator token would be sent in clear; nothing was sent. Give the URL with https "
                "(http is for 127.0.0.1, and for names without a dot, such as http://backend:8000)"
            )
        if not token or not token.isascii() or not token.isprintable():
            raise AdminError("this is no operator token: one is printable ASCII")
        self._token = token

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """Ask for a document."""
        return self._document("GET", path, query)

    def post(
        self,
        path: str,
        document: Any = None,
        query: Mapping[str, Any] | None = None,
        seconds: float | None = _SECONDS,
    ) -> Any:
        """Have something done; the answer's document. `seconds` is for it to come, None: whenever it does."""
        body = None if document is None else json.dumps(document).encode()
        return self._document("POST", path, query, body, "application/json", seconds)

    def send(self, path: str, file: IO[bytes], media_type: str, query: Mapping[str, Any]) -> Any:
        """Send a file; the answer's document, whenever it comes: what is done with a file may be hours of work."""
        return self._document("POST", path, query, file, media_type, None)

    def receive(self, path: str, file: IO[bytes], media_type: str) -> None:
        """Fetch what is no document, whenever it comes."""
        connection, answer = self._ask("GET", path, None, None, None, None)
        try:
            if (given := answer.headers.get_content_type()) != media_type:
                raise AdminError(f"{self._url.geturl()}: not the backend: its answer is {given}, not {media_type}")
            shutil.copyfileobj(answer, file)
            if answer.length:
                raise AdminError(f"{path}: the answer broke off")
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(f"{path}: the answer broke off: {error}") from None
        finally:
            connection.close()

    def _document(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: bytes | IO[bytes] | None = None,
        media_type: str | None = None,
        seconds: float | None = _SECONDS,
    ) -> Any:
        connection, answer = self._ask(method, path, query, body, media_type, seconds)
        try:
            return json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AnswerLost(f"{path}: no answer that can be read: {error}") from None
        finally:
            connection.close()

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: bytes | IO[bytes] | None,
        media_type: str | None,
        seconds: float | None,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{self._url.path.rstrip('/')}/admin/v1{path}" + (f"?{urlencode(asked)}" if asked else "")
        headers = {"Authorization": f"Bearer {self._token}"}
        if body is not None and media_type is not None:
            headers["Content-Type"] = media_type
        connection = self._connection()
        try:
            connection.connect()
            _keep_alive(connection.sock, seconds)
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            if 200 <= answer.status < 300:
                return connection, answer
            refusal = answer.read(64 * 1024)
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # UnicodeError: of a name that is none
            connection.close()
            raise AnswerLost(f"{self._url.geturl()}: no answer: {error}") from None
        connection.close()
        if 300 <= answer.status < 400:
            raise AdminError(f"{self._url.geturl()}: {_redirection(answer)}")
        if answer.status == 401:
            raise AdminError(f"{_refusal_text(answer.status, refusal)}: {_NO_OPERATOR}")
        if answer.status >= 500:  # from the backend, or from what stands before it and did not hear its answer
            raise AnswerLost(_refusal_text(answer.status, refusal))
        raise AdminError(_refusal_text(answer.status, refusal))

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=_SECONDS)


def _keep_alive(connected: socket.socket, seconds: float | None) -> None:
    connected.settimeout(seconds)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not everywhere that an operator may sit
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def backend_url(text: str) -> SplitResult:
    """Where the backend is: http or https, a host, and perhaps a port and a path; what is not sent there is refused.

    Raises:
        AdminError: this is no such URL.
    """
    try:
        url = urlsplit(text)
        host = (url.hostname or "").encode("idna")  # no label of it is too long
        is_one = url.scheme in ("http", "https") and host and url.port != 0 and text.isprintable()
    except ValueError:
        is_one = False
    if not is_one or any(each in text for each in "@?#\\ "):
        shown = text.rpartition("@")[2]  # before it there may be a password
        raise AdminError(f"{shown!r}: expected the backend's URL, such as http://127.0.0.1:8000")
    return url


def _is_near(host: str) -> bool:
    """Whether a host is this machine, or a container of its Docker network: those have names without a dot."""
    name = host.encode("idna").decode()
    try:
        # What the resolver takes for an address is one: 2130706433 and 127.1 are 127.0.0.1, and 134744072 is 8.8.8.8.
        return IPv4Address(socket.inet_aton(name)).is_loopback
    except OSError:
        pass
    try:
        return IPv6Address(name).is_loopback
    except ValueError:
        return "." not in name and ":" not in name


def read_token(path: Path) -> str:
    """The operator's token from its file.

    Raises:
        AdminError: it cannot be read, or has none.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise AdminError(f"{path}: the operator token cannot be read: {reason}") from None
    if not token:
        raise AdminError(f"{path}: there is no operator token in it")
    return token


def _redirection(answer: http.client.HTTPResponse) -> str:
    where = repr(answer.headers.get("Location", "nowhere"))
    return f"not the backend: it redirects to {where} (status {answer.status}); give the backend's own URL, with https"


def _refusal_text(status: int, refusal: bytes) -> str:
    try:
        return f"{json.loads(refusal)['error']['message']} (status {status})"
    except (ValueError, TypeError, KeyError):
        return f"status {status}"
