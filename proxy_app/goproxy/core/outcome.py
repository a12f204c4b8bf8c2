"""How a request can end, as its row and its line in the log say it, and whose doing that is."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # by the proxy; the upstream was not asked
    UPSTREAM_ERROR = "upstream_error"  # the upstream answered with an error
    UPSTREAM_UNREACHABLE = "upstream_unreachable"  # no answer at all
    UPSTREAM_TIMEOUT = "upstream_timeout"  # no answer in time
    UPSTREAM_STALLED = "upstream_stalled"  # fell silent in the middle of its answer
    UPSTREAM_TRUNCATED = "upstream_truncated"  # broke off in the middle of its answer
    CLIENT_GONE = "client_gone"
    CLIENT_STALLED = "client_stalled"  # did not take what it asked for
    SHUTDOWN = "shutdown"  # the grace period was over
    INTERNAL_ERROR = "internal_error"
    INTERRUPTED = "interrupted"  # the process ended in the middle; the next one writes row and line


CLIENT_LEFT = frozenset({Outcome.CLIENT_GONE, Outcome.CLIENT_STALLED})
"""The client did not wait for the answer."""

UPSTREAM_FAILED = frozenset(
    {
        Outcome.UPSTREAM_ERROR,
        Outcome.UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_TIMEOUT,
        Outcome.UPSTREAM_STALLED,
        Outcome.UPSTREAM_TRUNCATED,
    }
)
"""The upstream did not answer, or not to the end."""
