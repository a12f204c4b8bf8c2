"""The OpenAI Responses API on the wire: values in, bytes out. No I/O, no clock.

Its errors, its headers and its key are those of chat completions.
"""

from __future__ import annotations

from collections.abc import Mapping

from .model import Answer, Json, Question, Tool, Usage
from .openai import failure, first_tool, headers, keep_alive, read_asked, refusal
from .wire import Context, Expectations, Frame, Part, compact

__all__ = ["error_frame", "headers", "keep_alive", "question", "refusal", "stream", "usage", "whole"]


def question(headers: Mapping[str, str], body: bytes, expected: Expectations) -> Question:
    """Read a request as the real API does, first the key, then the body."""
    asked = read_asked(headers, body, expected, conversation="input")
    return Question(
        model=asked["model"],
        prompt=(asked.get("instructions"), asked["input"], asked.get("tools")),
        max_tokens=asked.get("max_output_tokens"),
        tool=_tool_to_call(asked),
        streams=bool(asked.get("stream")),
        seed=compact(asked["input"]),
    )


def stream(answer: Answer, context: Context) -> list[Frame]:
    """Give the events, response.created to the one that has the whole response in it once more."""
    frames: list[Frame] = []

    def add(place: Part, kind: str, used: Json | None = None, **told: object) -> None:
        event = {"type": kind, **told, "sequence_number": len(frames)}
        frames.append(Frame(_event(event), place, used))

    begun = _response(answer, context, "in_progress", [], None)
    add("start", "response.created", response=begun)
    add("start", "response.in_progress", response=begun)
    items = _items(answer, context)
    for index, item in enumerate(items):
        of_item = {"item_id": item["id"], "output_index": index}
        closing: Part = "end" if item is items[-1] else "start"
        if item["type"] == "message":
            of_part = {**of_item, "content_index": 0}
            part = item["content"][0]
            add("start", "response.output_item.added", output_index=index, item=_begun(item, content=[]))
            add("start", "response.content_part.added", **of_part, part={**part, "text": ""})
            for word in answer.text:
                add("delta", "response.output_text.delta", **of_part, delta=word, logprobs=[])
            add(closing, "response.output_text.done", **of_part, text=part["text"], logprobs=[])
            add(closing, "response.content_part.done", **of_part, part=part)
        else:
            add("start", "response.output_item.added", output_index=index, item=_begun(item, arguments=""))
            for piece in answer.tool_input:
                add("delta", "response.function_call_arguments.delta", **of_item, delta=piece)
            add(closing, "response.function_call_arguments.done", **of_item, arguments=item["arguments"])
        add(closing, "response.output_item.done", output_index=index, item=item)
    done, used = whole(answer, context), usage(answer.usage)
    add("end", f"response.{done['status']}", used, response=done)
    return frames


def whole(answer: Answer, context: Context) -> Json:
    """Give the response as one object."""
    return _response(answer, context, _status(answer), _items(answer, context), usage(answer.usage))


def usage(counted: Usage) -> Json:
    """Say the usage as `response.usage` does: input_tokens includes what was cached."""
    return {
        "input_tokens": counted.prompt,
        "input_tokens_details": {"cached_tokens": counted.cache_read},
        "output_tokens": counted.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted.prompt + counted.output,
    }


def error_frame() -> bytes:
    """Give the error that ends a stream after HTTP 200."""
    return _event({"type": "error", **failure(), "sequence_number": 2})


def _tool_to_call(asked: Json) -> Tool | None:
    """Call the function that tool_choice names, or the first; none when the last item brings a tool's result."""
    choice, items = asked.get("tool_choice"), asked["input"]
    named = choice.get("name") if isinstance(choice, dict) else None
    answered = isinstance(items, list) and items[-1].get("type") == "function_call_output"
    if answered or choice == "none":
        return None
    return first_tool([tool for tool in asked.get("tools") or [] if tool.get("type") == "function"], named)


def _status(answer: Answer) -> str:
    return "incomplete" if answer.stop == "max_tokens" else "completed"


def _items(answer: Answer, context: Context) -> list[Json]:
    """Give the items of the output, as they are in the end."""
    items: list[Json] = []
    if answer.text:
        text = {"type": "output_text", "annotations": [], "logprobs": [], "text": "".join(answer.text)}
        message = {"id": context.id("msg_"), "type": "message", "status": _status(answer), "role": "assistant"}
        items.append({**message, "content": [text]})
    if tool := answer.question.tool:
        call = {"id": context.id("fc_"), "type": "function_call", "status": "completed", "name": tool.name}
        items.append({**call, "call_id": context.id("call_"), "arguments": "".join(answer.tool_input)})
    return items


def _begun(item: Json, **empty: object) -> Json:
    return {**item, "status": "in_progress", **empty}


def _response(answer: Answer, context: Context, status: str, output: list[Json], used: Json | None) -> Json:
    asked = answer.question
    return {
        "id": context.id("resp_"),
        "object": "response",
        "created_at": int(context.now.timestamp()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": asked.prompt[0],
        "max_output_tokens": asked.max_tokens,
        "model": asked.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": asked.prompt[2] or [],
        "usage": used,
        "metadata": {},
    }


def _event(event: Json) -> bytes:
    return f"event: {event['type']}\ndata: {compact(event)}\n\n".encode()
