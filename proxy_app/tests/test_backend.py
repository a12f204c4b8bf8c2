"""The backend: the catalogue of all upstreams, from files that may change under it."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from goproxy.control_plane.catalogue import Catalogue
from goproxy.control_plane.server import make_app
from goproxy.hosting import Stay, make_runner
from tests.backend import plane_in
from tests.conftest import Lines
from tests.gateway import OPUS, config_document

Session = aiohttp.ClientSession


def write(path: Path, document: dict[str, Any]) -> None:
    """In place, as the role does: a mounted single file cannot be replaced."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(json.dumps(document).encode())
        file.truncate()


@pytest.fixture
def openhands(tmp_path: Path) -> Path:
    path = tmp_path / "config-openhands-prod.json"
    write(path, config_document())
    return path


@pytest.fixture
def ohmygpt(tmp_path: Path) -> Path:
    path = tmp_path / "config-ohmygpt-prod.json"
    gemini = OPUS | {
        "name": "Gemini 3 Pro Preview",
        "id": "gemini-3-pro-preview",
        "id_aliases": [],
        "upstream": "ohmygpt",
        "billing_multiplier": 1.1,
        "prices": [
            {
                "effective_from": "2025-11-18",
                "tiers": [
                    {"up_to_prompt_tokens": 200000, "input": 2, "output": 12, "cache_read": 0.20},
                    {"up_to_prompt_tokens": None, "input": 4, "output": 18, "cache_read": 0.40},
                ],
            }
        ],
    }
    document = config_document(upstream="ohmygpt", domain="chat2.trollllm.xyz", port=8005, models=[gemini])
    document["endpoints"] = document["endpoints"][:1]
    write(path, document | {"multiplier_band": [1.04, 1.1]})
    return path


@pytest.fixture
async def backend(openhands: Path, ohmygpt: Path, tmp_path: Path) -> AsyncIterator[Session]:
    catalogue = Catalogue({"GOPROXY_OPENHANDS_CONFIG_PATH": openhands, "GOPROXY_OHMYGPT_CONFIG_PATH": ohmygpt})
    catalogue.look()
    stay = Stay()
    runner = make_runner(make_app(catalogue, stay, plane_in(tmp_path, catalogue, tmp_path / "keys.json")))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Session(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/") as session:
        yield session
    stay.leave()
    await runner.cleanup()


async def get(backend: Session, path: str) -> Any:
    async with backend.get(path) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_the_catalogue_has_all_models_with_exact_prices(backend: Session) -> None:
    assert await get(backend, "admin/v1/catalogue") == {
        "upstreams": [
            {
                "upstream": "ohmygpt",
                "domain": "chat2.trollllm.xyz",
                "protocols": ["anthropic"],
                "multiplier_band": ["1.04", "1.1"],
                "models": [
                    {
                        "id": "gemini-3-pro-preview",
                        "name": "Gemini 3 Pro Preview",
                        "aliases": [],
                        "upstream": "ohmygpt",
                        "upstream_model_id": "claude-opus-4-5-20251101",
                        "multiplier": "1.1",
                        "prices": [
                            {
                                "effective_from": "2025-11-18",
                                "tiers": [
                                    {
                                        "up_to_prompt_tokens": 200000,
                                        "list": {"input": "2", "output": "12", "cache_read": "0.2"},
                                        "effective": {"input": "2.2", "output": "13.2", "cache_read": "0.22"},
                                    },
                                    {
                                        "up_to_prompt_tokens": None,
                                        "list": {"input": "4", "output": "18", "cache_read": "0.4"},
                                        "effective": {"input": "4.4", "output": "19.8", "cache_read": "0.44"},
                                    },
                                ],
                                "terms": {},
                            }
                        ],
                    }
                ],
            },
            {
                "upstream": "openhands",
                "domain": "chat.trollllm.xyz",
                "protocols": ["anthropic", "openai"],
                "multiplier_band": ["1.06", "1.08"],
                "models": [
                    {
                        "id": "claude-opus-4-5-20251101",
                        "name": "Claude Opus 4.5",
                        "aliases": ["claude-opus-4-5"],
                        "upstream": "openhands",
                        "upstream_model_id": "claude-opus-4-5-20251101",
                        "multiplier": "1.08",
                        "prices": [
                            {
                                "effective_from": "2025-11-24",
                                "tiers": [
                                    {
                                        "up_to_prompt_tokens": None,
                                        "list": {
                                            "input": "5",
                                            "output": "25",
                                            "cache_write_5m": "6.25",
                                            "cache_write_1h": "10",
                                            "cache_read": "0.5",
                                        },
                                        "effective": {
                                            "input": "5.4",
                                            "output": "27",
                                            "cache_write_5m": "6.75",
                                            "cache_write_1h": "10.8",
                                            "cache_read": "0.54",
                                        },
                                    }
                                ],
                                "terms": {},
                            }
                        ],
                    }
                ],
            },
        ]
    }


async def multiplier(backend: Session) -> str:
    catalogue = await get(backend, "admin/v1/catalogue")
    found: str = catalogue["upstreams"][1]["models"][0]["multiplier"]
    return found


async def until(backend: Session, wanted: str) -> None:
    began = time.monotonic()
    while await multiplier(backend) != wanted:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.02)


