"""Which headers pass, in each direction. Everything passes unless a rule here says why it must not.

Hop-by-hop headers: RFC 9110, 7.6.1 (and what `Connection` names). `Content-Length` is hop-by-hop here on the way up
only: the body is sent whole, so `data_plane/upstream.py` writes it anew.
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


class AnswerHead:
    """The headers of an answer, read in one walk: providers send thirty with each."""

    __slots__ = ("codings", "first", "to_client")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self.first: dict[str, str] = {}
        """The first value of each, by its name in small letters."""
        self.codings: list[str] = []
        """The values of all that tell a Transfer-Encoding."""
        first, passed, named, text = self.first, [], "", ""
        for written, told in fields:
            name, small, does_pass = _answers_name(written) if len(written) <= _SHORT else _read_name(written)
            value = told.decode("utf-8", "surrogateescape")
            if small not in first:
                first[small] = value
            if does_pass:
                passed.append((name, value))
                text += value
            elif does_pass is None:
                named += f",{value}"
            elif small == "transfer-encoding":
                self.codings.append(value)
        if not text.isprintable():  # a quick look; what is printable can be sent
            passed = [pair for pair in passed if not _UNSENDABLE.search(pair[1])]
        self.to_client: Headers = _but_named(passed, named)
        """As the client gets them; one that cannot be written is left out, the answer is not."""


def _passing(headers: Iterable[tuple[str, str]], passes: Callable[[str], bool | None]) -> Headers:
    passing, named = [], ""
    for pair in headers:
        if does_pass := passes(pair[0]):
            passing.append(pair)
        elif does_pass is None:
            named += f",{pair[1]}"
    return _but_named(passing, named)


def _but_named(headers: Headers, named: str) -> Headers:
    """These without what `Connection` names."""
    nominated = {token.strip().lower() for token in named.split(",")} - _NO_OTHERS if named else None
    return [pair for pair in headers if pair[0].lower() not in nominated] if nominated else headers


@lru_cache(maxsize=128)  # names repeat, and to look at one takes longer than all the rest
def _passes_up(name: str) -> bool | None:
    return _passes(name.lower(), _NOT_UP, _NOT_UP_PREFIXES)


def _read_name(written: bytes) -> tuple[str, str, bool | None]:
    """A name of an answer's header, the same in small letters, and whether it passes, as `_passes` has it."""
    name = written.decode()
    small = name.lower()
    does_pass = _passes(small, _NOT_DOWN, _NOT_DOWN_PREFIXES)
    return name, small, does_pass and not _UNSENDABLE.search(name)


_SHORT = 64
"""Bytes of a name that is remembered: the same ones come with each answer."""

_answers_name = lru_cache(maxsize=128)(_read_name)


def _passes(lower: str, withheld: Collection[str], prefixes: tuple[str, ...]) -> bool | None:
    """Whether a header of this name passes. None: it does not, and names others that do not."""
    if lower == "connection":
        return None
    return not (lower in _HOP_BY_HOP or lower in withheld or lower.startswith(prefixes))
