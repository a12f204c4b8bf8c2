"""Which headers pass, in each direction. Everything passes unless a rule here says why it must not.

Hop-by-hop headers: RFC 9110, 7.6.1 (and what `Connection` names). `Content-Length` is hop-by-hop here on the way up
only: the body is sent whole, so the client of the next hop counts it itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache

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

_NO_OTHERS = _HOP_BY_HOP | {""}
"""Named by `Connection`, it changes nothing."""

_NOT_UP = frozenset(
    {
        "accept-encoding",  # asked as identity: what is relayed must be readable on its way
        "api-key",  # the client's keys, wherever it shows them, are no business of the upstream's
        "authorization",
        "content-length",
        "content-type",  # the body was read as JSON, and is to be read as that
        "cookie",
        "expect",
        "forwarded",
        "host",
        "openai-organization",  # the client's own account with the provider, beside the operator's key
        "openai-project",
        "range",
        "x-api-key",
        "x-http-method-override",
        "x-real-ip",
    }
)
_NOT_UP_PREFIXES = (
    "x-forwarded-",
    *("x-litellm-", "x-goog-", "x-vertex-ai-", "x-amzn-", "azureml-", "x-portkey-"),
)
"""By these the client of a gateway or a cloud chooses dearer terms, another model, retries, or less than the usage."""

_NOT_DOWN = frozenset(
    {
        "anthropic-organization-id",  # the operator's account, not the client's; so are the rate limits
        "anthropic-workspace-id",
        "openai-organization",
        "openai-project",
        "request-id",  # ours takes the place of the upstream's, which is logged
        "server",
        "set-cookie",
        "x-request-id",
    }
)
_NOT_DOWN_PREFIXES = (
    *("anthropic-ratelimit-", "anthropic-priority-", "anthropic-fast-", "x-ratelimit-"),
    *("x-litellm-", "llm_provider-"),
)
"""LiteLLM tells what its key, the operator's, has spent and may spend, and passes its own provider's headers on."""

_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes that were not UTF-8 (they arrive as lone surrogates)."""


class UnsendableHeader(Exception):
    """A header holds bytes that must not be passed on; the text is the header's name."""


def to_upstream(headers: Iterable[tuple[str, str]]) -> Headers:
    """The request's headers as the upstream gets them, but for the credential, which is the upstream's own.

    Raises:
        UnsendableHeader: a header that should pass cannot.
    """
    passed = _passing(headers, _passes_up)
    for name, value in passed:
        if _UNSENDABLE.search(name + value):
            raise UnsendableHeader(_UNSENDABLE.sub("?", name))
    return [*passed, ("Content-Type", "application/json"), ("Accept-Encoding", "identity")]


def to_client(headers: Iterable[tuple[str, str]]) -> Headers:
    """The answer's headers as the client gets them; one that cannot be written is left out, the answer is not."""
    passed = _passing(headers, _passes_down)
    if _UNSENDABLE.search("".join([name + value for name, value in passed])):
        return [(name, value) for name, value in passed if not _UNSENDABLE.search(name + value)]
    return passed


def _passing(headers: Iterable[tuple[str, str]], passes: Callable[[str], bool | None]) -> Headers:
    passing, named = [], ""
    for pair in headers:
        if does_pass := passes(pair[0]):
            passing.append(pair)
        elif does_pass is None:
            named += f",{pair[1]}"
    nominated = {token.strip().lower() for token in named.split(",")} - _NO_OTHERS if named else None
    return [pair for pair in passing if pair[0].lower() not in nominated] if nominated else passing


@lru_cache(maxsize=128)  # names repeat, and to look at one takes longer than all the rest
def _passes_up(name: str) -> bool | None:
    return _passes(name.lower(), _NOT_UP, _NOT_UP_PREFIXES)


@lru_cache(maxsize=128)
def _passes_down(name: str) -> bool | None:
    return _passes(name.lower(), _NOT_DOWN, _NOT_DOWN_PREFIXES)


def _passes(lower: str, withheld: Collection[str], prefixes: tuple[str, ...]) -> bool | None:
    """Whether a header of this name passes. None: it does not, and names others that do not."""
    if lower == "connection":
        return None
    return not (lower in _HOP_BY_HOP or lower in withheld or lower.startswith(prefixes))
