"""The OpenAI chat completions protocol.

Sources: platform.openai.com "Error codes" and "Models"; the types in openai-python (`types/model.py`) and what its
`_streaming.py` does with a chunk that has an `error`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from goproxy.core.compact_json import compact
from goproxy.core.meter import Meter
from goproxy.core.openai_meter import OpenAIMeter
from goproxy.core.wire import Fault, OfferedModel, WireProtocol


class _Kind(NamedTuple):
    type: str
    code: str | None = None
    param: str | None = None


_KIND: Mapping[Fault, _Kind] = {
    Fault.INVALID_REQUEST: _Kind("invalid_request_error"),
    Fault.AUTHENTICATION: _Kind("invalid_request_error", "invalid_api_key"),
    Fault.INSUFFICIENT_FUNDS: _Kind("insufficient_quota", "insufficient_quota"),
    Fault.PERMISSION: _Kind("invalid_request_error", "permission_denied"),
    Fault.UNKNOWN_PATH: _Kind("invalid_request_error", "unknown_url"),
    Fault.NO_ENDPOINT: _Kind("invalid_request_error", "unknown_url"),
    Fault.UNKNOWN_MODEL: _Kind("invalid_request_error", "model_not_found", "model"),
    Fault.WRONG_METHOD: _Kind("invalid_request_error", "method_not_supported"),
    Fault.SLOW_UPLOAD: _Kind("invalid_request_error", "request_timeout"),
    Fault.TOO_LARGE: _Kind("invalid_request_error", "request_too_large"),
    Fault.RATE_LIMITED: _Kind("rate_limit_error", "rate_limit_exceeded"),
    Fault.INTERNAL: _Kind("server_error"),
    Fault.UPSTREAM_BROKEN: _Kind("server_error", "upstream_error"),
    Fault.UPSTREAM_REFUSED_US: _Kind("server_error", "upstream_error"),
    Fault.UNAVAILABLE: _Kind("server_error", "unavailable"),
    Fault.UPSTREAM_TIMEOUT: _Kind("server_error", "upstream_timeout"),
}


class OpenAI(WireProtocol):
    """`POST /v1/chat/completions`, as the `openai` client speaks it."""

    name = "openai"
    path = "/v1/chat/completions"

    def credential(self, secret: str) -> tuple[str, str]:
        return "Authorization", f"Bearer {secret}"

    def meter(self, *, stream: bool) -> Meter:
        return OpenAIMeter(stream=stream)

    def error(self, fault: Fault, message: str, request_id: str) -> dict[str, Any]:  # noqa: ARG002
        """The request id travels in the `x-request-id` header only: OpenAI's bodies have no field for it."""
        kind = _KIND[fault]
        return {
            "error": {
                "message": message,
                "type": kind.type,
                "param": kind.param,
                "code": kind.code,
            }
        }

    def error_event(self, fault: Fault, message: str, request_id: str) -> bytes:
        return b"data: " + compact(self.error(fault, message, request_id)) + b"\n\n"

    def model(self, model: OfferedModel) -> dict[str, Any]:
        return {"id": model.id, "object": "model", "created": 0, "owned_by": model.upstream}

    def models(self, models: Sequence[OfferedModel]) -> dict[str, Any]:
        return {"object": "list", "data": [self.model(model) for model in models]}
