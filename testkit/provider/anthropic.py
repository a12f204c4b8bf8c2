"""The Anthropic Messages API on the wire: values in, bytes out. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from .model import Answer, Json, Question, Tool, Usage, prompt_usage
from .wire import Context, Expectations, Frame, Part, Refusal, bearer, compact, read_request

ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 405: "invalid_request_error", 409: "conflict_error", 413: "request_too_large",
    429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
STOP_REASONS = {"end": "end_turn", "max_tokens": "max_tokens", "tool": "tool_use"}
LIMITS = {"requests": 4000, "tokens": 480000, "input-tokens": 400000, "output-tokens": 80000}


def question(headers: Mapping[str, str], body: bytes, expected: Expectations, *, counting: bool = False) -> Question:
    """Read a request as the real API does, first the key, then the version, then the body."""
    key = headers.get("x-api-key") or bearer(headers)
    if key is None:
        raise _refused(401, "x-api-key header is required")
    if expected.keys and key not in expected.keys:
        raise _refused(401, "invalid x-api-key")
    if "anthropic-version" not in headers:
        raise _refused(400, "anthropic-version: header is required")
    try:
        asked = read_request(body)
    except ValueError as problem:
        raise _refused(400, str(problem)) from problem
    for name in ("model", "messages") if counting else ("model", "messages", "max_tokens"):
        if not asked.get(name):
            raise _refused(400, f"{name}: Field required")
    if not all(isinstance(message, dict) for message in asked["messages"]):
        raise _refused(400, "messages: Input should be a valid list of messages")
    if expected.models and asked["model"] not in expected.models:
        raise _refused(404, f"model: {asked['model']}")
    thinking = asked.get("thinking")
    return Question(
        model=asked["model"],
        prompt=tuple(asked.get(part) for part in ("system", "messages", "tools")),
        max_tokens=asked.get("max_tokens"),
        tool=_tool_to_call(asked),
        thinks=isinstance(thinking, dict) and thinking.get("type") != "disabled",
        streams=bool(asked.get("stream")),
        seed=compact(asked["messages"]),
    )


def count_tokens(asked: Question) -> Json:
    """Answer /count_tokens."""
    counted = prompt_usage(asked.prompt)
    return {"input_tokens": counted.input + counted.cache_write_5m + counted.cache_write_1h}


def stream(answer: Answer, context: Context) -> list[Frame]:
    """Give the events of a message, message_start to message_stop."""
    final = usage(answer.usage)
    first = {**final, "output_tokens": min(1, answer.usage.output)}
    message = _message(answer, context, [], None, first)
    frames = [_frame("start", {"type": "message_start", "message": message}, first)]
    for index, (block, deltas) in enumerate(_blocks(answer, context)):
        frames.append(_frame("start", {"type": "content_block_start", "index": index, "content_block": block}))
        if index == 0:
            frames.append(Frame(keep_alive(), "start"))
        for delta in deltas:
            part: Part = "start" if delta["type"] == "signature_delta" else "delta"
            frames.append(_frame(part, {"type": "content_block_delta", "index": index, "delta": delta}))
        frames.append(_frame("start", {"type": "content_block_stop", "index": index}))
    frames.append(Frame(frames.pop().data, "end"))  # a held stream waits inside its last block
    summed = {name: final[name] for name in final if name not in ("cache_creation", "service_tier")}
    stop = {"stop_reason": STOP_REASONS[answer.stop], "stop_sequence": None}
    frames.append(_frame("end", {"type": "message_delta", "delta": stop, "usage": summed}, final))
    frames.append(_frame("end", {"type": "message_stop"}))
    return frames


def whole(answer: Answer, context: Context) -> Json:
    """Give the message as one object."""
    content = []
    for block, deltas in _blocks(answer, context):
        match block["type"]:
            case "thinking":
                signature = deltas[-1]["signature"]
                content.append({**block, "thinking": "".join(answer.thinking), "signature": signature})
            case "tool_use":
                content.append({**block, "input": read_request("".join(answer.tool_input).encode())})
            case _:
                content.append({**block, "text": "".join(answer.text)})
    return _message(answer, context, content, STOP_REASONS[answer.stop], usage(answer.usage))


def usage(counted: Usage) -> Json:
    """Say the usage as `message.usage` does; input_tokens excludes what was cached."""
    return {
        "input_tokens": counted.input,
        "cache_creation_input_tokens": counted.cache_write_5m + counted.cache_write_1h,
        "cache_read_input_tokens": counted.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counted.cache_write_5m,
            "ephemeral_1h_input_tokens": counted.cache_write_1h,
        },
        "output_tokens": counted.output,
        "service_tier": "standard",
    }


def refusal(status: int, message: str) -> Json:
    """Give the body of an error answer; the server knows the request_id."""
    error = {"type": ERROR_TYPES.get(status, "api_error"), "message": message}
    return {"type": "error", "error": error, "request_id": ""}


def error_frame() -> bytes:
    """Give the error that ends a stream after HTTP 200."""
    return _event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


def keep_alive() -> bytes:
    """Give a ping."""
    return b'event: ping\ndata: {"type": "ping"}\n\n'


def headers(context: Context) -> dict[str, str]:
    """Give the headers of api.anthropic.com: the operator's limits and organisation among them."""
    reset = (context.now + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    limits = {}
    for kind, limit in LIMITS.items():
        limits[f"anthropic-ratelimit-{kind}-limit"] = str(limit)
        limits[f"anthropic-ratelimit-{kind}-remaining"] = str(limit - 1000)
        limits[f"anthropic-ratelimit-{kind}-reset"] = reset
    return {
        **limits,
        "request-id": context.request_id,
        "anthropic-organization-id": "0f5a9b1e-51e0-4d0f-8a57-7be10c0ffee0",
        "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
        "via": "1.1 google",
        "cf-cache-status": "DYNAMIC",
        "set-cookie": "__cf_bm=simulated; path=/; HttpOnly; Secure; SameSite=None",
        "x-robots-tag": "none",
        "server": "cloudflare",
    }


def _tool_to_call(asked: Json) -> Tool | None:
    """Call the tool that tool_choice names, or the first; none when the last message brings a tool's result."""
    choice = asked.get("tool_choice") or {}
    tools = [tool for tool in asked.get("tools") or [] if choice.get("name") in (None, tool.get("name"))]
    content = asked["messages"][-1].get("content")
    answered = isinstance(content, list) and any(block.get("type") == "tool_result" for block in content)
    if not tools or answered or choice.get("type") == "none":
        return None
    return Tool(tools[0].get("name", ""), tools[0].get("input_schema") or {})


def _blocks(answer: Answer, context: Context) -> list[tuple[Json, list[Json]]]:
    """Give each content block as it starts, with its deltas."""
    blocks: list[tuple[Json, list[Json]]] = []
    if answer.thinking:
        thoughts: list[Json] = [{"type": "thinking_delta", "thinking": word} for word in answer.thinking]
        thoughts.append({"type": "signature_delta", "signature": context.id("EqQB") + "=="})
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, thoughts))
    if answer.text:
        blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in answer.text]))
    if answer.question.tool:
        call = {"type": "tool_use", "id": context.id("toolu_"), "name": answer.question.tool.name, "input": {}}
        blocks.append((call, [{"type": "input_json_delta", "partial_json": piece} for piece in answer.tool_input]))
    return blocks


def _message(answer: Answer, context: Context, content: list[Json], stop: str | None, used: Json) -> Json:
    return {
        "model": answer.question.model,
        "id": context.id("msg_"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": used,
    }


def _frame(part: Part, event: Json, used: Json | None = None) -> Frame:
    return Frame(_event(event), part, used)


def _event(event: Json) -> bytes:
    """Write an event. The real API pads its deltas with spaces, which a proxy that writes JSON anew would lose."""
    text = compact(event)
    padding = " " * (len(text) % 7) if event["type"] == "content_block_delta" else ""
    return f"event: {event['type']}\ndata: {text[:-1]}{padding}}}\n\n".encode()


def _refused(status: int, message: str) -> Refusal:
    return Refusal(status, refusal(status, message))
