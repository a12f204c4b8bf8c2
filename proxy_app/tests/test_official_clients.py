"""The official clients, unmodified but for base URL and key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import anthropic
import openai
import pytest
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionMessageParam

from tests.gateway import ALICE, Running, config_document, endpoints_at, running_gateway
from tests.provider import (
    ANTHROPIC_EVENTS,
    ANTHROPIC_MESSAGE,
    OPENAI_COMPLETION,
    OPENAI_EVENTS,
    Provider,
    Received,
    Wire,
)

MODEL = "claude-opus-4-5"
SAY: list[MessageParam] = [{"role": "user", "content": "Say hello"}]
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]


async def answer(request: Received, wire: Wire) -> None:
    """What a provider of both protocols does."""
    wants_stream = b'"stream":true' in request.body.replace(b" ", b"")
    match request.target.partition("?")[0], wants_stream:
        case "/v1/messages/count_tokens", _:
            await wire.whole({"input_tokens": 14})
        case "/v1/messages", True:
            await wire.stream(ANTHROPIC_EVENTS)
        case "/v1/messages", False:
            await wire.whole(ANTHROPIC_MESSAGE)
        case _, True:
            await wire.stream(OPENAI_EVENTS)
        case _, False:
            await wire.whole(OPENAI_COMPLETION)


@pytest.fixture
async def claude(gateway: Running, provider: Provider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    provider.script = answer
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=ALICE, max_retries=0) as client:
        yield client


@pytest.fixture
async def gpt(gateway: Running, provider: Provider) -> AsyncIterator[openai.AsyncOpenAI]:
    provider.script = answer
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE, max_retries=0) as client:
        yield client


async def test_anthropic_whole(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(model=MODEL, max_tokens=9, messages=SAY)
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello"
    assert (message._request_id or "").startswith("req_")


async def test_anthropic_with_tools_and_system_and_beta(claude: anthropic.AsyncAnthropic, provider: Provider) -> None:
    await claude.beta.messages.create(
        model=MODEL,
        max_tokens=9,
        system="Be brief.",
        tools=[{"name": "now", "description": "The time", "input_schema": {"type": "object"}}],
        messages=[{"role": "user", "content": "Say hello"}],
        betas=["context-1m-2025-08-07"],
    )
    assert provider.last.header("anthropic-beta") == "context-1m-2025-08-07"
    assert provider.last.header("anthropic-version")
    assert b'"system"' in provider.last.body


async def test_anthropic_streaming(claude: anthropic.AsyncAnthropic) -> None:
    async with claude.messages.stream(model=MODEL, max_tokens=9, messages=SAY) as stream:
        text = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert text == ["Grüße ", "🌍"]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 7)


async def test_anthropic_count_tokens(claude: anthropic.AsyncAnthropic) -> None:
    counted = await claude.messages.count_tokens(model=MODEL, messages=SAY)
    assert counted.input_tokens == 14


async def test_anthropic_models(claude: anthropic.AsyncAnthropic) -> None:
    assert [model.id async for model in claude.models.list()] == ["claude-opus-4-5-20251101"]
    assert (await claude.models.retrieve(MODEL)).display_name == "Claude Opus 4.5"


async def test_anthropic_with_a_bearer_token(gateway: Running, provider: Provider) -> None:
    provider.script = answer
    async with anthropic.AsyncAnthropic(base_url=gateway.url, auth_token=ALICE, api_key=None) as client:
        message = await client.messages.create(model=MODEL, max_tokens=9, messages=SAY)
    assert message.stop_reason == "end_turn"


async def test_anthropic_errors(claude: anthropic.AsyncAnthropic, gateway: Running) -> None:
    with pytest.raises(anthropic.NotFoundError, match="There is no model 'gpt-5'"):
        await claude.messages.create(model="gpt-5", max_tokens=9, messages=SAY)
    with pytest.raises(anthropic.AuthenticationError) as refused:
        await claude.with_options(api_key="wrong").messages.create(
            model=MODEL,
            max_tokens=9,
            messages=SAY,
        )
    assert refused.value.type == "authentication_error"
    with pytest.raises(anthropic.APIStatusError, match="larger than 1048576 bytes"):
        await claude.messages.create(
            model=MODEL,
            max_tokens=9,
            messages=[{"role": "user", "content": "x" * 1048576}],
        )


async def test_openai_whole(gpt: openai.AsyncOpenAI) -> None:
    completion = await gpt.chat.completions.create(model=MODEL, messages=ASK)
    assert completion.choices[0].message.content == "Hello"
    assert (completion._request_id or "").startswith("req_")


async def test_openai_streaming(gpt: openai.AsyncOpenAI) -> None:
    stream = await gpt.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello"


async def test_openai_models(gpt: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in gpt.models.list()] == ["claude-opus-4-5-20251101"]
    assert (await gpt.models.retrieve(MODEL)).owned_by == "openhands"


async def test_openai_errors(gpt: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await gpt.chat.completions.create(model="gpt-5", messages=ASK)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError) as refused:
        await gpt.with_options(api_key="wrong").models.list()
    assert refused.value.code == "invalid_api_key"


async def test_openai_at_an_upstream_without_it(provider: Provider, keys: Path) -> None:
    document = config_document(endpoints=endpoints_at(provider.url, "anthropic"))
    async with (
        running_gateway(document, keys) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE) as client,
    ):
        with pytest.raises(openai.NotFoundError, match="has no openai endpoint"):
            await client.chat.completions.create(model=MODEL, messages=ASK)


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda events: events[0], id="between events"),
        pytest.param(lambda events: events[0] + events[1][:-1], id="before the blank line"),
        pytest.param(lambda events: events[0] + events[1][:-1].replace(b"\n", b"\r"), id="before the blank line, CR"),
        pytest.param(lambda events: events[0] + b"event: of_the_future\n", id="after a name"),
        pytest.param(lambda events: b"id: 7\n" + events[0], id="after an id"),
    ],
)
async def test_a_stalled_stream_is_an_error_in_both(
    provider: Provider, keys: Path, cut: Callable[[Sequence[bytes]], bytes]
) -> None:
    async def script(request: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(cut(ANTHROPIC_EVENTS if "messages" in request.target else OPENAI_EVENTS))
        await wire.until_closed()

    provider.script = script
    timeouts = {"connect": 1, "first_byte": 1, "idle": 0.2, "total": 5}
    document = config_document(endpoints=endpoints_at(provider.url), timeouts=timeouts)
    async with running_gateway(document, keys) as gateway:
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=ALICE) as claude:
            with pytest.raises(anthropic.APIStatusError, match=r"sent nothing for 0\.2 s"):
                async for _ in await claude.messages.create(
                    model=MODEL,
                    max_tokens=9,
                    messages=SAY,
                    stream=True,
                ):
                    pass
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE) as gpt:
            with pytest.raises(openai.APIError, match=r"sent nothing for 0\.2 s"):
                async for _ in await gpt.chat.completions.create(model=MODEL, messages=ASK, stream=True):
                    pass


async def test_a_truncated_stream_is_an_error_in_both(
    gateway: Running, claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI, provider: Provider
) -> None:
    async def script(request: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk((ANTHROPIC_EVENTS if "messages" in request.target else OPENAI_EVENTS)[0])
        wire.hang_up()

    provider.script = script
    with pytest.raises(Exception, match=r"(?i)incomplete|connection|closed"):
        async for _ in await claude.messages.create(
            model=MODEL,
            max_tokens=9,
            messages=SAY,
            stream=True,
        ):
            pass
    with pytest.raises(openai.APIConnectionError):
        async for _ in await gpt.chat.completions.create(model=MODEL, messages=ASK, stream=True):
            pass
