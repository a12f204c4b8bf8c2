"""The errors and lists of models of the protocols, as the official clients' own types read them."""

from __future__ import annotations

import json

import anthropic.types
import openai.types
import pytest
from anthropic.types.shared import ErrorResponse

from goproxy.core.protocols import ANTHROPIC, OPENAI, PROTOCOLS, RESPONSES
from goproxy.core.wire import Fault, OfferedModel, Refusal, WireProtocol

OPUS = OfferedModel("claude-opus-4-5-20251101", "Claude Opus 4.5", "openhands")
HAIKU = OfferedModel("claude-haiku-4-5-20251001", "Claude Haiku 4.5", "openhands")

STATUS = {
    Fault.INVALID_REQUEST: (400, "invalid_request_error"),
    Fault.AUTHENTICATION: (401, "authentication_error"),
    Fault.INSUFFICIENT_FUNDS: (402, "billing_error"),
    Fault.PERMISSION: (403, "permission_error"),
    Fault.UNKNOWN_PATH: (404, "not_found_error"),
    Fault.NO_ENDPOINT: (404, "not_found_error"),
    Fault.UNKNOWN_MODEL: (404, "not_found_error"),
    Fault.WRONG_METHOD: (405, "invalid_request_error"),
    Fault.SLOW_UPLOAD: (408, "timeout_error"),
    Fault.TOO_LARGE: (413, "request_too_large"),
    Fault.RATE_LIMITED: (429, "rate_limit_error"),
    Fault.INTERNAL: (500, "api_error"),
    Fault.UPSTREAM_BROKEN: (502, "api_error"),
    Fault.UPSTREAM_REFUSED_US: (502, "api_error"),
    Fault.UNAVAILABLE: (503, "api_error"),
    Fault.UPSTREAM_TIMEOUT: (504, "timeout_error"),
}


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_has_its_status_and_anthropic_type(fault: Fault) -> None:
    assert (fault.status, ANTHROPIC.error(fault, "why", "req_1")) == (
        STATUS[fault][0],
        {"type": "error", "error": {"type": STATUS[fault][1], "message": "why"}, "request_id": "req_1"},
    )


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_has_an_openai_shape(fault: Fault) -> None:
    error = OPENAI.error(fault, "why", "req_1")["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == "why"
    of_its_own = {Fault.INSUFFICIENT_FUNDS: "insufficient_quota", Fault.RATE_LIMITED: "rate_limit_error"}
    usual = "invalid_request_error" if fault.status < 500 else "server_error"
    assert error["type"] == of_its_own.get(fault, usual)


def test_the_codes_that_openai_clients_look_for() -> None:
    assert OPENAI.error(Fault.AUTHENTICATION, "", "")["error"]["code"] == "invalid_api_key"
    unknown = OPENAI.error(Fault.UNKNOWN_MODEL, "", "")["error"]
    assert (unknown["code"], unknown["param"]) == ("model_not_found", "model")


def test_anthropic_errors_are_what_its_types_read() -> None:
    error = ErrorResponse.model_validate(ANTHROPIC.error(Fault.AUTHENTICATION, "why", "req_1"), strict=True)
    assert error.error.type == "authentication_error"


@pytest.mark.parametrize(("protocol", "start"), [(ANTHROPIC, b"event: error\ndata: "), (OPENAI, b"data: ")])
def test_an_error_event_is_one_whole_event(protocol: WireProtocol, start: bytes) -> None:
    event = protocol.error_event(Fault.UPSTREAM_TIMEOUT, "line\nbreak \ud800 ü", "req_1")
    assert event.startswith(start)
    assert event.endswith(b"\n\n")
    assert event.removeprefix(b"event: error\n").count(b"\n") == 2
    message = json.loads(event.partition(b"data: ")[2])["error"]["message"]
    assert message == "line\nbreak \ud800 ü"


def test_lists_of_models_are_what_the_clients_types_read() -> None:
    listed = ANTHROPIC.models([OPUS, HAIKU])
    assert [anthropic.types.ModelInfo.model_validate(each).id for each in listed["data"]] == [OPUS.id, HAIKU.id]
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (OPUS.id, HAIKU.id, False)
    listed = OPENAI.models([OPUS, HAIKU])
    assert [openai.types.Model.model_validate(each).owned_by for each in listed["data"]] == ["openhands"] * 2
    assert listed["object"] == "list"


def test_an_empty_list_of_models() -> None:
    assert ANTHROPIC.models([]) == {"data": [], "first_id": None, "last_id": None, "has_more": False}


def test_each_protocol_shows_the_credential_in_its_own_header() -> None:
    assert ANTHROPIC.credential("k") == ("x-api-key", "k")
    assert OPENAI.credential("k") == ("Authorization", "Bearer k")


def test_protocols_are_found_by_name() -> None:
    assert dict(PROTOCOLS) == {"anthropic": ANTHROPIC, "openai": OPENAI, "responses": RESPONSES}


def test_the_error_of_a_stream_of_responses_tells_it_in_either_way() -> None:
    name, data, *_ = RESPONSES.error_event(Fault.UPSTREAM_TIMEOUT, "why", "req_1").split(b"\n")
    error = RESPONSES.error(Fault.UPSTREAM_TIMEOUT, "why", "req_1")["error"]
    told = {each: error[each] for each in ("code", "message", "param")}
    assert name == b"event: error"
    assert json.loads(data[6:]) == {"type": "error", "sequence_number": 0, "error": error} | told


def test_clients_are_told_not_to_repeat_what_only_the_operator_can_mend() -> None:
    assert Refusal(Fault.UPSTREAM_REFUSED_US, "").headers == {"x-should-retry": "false"}
    assert Refusal(Fault.UPSTREAM_BROKEN, "").headers == {}
