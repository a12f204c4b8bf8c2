"""The simulated model: a question in, an answer with its true usage out. Knows no wire format and does no I/O.

The rule of the usage, so that a test can do the sum itself:
- a prompt token is a word (`str.split`) of any string value, at any depth, of the prompt's parts
  (Anthropic: system, messages, tools; OpenAI: messages, tools; Responses: instructions, input, tools). Keys, numbers
  and booleans are free.
- the words of a block that carries `cache_control` are cache writes, for 5 minutes or, with `"ttl": "1h"`, 1 hour.
- an output token is one content delta: one word of thinking or of text, or one piece of a tool call's JSON.
A behaviour's `usage` replaces single numbers, say `{"cache_read": 100}`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Json = dict[str, Any]
Stop = Literal["end", "max_tokens", "tool"]

# Several scripts, so that a proxy that cuts or re-encodes characters is found out.
VOCABULARY = (
    "the", "stream", "goes", "on", "and", "every", "token", "arrives", "as", "it", "was", "sent,", "naïve",
    "déjà-vu", "Größe", "поток", "流れ", "안녕", "\U0001f680", 'a "quoted" word', "back\\slash", "line\nbreak",
)  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """Tokens by kind; `input` excludes the cached ones."""

    input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0

    @property
    def prompt(self) -> int:
        """The whole of it, as OpenAI counts."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read


@dataclass(frozen=True)
class Tool:
    """A tool that the model may call, with the JSON schema of its input."""

    name: str
    schema: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """What a request asks for, whatever the protocol was."""

    model: str
    prompt: tuple[object, ...]
    max_tokens: int | None = None
    tool: Tool | None = None
    thinks: bool = False
    streams: bool = False
    wants_usage: bool = True
    seed: str = ""


@dataclass(frozen=True)
class Answer:
    """What the model says, delta by delta, and what it costs."""

    question: Question
    thinking: tuple[str, ...]
    text: tuple[str, ...]
    tool_input: tuple[str, ...]
    stop: Stop
    usage: Usage


def words(value: object) -> int:
    """Count the words of every string value at any depth."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, Mapping):
        return sum(words(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(words(item) for item in value)
    return 0


def prompt_usage(value: object) -> Usage:
    """Count a prompt, the marked blocks as cache writes."""
    if isinstance(value, Mapping):
        mark = value.get("cache_control")
        if isinstance(mark, Mapping):
            return Usage(cache_write_1h=words(value)) if mark.get("ttl") == "1h" else Usage(cache_write_5m=words(value))
        value = list(value.values())
    if isinstance(value, list | tuple):
        counts = [prompt_usage(item) for item in value]
        return Usage(
            input=sum(count.input for count in counts),
            cache_write_5m=sum(count.cache_write_5m for count in counts),
            cache_write_1h=sum(count.cache_write_1h for count in counts),
        )
    return Usage(input=words(value))


def answer(question: Question, voice: str, events: int, usage: Mapping[str, int]) -> Answer:
    """Answer with `events` content deltas, fewer where max_tokens ends it."""
    budget = max(1, events if question.max_tokens is None else min(events, question.max_tokens))
    dice = random.Random(question.seed)  # the same question, the same words
    opening = f"This is {voice}, a simulated provider, answering as {question.model}:".split()
    thinking = min(budget // 3, 8) if question.thinks else 0
    spoken = min(4, budget - thinking - 1) if question.tool else budget - thinking
    sentence = (opening + dice.choices(VOCABULARY, k=spoken))[:spoken]
    tool_input = _pieces(_example(question.tool.schema, dice), budget - thinking - spoken) if question.tool else ()
    stop: Stop = "tool" if question.tool else "end"
    if question.tool is None and question.max_tokens is not None and question.max_tokens < events:
        stop = "max_tokens"
    said = Answer(
        question=question,
        thinking=_spaced(dice.choices(VOCABULARY, k=thinking)),
        text=_spaced(sentence),
        tool_input=tool_input,
        stop=stop,
        usage=prompt_usage(question.prompt),
    )
    output = len(said.thinking) + len(said.text) + len(said.tool_input)
    return replace(said, usage=replace(said.usage, **{"output": output, **usage}))


def _spaced(sentence: list[str]) -> tuple[str, ...]:
    return tuple(word if number == 0 else f" {word}" for number, word in enumerate(sentence))


def _pieces(value: object, number: int) -> tuple[str, ...]:
    """Cut a value's JSON into about as many pieces."""
    text = json.dumps(value, ensure_ascii=False)
    size = -(-len(text) // max(1, number))
    return tuple(text[start : start + size] for start in range(0, len(text), size))


def _example(schema: Json, dice: random.Random) -> object:
    """Make a value that a tool's JSON schema accepts."""
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("anyOf"):
        return _example(schema["anyOf"][0], dice)
    kinds = schema.get("type", "object")
    kind = kinds[0] if isinstance(kinds, list) else kinds
    if kind == "object":
        return {name: _example(part, dice) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {"type": "string"}), dice)]
    plain = {"integer": schema.get("minimum", 7), "number": schema.get("minimum", 0.5), "boolean": True, "null": None}
    return plain.get(kind, " ".join(dice.choices(VOCABULARY, k=3)))
