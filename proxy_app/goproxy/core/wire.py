"""What every wire protocol must be able to say: its own credential, its own errors, its own list of models.

Nothing here knows a particular protocol (see anthropic.py, openai.py and responses.py) or how bytes travel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from goproxy.core.meter import Meter
from goproxy.core.request_body import LIMITS


class Fault(Enum):
    """Why a request is answered by the proxy itself; each protocol words it in its own shape."""

    INVALID_REQUEST = "invalid_request"
    AUTHENTICATION = "authentication"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    PERMISSION = "permission"
    UNKNOWN_PATH = "unknown_path"
    NO_ENDPOINT = "no_endpoint"
    UNKNOWN_MODEL = "unknown_model"
    WRONG_METHOD = "wrong_method"
    SLOW_UPLOAD = "slow_upload"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    INTERNAL = "internal"
    UPSTREAM_BROKEN = "upstream_broken"
    UPSTREAM_REFUSED_US = "upstream_refused_us"
    UNAVAILABLE = "unavailable"
    UPSTREAM_TIMEOUT = "upstream_timeout"

    @property
    def status(self) -> int:
        """The HTTP status that goes with the fault."""
        return _STATUS[self]


_STATUS: Mapping[Fault, int] = {
    Fault.INVALID_REQUEST: 400,
    Fault.AUTHENTICATION: 401,
    Fault.INSUFFICIENT_FUNDS: 402,
    Fault.PERMISSION: 403,
    Fault.UNKNOWN_PATH: 404,
    Fault.NO_ENDPOINT: 404,
    Fault.UNKNOWN_MODEL: 404,
    Fault.WRONG_METHOD: 405,
    Fault.SLOW_UPLOAD: 408,
    Fault.TOO_LARGE: 413,
    Fault.RATE_LIMITED: 429,
    Fault.INTERNAL: 500,
    Fault.UPSTREAM_BROKEN: 502,
    Fault.UPSTREAM_REFUSED_US: 502,
    Fault.UNAVAILABLE: 503,
    Fault.UPSTREAM_TIMEOUT: 504,
}


class Refusal(Exception):
    """A request ends here, with this fault and this sentence for the client."""

    def __init__(self, fault: Fault, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.headers: dict[str, str] = dict(headers or {})
        if fault in (Fault.UPSTREAM_REFUSED_US, Fault.INSUFFICIENT_FUNDS):
            # Both official SDKs obey it: the operator's key or the wallet will be as it is at the next attempt.
            self.headers["x-should-retry"] = "false"


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model as the lists of models show it."""

    id: str
    name: str
    upstream: str


class WireProtocol(ABC):
    """One of the languages that clients and upstreams speak."""

    name: str
    """As `protocol` in the configuration names it."""

    path: str
    """Where clients POST a request for inference."""

    limits: tuple[str, ...] = LIMITS
    """The fields that bound an answer. An upstream may pass over any other one."""

    @abstractmethod
    def credential(self, secret: str) -> tuple[str, str]:
        """The header that carries the upstream's own key."""

    @abstractmethod
    def meter(self, *, stream: bool) -> Meter:
        """A meter for one answer: for an event stream (by the answer's content type), or for a JSON body."""

    @abstractmethod
    def error(self, fault: Fault, message: str, request_id: str) -> dict[str, Any]:
        """The body of an error answer."""

    @abstractmethod
    def error_event(self, fault: Fault, message: str, request_id: str) -> bytes:
        """The event that ends a stream whose status 200 is already sent."""

    @abstractmethod
    def model(self, model: OfferedModel) -> dict[str, Any]:
        """The body that describes one model."""

    @abstractmethod
    def models(self, models: Sequence[OfferedModel]) -> dict[str, Any]:
        """The body that lists the models."""
