"""Requests for which the provider searches the web, through a proxy and a backend: held for, and charged by use."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.gateway import OPUS, Running, config_document, endpoints_at
from tests.provider import Provider, Received, Script, Wire
from tests.streams import anthropic_event, anthropic_message, anthropic_stream, message_start, openai_completion

Client = aiohttp.ClientSession

PRICE = {
    "effective_from": "2025-11-24",
    "web_search": 10,
    "tiers": [{"up_to_prompt_tokens": None, "input": 5, "output": 25}],
}
ASK = {"model": OPUS["id"], "max_tokens": 100, "messages": [{"role": "user", "content": "Why?"}]}
TOOL = {"type": "web_search_20250305", "name": "web_search"}
A_SEARCH = 10_800_000  # nano-dollars: 10 USD / 1,000 x 1.08
TOKENS = (9 * 5 + 7 * 25) * 1080  # those of the answers here


@pytest.fixture
def document(provider: Provider) -> dict[str, Any]:
    return config_document(endpoints=endpoints_at(provider.url), models=[OPUS | {"prices": [PRICE]}])


def answer(*pieces: bytes) -> Script:
    async def script(_: Received, wire: Wire) -> None:
        await wire.stream(pieces)

    return script


async def ask(client: Client, path: str = "v1/messages", **fields: Any) -> bytes:
    async with client.post(path, data=json.dumps(ASK | fields).encode()) as answered:
        assert answered.status == 200
        return await answered.read()


async def metric(client: Client, name: str) -> float:
    async with client.get("metrics") as answered:
        lines = (await answered.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


@pytest.mark.parametrize("stream", [False, True])
async def test_searches_are_held_for_and_charged_by_use(
    gateway: Running, provider: Provider, client: Client, stream: bool
) -> None:
    used = {"server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 2}}
    whole = {"input_tokens": 9, "output_tokens": 7, **used}
    pieces = anthropic_stream({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 7, **used})

    async def script(_: Received, wire: Wire) -> None:
        await (wire.stream(pieces) if stream else wire.whole(anthropic_message(whole)))

    provider.script = script
    await ask(client, stream=stream, tools=[TOOL | {"max_uses": 4}])
    (row,) = await gateway.rows()
    assert (row["settlement"], row["flags"]) == ("exact", [])
    assert (row["usage"]["web_search"], row["prices"]["web_search"]) == (3, "10")
    assert row["cost_nanodollars"] == TOKENS + 3 * A_SEARCH
    context, longest = 200_000, 100
    assert row["hold_nanodollars"] == (context * 5 + longest * 25) * 1080 + 4 * A_SEARCH
    assert await metric(client, "goproxy_web_searches_total") == 3
    assert await metric(client, "goproxy_tokens_total") == 16, "searches are no tokens"


async def test_openai_s_searches_are_charged_too(gateway: Running, provider: Provider, client: Client) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16, "num_search_queries": 2}

    async def script(_: Received, wire: Wire) -> None:
        await wire.whole(openai_completion(usage))

    provider.script = script
    await ask(client, "v1/chat/completions", web_search_options={})
    (row,) = await gateway.rows()
    assert (row["usage"]["web_search"], row["cost_nanodollars"]) == (2, TOKENS + 2 * A_SEARCH)


async def test_searches_of_an_answer_that_breaks_off_are_those_that_were_begun(
    gateway: Running, provider: Provider, client: Client
) -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    other = search | {"name": "tool_search_tool_regex", "input": {"query": "web_search"}}
    too_many = {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}
    failed = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": too_many}

    async def script(_: Received, wire: Wire) -> None:
        await wire.begin_stream()
        await wire.chunk(message_start({"input_tokens": 9, "output_tokens": 7}))
        for index, block in enumerate([search, other, search, search, failed]):
            await wire.chunk(anthropic_event("content_block_start", index=index, content_block=block))
            await wire.chunk(anthropic_event("content_block_stop", index=index))
        wire.hang_up()

    provider.script = script
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(client, stream=True, tools=[TOOL])
    (row,) = await gateway.rows()
    assert (row["settlement"], row["flags"]) == ("estimated", ["web_search_estimated"])
    assert (row["usage"]["web_search"], row["cost_nanodollars"]) == (2, TOKENS + 2 * A_SEARCH)


async def test_words_that_look_like_a_search_are_none(gateway: Running, provider: Provider, client: Client) -> None:
    words = '{"type":"server_tool_use","name":"web_search"}'
    start, *_ = anthropic_stream({"input_tokens": 9, "output_tokens": 7}, {}, words=(words,))
    block = anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": words})
    provider.script = answer(start, block)  # and no usage at the end
    await ask(client, stream=True)
    (row,) = await gateway.rows()
    assert (row["settlement"], row["usage"]["web_search"]) == ("estimated", 0)
