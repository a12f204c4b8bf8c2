"""The OpenAI Chat Completions API on the wire: values in, bytes out. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping

from .model import Answer, Json, Question, Tool, Usage
from .wire import Context, Expectations, Frame, Refusal, bearer, compact, read_request

STOP_REASONS = {"end": "stop", "max_tokens": "length", "tool": "tool_calls"}


def question(headers: Mapping[str, str], body: bytes, expected: Expectations) -> Question:
    """Read a request as the real API does, first the key, then the body."""
    asked = read_asked(headers, body, expected, conversation="messages")
    return Question(
        model=asked["model"],
        prompt=(asked["messages"], asked.get("tools")),
        max_tokens=asked.get("max_completion_tokens") or asked.get("max_tokens"),
        tool=_tool_to_call(asked),
        streams=bool(asked.get("stream")),
        wants_usage=bool((asked.get("stream_options") or {}).get("include_usage")),
        seed=compact(asked["messages"]),
    )


def read_asked(headers: Mapping[str, str], body: bytes, expected: Expectations, *, conversation: str) -> Json:
    """Read what both of OpenAI's APIs ask for; `conversation` is the field that holds it."""
    key = bearer(headers)
    if key is None:
        raise _refused(401, "You didn't provide an API key. Put it in an Authorization header, as Bearer YOUR_KEY.")
    if expected.keys and key not in expected.keys:
        raise _refused(401, f"Incorrect API key provided: {key[:4]}***.", code="invalid_api_key")
    try:
        asked: Json = read_request(body)
    except ValueError as problem:
        raise _refused(400, str(problem)) from problem
    for name in ("model", conversation):
        if not asked.get(name):
            message = f"Missing required parameter: '{name}'."
            raise _refused(400, message, param=name, code="missing_required_parameter")
    told = asked[conversation]
    is_text = conversation == "input" and isinstance(told, str)
    if not is_text and not (isinstance(told, list) and all(isinstance(item, dict) for item in told)):
        message = f"Invalid type for '{conversation}': expected an array of objects."
        raise _refused(400, message, param=conversation)
    if expected.models and asked["model"] not in expected.models:
        message = f"The model `{asked['model']}` does not exist or you do not have access to it."
        raise _refused(404, message, code="model_not_found")
    return asked


def stream(answer: Answer, context: Context) -> list[Frame]:
    """Give the chunks, the one with the usage where stream_options asks for it, and [DONE]."""
    asked = answer.question
    common = {
        "id": context.id("chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": int(context.now.timestamp()),
        "model": asked.model,
        "service_tier": "default",
        "system_fingerprint": "fp_5ca1ab1e00",
    }

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**common, "choices": [choice], **({"usage": None} if asked.wants_usage else {})})

    frames = [Frame(chunk({"role": "assistant", "content": "", "refusal": None}), "start")]
    frames += [Frame(chunk({"content": word}), "delta") for word in answer.text]
    if asked.tool:
        call = {"index": 0, "id": context.id("call_"), "type": "function"}
        function = {"name": asked.tool.name, "arguments": ""}
        frames.append(Frame(chunk({"tool_calls": [{**call, "function": function}]}), "start"))
        for piece in answer.tool_input:
            frames.append(Frame(chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}), "delta"))
    frames.append(Frame(chunk({}, STOP_REASONS[answer.stop]), "end"))
    if asked.wants_usage:
        used = usage(answer.usage)
        frames.append(Frame(_data({**common, "choices": [], "usage": used}), "end", used))
    frames.append(Frame(b"data: [DONE]\n\n", "end"))
    return frames


def whole(answer: Answer, context: Context) -> Json:
    """Give the completion as one object."""
    message: Json = {"role": "assistant", "content": "".join(answer.text) or None, "refusal": None, "annotations": []}
    if answer.question.tool:
        function = {"name": answer.question.tool.name, "arguments": "".join(answer.tool_input)}
        message["tool_calls"] = [{"id": context.id("call_"), "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": STOP_REASONS[answer.stop]}
    return {
        "id": context.id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(context.now.timestamp()),
        "model": answer.question.model,
        "choices": [choice],
        "usage": usage(answer.usage),
        "service_tier": "default",
        "system_fingerprint": "fp_5ca1ab1e00",
    }


def usage(counted: Usage) -> Json:
    """Say the usage as OpenAI does: prompt_tokens includes what was cached."""
    return {
        "prompt_tokens": counted.prompt,
        "completion_tokens": counted.output,
        "total_tokens": counted.prompt + counted.output,
        "prompt_tokens_details": {"cached_tokens": counted.cache_read, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def refusal(status: int, message: str, param: str | None = None, code: str | None = None) -> Json:
    """Give the body of an error answer."""
    kind = {429: "requests", 401: "invalid_request_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def failure() -> Json:
    """Give what ends a stream after HTTP 200."""
    return refusal(500, "The server had an error while processing your request. Sorry about that!")


def error_frame() -> bytes:
    """Give the error that ends a stream after HTTP 200."""
    return _data(failure())


def keep_alive() -> bytes:
    """Give a comment, as OpenAI-compatible gateways do while they wait."""
    return b": keep-alive\n\n"


def headers(context: Context) -> dict[str, str]:
    """Give the headers of api.openai.com: the operator's limits and organisation among them."""
    return {
        "x-request-id": context.request_id,
        "openai-organization": "org-simulated",
        "openai-processing-ms": "212",
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-remaining-tokens": "1999000",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-reset-tokens": "30ms",
        "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
        "cf-cache-status": "DYNAMIC",
        "set-cookie": "__cf_bm=simulated; path=/; HttpOnly; Secure; SameSite=None",
        "server": "cloudflare",
    }


def _tool_to_call(asked: Json) -> Tool | None:
    """Call the function that tool_choice names, or the first; none when the last message brings a tool's result."""
    choice = asked.get("tool_choice")
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    if choice == "none" or asked["messages"][-1].get("role") == "tool":
        return None
    return first_tool([tool["function"] for tool in asked.get("tools") or [] if "function" in tool], named)


def first_tool(functions: list[Json], named: str | None) -> Tool | None:
    """Give the function of this name, or the first where none is named."""
    for function in functions:
        if named in (None, function.get("name")):
            return Tool(function.get("name", ""), function.get("parameters") or {})
    return None


def _data(value: Json) -> bytes:
    return f"data: {compact(value)}\n\n".encode()


def _refused(status: int, message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(status, refusal(status, message, param=param, code=code))
