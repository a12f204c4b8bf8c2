"""`POST /v1/responses`: the official client is served; what a request may hide from its price is seen or refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from goproxy.core.input_estimate import IMAGE_TOKENS, REMOTE_TOKENS, SEARCHES, TOOL_TOKENS, TOOLS_TOKENS
from goproxy.core.protocols import RESPONSES
from goproxy.core.request_body import InvalidBody, RequestBody, read_request_body
from goproxy.core.sse import MAX_EVENT
from goproxy.core.usage import Usage
from tests.gateway import ALICE, Running, config_document, endpoints_at, running_gateway
from tests.provider import Provider, Received, Wire
from tests.streams import response, responses_content, responses_stream, responses_usage, said

MODEL = "claude-opus-4-5"
USAGE = responses_usage(9, 7)
PNG = "data:image/png;base64," + "iVBORw0KGgo" * 500


async def answer(request: Received, wire: Wire) -> None:
    """What a provider does."""
    assert request.target == "/v1/responses"
    if b'"stream":true' in request.body.replace(b" ", b""):
        await wire.stream(responses_stream(USAGE, words=["Grü", "ße"]))
    else:
        await wire.whole(response(USAGE, output=[said(["Grüße"])], tools=[], tool_choice="auto"))


@pytest.fixture
async def client(gateway: Running, provider: Provider) -> AsyncIterator[openai.AsyncOpenAI]:
    provider.script = answer
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE, max_retries=0) as made:
        yield made


async def test_the_official_client_is_answered(gateway: Running, client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input="Say hello", max_output_tokens=100)
    assert (made.output_text, made.usage and made.usage.total_tokens) == ("Grüße", 16)
    (row,) = await gateway.rows()
    assert (row["protocol"], row["endpoint"], row["settlement"]) == ("responses", "openhands-responses", "exact")
    assert (row["usage"]["input"], row["usage"]["output"], row["raw_usage"]) == (9, 7, USAGE)


async def test_the_official_client_reads_the_stream(
    gateway: Running, client: openai.AsyncOpenAI, provider: Provider
) -> None:
    sent = {"model": MODEL, "input": [{"role": "user", "content": "Say hello"}], "store": False}
    text, last = "", None
    async for event in await client.responses.create(**sent, stream=True):  # type: ignore[call-overload]
        text += event.delta if event.type == "response.output_text.delta" else ""
        last = event
    assert (text, last and last.type) == ("Grüße", "response.completed")
    assert json.loads(provider.last.body) == sent | {"stream": True, "model": "claude-opus-4-5-20251101"}
    (row,) = await gateway.rows()
    assert (row["stream"], row["settlement"], row["usage"]["output"]) == (True, "exact", 7)


@pytest.mark.parametrize("ends", ["stalls", "breaks off"])
async def test_a_stream_that_does_not_end_is_an_error(provider: Provider, keys: Path, ends: str) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        for event in responses_content(["Hello"]):
            await wire.chunk(event)
        if ends == "stalls":
            await wire.until_closed()
        wire.hang_up()

    provider.script = script
    timeouts = {"connect": 1, "first_byte": 1, "idle": 0.2, "total": 5}
    document = config_document(endpoints=endpoints_at(provider.url), timeouts=timeouts)
    async with (
        running_gateway(document, keys) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE, max_retries=0) as client,
    ):
        with pytest.raises(openai.APIError, match=r"sent nothing for 0\.2 s" if ends == "stalls" else None):
            async for _ in await client.responses.create(model=MODEL, input="Hi", stream=True):
                pass
        (row,) = await gateway.rows()
    assert (row["settlement"], row["usage"]["output"] > 0) == ("estimated", True)


@pytest.mark.parametrize("size", [1_000, 70_000, 10**9])
@pytest.mark.parametrize("is_named", [True, False])
def test_the_usage_is_read_of_a_last_event_that_is_too_long(size: int, is_named: bool) -> None:
    """It repeats the instructions: whoever makes them long would else be charged an estimate."""
    faked = ' "usage":{"input_tokens":1} \\"usage\\":{'
    long = {"reason": faked + "x" * MAX_EVENT + faked}  # it stands before the usage, as the instructions do
    stream = b"".join(responses_stream(USAGE, incomplete_details=long, metadata={"a": faked}))
    if not is_named:
        stream = stream.replace(b"event: response.completed\n", b"")
    meter = RESPONSES.meter(stream=True)
    for at in range(0, len(stream), size):
        meter.feed(stream[at : at + size])
    told = meter.reading()
    assert (told.usage, told.exact, told.flags) == (Usage(input=9, output=7), True, ("oversized_event",))


async def test_an_upstream_without_it_says_so(provider: Provider, keys: Path) -> None:
    document = config_document(endpoints=endpoints_at(provider.url, "openai"))
    async with (
        running_gateway(document, keys) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE) as client,
    ):
        with pytest.raises(openai.NotFoundError, match="has no responses endpoint, so that /v1/responses does not"):
            await client.responses.create(model=MODEL, input="Hi")


def read(**fields: Any) -> RequestBody:
    return read_request_body(json.dumps({"model": "m", **fields}).encode())


def estimate(*items: Any, **fields: Any) -> tuple[int, bool]:
    """The estimate of a body with this input, less what it has in bytes; and whether it is open."""
    body = read(input=list(items), **fields)
    return body.estimated_input_tokens - len(body.body), body.has_remote_input


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"background": True}, "background: the answer must come on this connection"),
        ({"background": "yes"}, "background: this field must be true or false"),
        ({"Background": True}, "background: this field must be written like this"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt: a request is paid by its model here"),
        ({"tools": [{"type": "image_generation"}]}, "tools.type: a request is paid by its model here"),
        ({"extra_body": {"input": "x"}}, "input: this field must stand at the top level"),
        ({"input": [{"type": "additional_tools", "tools": [{"type": "image_generation"}]}]}, "tools.type: a request"),
        (
            {"tools": [{"type": "namespace", "tools": [{"type": "function", "model": "dear"}]}]},
            "tools.model: a request",
        ),
        ({"tools": [{"type": "mcp", "server_url": "litellm_proxy/mcp/x"}]}, "tools.server_url: what LiteLLM runs"),
        ({"multi_agent": {"enabled": True}}, "multi_agent: nothing bounds what several agents cost"),
        ({"multi_agent": {"enabled": False, "max_concurrent_subagents": 3}}, "multi_agent: nothing bounds"),
    ],
)
def test_what_would_pass_by_the_meter_or_the_price_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidBody, match=told):
        read(**fields)


def test_what_says_nothing_is_let_through() -> None:
    body = read(
        input="Hi",
        background=False,
        prompt=None,
        previous_response_id=None,
        multi_agent={"enabled": False},
        reasoning={"effort": "high", "mode": "standard"},
    )
    assert (body.has_remote_input, body.web_searches) == (False, 0)


MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
CODEX = (
    MESSAGE,
    {"role": "assistant", "content": [{"type": "output_text", "text": "Let me look"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": "gAAA"},
    {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "a\nb"},
    {"type": "function_call_output", "call_id": "c1", "output": ""},
    {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin Patch"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Done"}]},
)


def test_a_conversation_counts_by_its_bytes() -> None:
    assert estimate(*CODEX) == (0, False)
    tools = [{"type": "function", "name": "shell", "parameters": {}}, {"type": "custom", "name": "apply_patch"}]
    assert estimate(*CODEX, tools=tools) == (TOOLS_TOKENS, False)
    assert estimate(*CODEX, tools=[{"type": "local_shell"}]) == (TOOLS_TOKENS + TOOL_TOKENS, False)


@pytest.mark.parametrize(
    ("tool", "tokens"),
    [
        ({"type": "namespace", "name": "crm", "description": "x", "tools": [{"type": "function", "name": "f"}]}, 0),
        ({"type": "tool_search", "execution": "client", "parameters": {}}, 0),
        ({"type": "shell", "environment": {"type": "local"}}, 0),
        ({"type": "computer"}, TOOL_TOKENS),
    ],
)
def test_tools_that_the_client_runs_count_by_their_bytes(tool: dict[str, Any], tokens: int) -> None:
    assert estimate(tools=[tool]) == (TOOLS_TOKENS + tokens, False)
    assert read(input="Hi", tools=[tool]).web_searches == 0


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "tool_search"},
        {"type": "tool_search", "execution": "server"},
        {"type": "shell"},
        {"type": "shell", "environment": {"type": "container_auto"}},
        {"type": "namespace", "name": "crm", "tools": [{"type": "web_search"}]},
    ],
)
def test_a_tool_that_the_provider_runs_leaves_the_size_of_the_prompt_open(tool: dict[str, Any]) -> None:
    assert estimate(tools=[tool])[1]


def test_what_the_clients_tools_were_asked_and_gave_counts_by_its_bytes() -> None:
    shell = [
        {"type": "shell_call", "call_id": "c1", "action": {"commands": ["ls"]}},
        {
            "type": "shell_call_output",
            "call_id": "c1",
            "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        },
    ]
    found = {"type": "tool_search_call", "execution": "client", "call_id": "c2", "arguments": {"q": "crm"}}
    assert estimate(*shell, found) == (0, False)
    screen = {"type": "computer_screenshot", "image_url": PNG}
    computer = [
        {"type": "computer_call", "call_id": "c3", "actions": [{"type": "screenshot"}]},
        {"type": "computer_call_output", "call_id": "c3", "output": screen},
    ]
    assert estimate(*computer) == (IMAGE_TOKENS - len(PNG), False)


def test_an_image_that_comes_along_counts_as_one_wherever_it_stands() -> None:
    image = {"type": "input_image", "image_url": PNG, "detail": "auto"}
    shown = {"type": "function_call_output", "call_id": "c1", "output": [image]}
    for item in ({"role": "user", "content": [image]}, shown):
        assert estimate(item) == (IMAGE_TOKENS - len(PNG), False)


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/x.png"}]},
        {"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]},
        {"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]},
        {"role": "user", "content": [{"type": "input_file", "file_url": "https://example.org/x.pdf"}]},
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        {"type": None, "id": "msg_1"},
        {"type": "message", "id": "msg_1"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [], "encrypted_content": None},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "file_1"}},
        {"type": "something_new"},
    ],
)
def test_what_the_provider_gets_from_elsewhere_is_left_to_the_context(item: dict[str, Any]) -> None:
    assert estimate(item)[1]


def test_a_file_counts_by_what_it_may_come_to_and_not_by_its_base64() -> None:
    assert estimate({"role": "user", "content": [{"type": "input_file", "file_data": PNG}]}) == (
        REMOTE_TOKENS - len(PNG),
        True,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"context_management": [{"type": "compaction", "compact_threshold": 1000}]},
        {"reasoning": {"mode": "pro"}},
    ],
)
def test_what_the_provider_holds_is_left_to_the_context(fields: dict[str, Any]) -> None:
    assert estimate(MESSAGE, **fields) == (REMOTE_TOKENS, True)


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "file_search", "mcp", "code_interpreter"])
def test_tools_that_the_provider_runs_are_held_for(kind: str) -> None:
    body = read(input="Hi", tools=[{"type": kind}])
    assert (body.has_remote_input, body.web_searches) == (True, SEARCHES)
    within = read(input=[MESSAGE, {"type": "additional_tools", "tools": [{"type": kind}]}])
    assert (within.has_remote_input, within.web_searches) == (True, SEARCHES)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_output_tokens": 50}, 50),
        ({"max_output_tokens": 50, "max_tokens": 100}, 100),
        ({"max_tokens": 1, "max_completion_tokens": 1}, None),
        ({}, None),
    ],
)
def test_an_answer_is_bounded_by_its_own_field_alone(fields: dict[str, int], limit: int | None) -> None:
    body = json.dumps({"model": "m", "input": "Hi"} | fields).encode()
    assert read_request_body(body, RESPONSES.limits).max_output_tokens == limit
