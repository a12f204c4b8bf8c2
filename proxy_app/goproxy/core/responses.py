"""The OpenAI Responses protocol: that of chat completions, but for what a stream and a usage look like.

Source: `types/responses/response_error_event.py` of openai-python. What it tells of an error stands in the event
itself; api.openai.com has it within `error`, for which the client raises an exception. Here it is in both places.
"""

from __future__ import annotations

from goproxy.core.compact_json import compact
from goproxy.core.meter import Meter
from goproxy.core.openai import OpenAI
from goproxy.core.responses_meter import ResponsesMeter
from goproxy.core.wire import Fault


class Responses(OpenAI):
    """`POST /v1/responses`, as the `openai` client and Codex speak it."""

    name = "responses"
    path = "/v1/responses"
    limits = ("max_output_tokens",)

    def meter(self, *, stream: bool) -> Meter:
        return ResponsesMeter(stream=stream)

    def error_event(self, fault: Fault, message: str, request_id: str) -> bytes:
        error = self.error(fault, message, request_id)
        told = {name: error["error"][name] for name in ("code", "message", "param")}
        event = {"type": "error", "sequence_number": 0, **told, **error}
        return b"event: error\ndata: " + compact(event) + b"\n\n"
