"""The Anthropic Messages protocol.

Sources: docs.anthropic.com "Errors", "Models" and "Streaming messages"; the types in anthropic-sdk-python
(`types/shared/error_object.py`, `types/model_info.py`) and what its `_streaming.py` does with `event: error`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goproxy.core.anthropic_meter import AnthropicMeter
from goproxy.core.compact_json import compact
from goproxy.core.meter import Meter
from goproxy.core.wire import Fault, OfferedModel, WireProtocol

_ERROR_TYPE: Mapping[Fault, str] = {
    Fault.INVALID_REQUEST: "invalid_request_error",
    Fault.AUTHENTICATION: "authentication_error",
    Fault.INSUFFICIENT_FUNDS: "billing_error",
    Fault.PERMISSION: "permission_error",
    Fault.UNKNOWN_PATH: "not_found_error",
    Fault.NO_ENDPOINT: "not_found_error",
    Fault.UNKNOWN_MODEL: "not_found_error",
    Fault.WRONG_METHOD: "invalid_request_error",
    Fault.SLOW_UPLOAD: "timeout_error",
    Fault.TOO_LARGE: "request_too_large",
    Fault.RATE_LIMITED: "rate_limit_error",
    Fault.INTERNAL: "api_error",
    Fault.UPSTREAM_BROKEN: "api_error",
    Fault.UPSTREAM_REFUSED_US: "api_error",
    Fault.UNAVAILABLE: "api_error",
    Fault.UPSTREAM_TIMEOUT: "timeout_error",
}

_UNKNOWN_RELEASE = "1970-01-01T00:00:00Z"
"""`created_at` "may be set to an epoch value if the release date is unknown"."""


class Anthropic(WireProtocol):
    """`POST /v1/messages`, as the `anthropic` client and Claude Code speak it."""

    name = "anthropic"
    path = "/v1/messages"
    limits = ("max_tokens",)

    def credential(self, secret: str) -> tuple[str, str]:
        return "x-api-key", secret

    def meter(self, *, stream: bool) -> Meter:
        return AnthropicMeter(stream=stream)

    def error(self, fault: Fault, message: str, request_id: str) -> dict[str, Any]:
        return {
            "type": "error",
            "error": {"type": _ERROR_TYPE[fault], "message": message},
            "request_id": request_id,
        }

    def error_event(self, fault: Fault, message: str, request_id: str) -> bytes:
        return b"event: error\ndata: " + compact(self.error(fault, message, request_id)) + b"\n\n"

    def model(self, model: OfferedModel) -> dict[str, Any]:
        return {
            "type": "model",
            "id": model.id,
            "display_name": model.name,
            "created_at": _UNKNOWN_RELEASE,
            "lifecycle": "active",
        }

    def models(self, models: Sequence[OfferedModel]) -> dict[str, Any]:
        """Always one page: `limit`, `before_id` and `after_id` need no second one for a handful of models."""
        return {
            "data": [self.model(model) for model in models],
            "first_id": models[0].id if models else None,
            "last_id": models[-1].id if models else None,
            "has_more": False,
        }
