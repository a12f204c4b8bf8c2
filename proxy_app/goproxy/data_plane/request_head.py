"""What follows from the head of a request, whoever read it. The head itself, with the client's key, is not kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from goproxy.core.headers import Headers, UnsendableHeader, to_upstream
from goproxy.core.keys import digest

CONTENT_LENGTH = r"0|[1-9][0-9]{0,7}"
"""What the Content-Length of a plain request is: in the one way that all read alike, of eight digits at most."""

_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What must be known of a head to serve its request."""

    query: str
    """With its question mark; empty if there is none."""

    keys: frozenset[str]
    """The digests of the keys that it shows. Clients configured twice (a key and a token) send two headers."""

    is_packed: bool
    """The body is compressed."""

    fields: bytes
    """What of it the upstream gets, a line each."""

    unsendable: str | None
    """The name of a field that the upstream should get and cannot."""

    @classmethod
    def of(cls, query: str, headers: Headers) -> RequestHead:
        """What follows from these."""
        fields, unsendable = b"", None
        try:
            fields = "".join(f"{name}: {value}\r\n" for name, value in to_upstream(headers)).encode()
        except UnsendableHeader as error:
            unsendable = str(error)
        return cls(
            query=query,
            keys=frozenset(digest(key) for key in _shown(headers) if key),
            is_packed=any(
                name.lower() == "content-encoding" and value.lower() != "identity" for name, value in headers
            ),
            fields=fields,
            unsendable=unsendable,
        )


def _shown(headers: Headers) -> Iterator[str]:
    keys = [value for name, value in headers if name.lower() == "x-api-key"]
    bearers = [value for name, value in headers if name.lower() == "authorization"]
    if len(keys) > 1 or len(bearers) > 1:
        return
    tokens = [value[len(_BEARER) :] for value in bearers if value[: len(_BEARER)].lower() == _BEARER]
    yield from (key.strip() for key in (*keys, *tokens))