def with_multiplier(number: float) -> dict[str, Any]:
    document = copy.deepcopy(config_document())
    document["models"][0]["billing_multiplier"] = number
    return document


async def test_a_change_in_place_shows(backend: Session, openhands: Path) -> None:
    assert await multiplier(backend) == "1.08"
    write(openhands, with_multiplier(1.07))
    await until(backend, "1.07")


@pytest.mark.parametrize("broken", [b"", b'{"upstream": "openh', b'{"upstream": "openhands"}', None])
async def test_a_broken_file_leaves_the_last_good_one_and_says_so(
    backend: Session, openhands: Path, lines: Lines, eventually: Callable[..., Any], broken: bytes | None
) -> None:
    if broken is None:
        openhands.unlink()
    else:
        openhands.write_bytes(broken)
    await eventually(lambda: bool(lines.all("configuration is broken; the last good one stays")))
    line = lines.all("configuration is broken; the last good one stays")[-1]
    assert (line["level"], line["variable"]) == ("error", "GOPROXY_OPENHANDS_CONFIG_PATH")
    assert str(openhands) in line["problem"]
    assert await multiplier(backend) == "1.08"
    ready = await get(backend, "readyz")
    assert ready["ready"] is True
    assert str(openhands) in ready["detail"]
    async with backend.get("metrics") as answer:
        assert "goproxy_configurations_broken 1.0\n" in await answer.text()

    write(openhands, with_multiplier(1.06))
    await until(backend, "1.06")
    assert (await get(backend, "readyz"))["detail"] == "all configurations are as their files say"


async def test_a_file_that_is_read_while_it_is_written_is_read_again(
    backend: Session, openhands: Path, eventually: Callable[..., Any], lines: Lines
) -> None:
    data = json.dumps(with_multiplier(1.07)).encode()
    with openhands.open("r+b") as file:
        file.truncate(0)
        for at in range(0, len(data), 200):
            file.write(data[at : at + 200])
            file.flush()
            await asyncio.sleep(0.08)
    assert lines.all("configuration is broken; the last good one stays")
    await until(backend, "1.07")


async def test_a_variable_that_names_another_upstreams_file(openhands: Path) -> None:
    catalogue = Catalogue({"GOPROXY_OHMYGPT_CONFIG_PATH": openhands})
    catalogue.look()
    assert catalogue.problems == {
        "GOPROXY_OHMYGPT_CONFIG_PATH": f"{openhands}: upstream: 'openhands' in the file that "
        "GOPROXY_OHMYGPT_CONFIG_PATH names; expected GOPROXY_OPENHANDS_CONFIG_PATH"
    }
    assert catalogue.document() == {"upstreams": []}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "admin/v1/x", 404), ("POST", "admin/v1/catalogue", 405)]
)
async def test_errors_are_json(backend: Session, method: str, path: str, status: int) -> None:
    async with backend.request(method, path) as answer:
        assert answer.status == status
        assert f"{method} /{path}" in (await answer.json())["error"]["message"]
        assert answer.headers["X-Request-Id"].startswith("req_")


async def test_the_backend_says_that_it_lives(backend: Session) -> None:
    assert await get(backend, "healthz") == {"status": "ok"}
