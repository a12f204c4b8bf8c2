"""GET /v1/models, and the pages for the private network."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.gateway import OPUS
from tests.provider import Provider

ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.fixture
def document(document: dict[str, Any]) -> dict[str, Any]:
    gemini = OPUS | {
        "name": "Gemini 3 Pro Preview",
        "id": "google/gemini-3-pro-preview",
        "id_aliases": [],
        "upstream_model_id": "gemini-3-pro-preview",
    }
    return document | {"models": [OPUS, gemini]}


async def test_models_in_anthropics_shape(client: aiohttp.ClientSession) -> None:
    async with client.get("v1/models?limit=20", headers=ANTHROPIC) as answer:
        body = await answer.json()
        assert (answer.status, answer.headers["request-id"]) == (200, answer.headers["X-Request-Id"])
    assert [model["id"] for model in body["data"]] == ["claude-opus-4-5-20251101", "google/gemini-3-pro-preview"]
    assert body["data"][0]["display_name"] == "Claude Opus 4.5"
    assert body["has_more"] is False


async def test_models_in_openais_shape(client: aiohttp.ClientSession) -> None:
    async with client.get("v1/models") as answer:
        body = await answer.json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["claude-opus-4-5-20251101", "google/gemini-3-pro-preview"]


@pytest.mark.parametrize(
    ("asked", "id_"),
    [
        ("claude-opus-4-5-20251101", "claude-opus-4-5-20251101"),
        ("claude-opus-4-5", "claude-opus-4-5-20251101"),
        ("google/gemini-3-pro-preview", "google/gemini-3-pro-preview"),
        ("google%2Fgemini-3-pro-preview", "google/gemini-3-pro-preview"),
    ],
)
@pytest.mark.parametrize("headers", [ANTHROPIC, {}])
async def test_a_model_is_found_by_its_id_and_by_its_alias(
    client: aiohttp.ClientSession, asked: str, id_: str, headers: dict[str, str]
) -> None:
    url = URL(f"v1/models/{asked}", encoded=True)
    async with client.get(url, headers=headers) as answer:
        assert (answer.status, (await answer.json())["id"]) == (200, id_)


async def test_a_model_that_there_is_not(client: aiohttp.ClientSession) -> None:
    async with client.get("v1/models/gpt-5") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["v1/models", "v1/models/claude-opus-4-5"])
async def test_models_are_shown_to_those_who_have_a_key(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path, headers={"x-api-key": "wrong"}) as answer:
        assert answer.status == 401


async def test_the_upstream_is_not_asked(client: aiohttp.ClientSession, provider: Provider) -> None:
    async with client.get("v1/models"):
        assert provider.connections == 0


@pytest.mark.parametrize("path", ["healthz", "readyz", "metrics"])
async def test_the_private_pages_need_no_key_and_have_an_id(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path, headers={"x-api-key": ""}) as answer:
        assert answer.status == 200
        assert answer.headers["X-Request-Id"].startswith("req_")
        assert answer.headers["Server"] == "goproxy"
