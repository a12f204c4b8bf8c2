"""A backend that runs in the test's own process, on a port and a SQLite file of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web

from goproxy.control_plane.catalogue import Catalogue
from goproxy.control_plane.credentials import ProxyTokens, TokenFile
from goproxy.control_plane.declared import DeclaredFile
from goproxy.control_plane.metrics import Metrics
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.server import make_app
from goproxy.control_plane.store.database import Database
from goproxy.hosting import Stay, make_runner

OPERATOR_TOKEN = "operator-CANARY-0123456789abcdef"


def proxy_token(upstream: str) -> str:
    """What the proxy of an upstream shows."""
    return f"proxy-token-of-{upstream}"


@cache
def _empty_store() -> bytes:
    """A store with its tables, made once: migrating takes longer than most tests."""
    with TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{directory}/backend.sqlite3")
        database.migrate()
        database.close()
        return (Path(directory) / "backend.sqlite3").read_bytes()


def plane_in(directory: Path, catalogue: Catalogue, keys: Path) -> ControlPlane:
    """A control plane whose store and credentials are in a directory."""
    store = directory / "backend.sqlite3"
    if not store.exists():
        store.write_bytes(_empty_store())
    return ControlPlane(
        catalogue,
        Database(f"sqlite:///{store}"),
        operator=TokenFile(directory / "operator"),
        proxies=ProxyTokens(directory / "tokens"),
        declared=DeclaredFile(keys),
        metrics=Metrics(),
    )


@dataclass
class Backend:
    """The control plane of the upstreams of these configurations; `stop` and `start` as often as need be."""

    directory: Path
    documents: dict[str, dict[str, Any]]
    """By upstream."""
    keys: Path
    port: int = 0
    _runner: web.AppRunner | None = field(default=None, repr=False)
    _stay: Stay = field(default_factory=Stay, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        paths = {}
        for upstream, document in self.documents.items():
            path = paths[f"GOPROXY_{upstream.upper()}_CONFIG_PATH"] = self.directory / f"config-{upstream}.json"
            path.write_text(json.dumps(document))
            self._digest(self.directory / "tokens" / upstream, proxy_token(upstream))
        self._digest(self.directory / "operator", OPERATOR_TOKEN)
        catalogue = Catalogue(paths)
        catalogue.look()
        assert not catalogue.problems
        plane = plane_in(self.directory, catalogue, self.keys)
        self._stay = Stay()
        self._runner = make_runner(make_app(catalogue, self._stay, plane))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        async with asyncio.timeout(30):
            while self.keys.exists() and not plane.feed.version:  # who comes sooner is told that no key lives
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        if self._runner is not None:
            self._stay.leave()
            await self._runner.cleanup()
            self._runner = None

    @staticmethod
    def _digest(path: Path, token: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(hashlib.sha256(token.encode()).hexdigest())

    async def get(self, path: str, **query: str) -> Any:
        """An answer of the admin API."""
        headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{self.url}/admin/v1/{path}", params=query) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, document: Any) -> Any:
        """Change something by the admin API."""
        headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{self.url}/admin/v1/{path}", json=document) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return await answer.json()


@asynccontextmanager
async def running_backend(directory: Path, keys: Path, *documents: dict[str, Any]) -> AsyncIterator[Backend]:
    """Run a backend for the upstreams of these configurations."""
    directory.mkdir(exist_ok=True)
    backend = Backend(directory, {document["upstream"]: document for document in documents}, keys)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.stop()
