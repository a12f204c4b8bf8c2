"""Which headers pass, in each direction. Everything passes unless a rule here says why it must not.

Hop-by-hop headers: RFC 9110, 7.6.1 (and what `Connection` names). `Content-Length` is hop-by-hop here on the way up
only: the body is sent whole, so the client of the next hop counts it itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

Headers = list[tuple[str, str]]

WITHOUT_BODY = frozenset({204, 304})
"""The statuses (of those that end a request) whose answers have no body, whatever their headers say (RFC 9112, 6.3)."""

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_NOT_UP = frozenset(
    {
        "accept-encoding",  # asked as identity: what is relayed must be readable on its way
        "authorization",  # the client's key is ours to check, and no business of the upstream's
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "x-api-key",
        "x-real-ip",
    }
)
_NOT_UP_PREFIXES = ("x-forwarded-",)

_NOT_DOWN = frozenset(
    {
        "anthropic-organization-id",  # the operator's account, not the client's; so are the rate limits
        "openai-organization",
        "openai-project",
        "request-id",  # ours takes the place of the upstream's, which is logged
        "server",
        "set-cookie",
        "x-request-id",
    }
)
_NOT_DOWN_PREFIXES = ("anthropic-ratelimit-", "x-ratelimit-")

_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes that were not UTF-8 (they arrive as lone surrogates)."""


class UnsendableHeader(Exception):
    """A header holds bytes that must not be passed on; the text is the header's name."""


def to_upstream(headers: Iterable[tuple[str, str]]) -> Headers:
    """The request's headers as the upstream gets them, but for the credential, which is the upstream's own.

    Raises:
        UnsendableHeader: a header that should pass cannot.
    """
    passed = _passing(headers, _NOT_UP, _NOT_UP_PREFIXES)
    for name, value in passed:
        if _UNSENDABLE.search(name + value):
            raise UnsendableHeader(_UNSENDABLE.sub("?", name))
    return [*passed, ("Accept-Encoding", "identity")]


def to_client(headers: Iterable[tuple[str, str]]) -> Headers:
    """The answer's headers as the client gets them; one that cannot be written is left out, the answer is not."""
    passed = _passing(headers, _NOT_DOWN, _NOT_DOWN_PREFIXES)
    if _UNSENDABLE.search("".join([name + value for name, value in passed])):
        return [(name, value) for name, value in passed if not _UNSENDABLE.search(name + value)]
    return passed


def _passing(headers: Iterable[tuple[str, str]], withheld: Collection[str], prefixes: tuple[str, ...]) -> Headers:
    passing: list[tuple[str, tuple[str, str]]] = []
    nominated: set[str] = set()
    for pair in headers:
        lower = pair[0].lower()
        if lower == "connection":
            nominated.update(token.strip().lower() for token in pair[1].split(","))
        elif not (lower in _HOP_BY_HOP or lower in withheld or lower.startswith(prefixes)):
            passing.append((lower, pair))
    return [pair for lower, pair in passing if lower not in nominated]
