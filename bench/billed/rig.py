"""What is measured: the proxies of two upstreams with one backend, all real, over loopback, on this machine's disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from billed.prices import OHMYGPT, OPENHANDS, models_of
from goproxy.data_plane.books import Standing
from tests.backend import Backend, running_backend
from tests.gateway import ALICE, Running, config_document, endpoints_at, running_proxy, write_keys

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions", "responses": "/v1/responses"}
_CREDIT = 10**17
_TIMEOUTS = {"connect": 10, "first_byte": 60, "idle": 60, "total": 600}


@dataclass(frozen=True)
class Rig:
    """Two proxies and their backend. When a client leaves, `openhands` drains its answer and `ohmygpt` breaks off."""

    backend: Backend
    openhands: Running
    ohmygpt: Running

    @property
    def proxies(self) -> dict[str, Running]:
        """By upstream."""
        return {OPENHANDS: self.openhands, OHMYGPT: self.ohmygpt}

    async def is_posted(self) -> None:
        """Wait until the backend has every row, but not for ever: what is missing then is missing."""
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                for proxy in self.proxies.values():
                    while _has_more(proxy.books.standing):
                        await asyncio.sleep(0.05)

    async def rows(self, account: str = "alice") -> AsyncIterator[dict[str, Any]]:
        """The ledger's rows of requests, page by page."""
        query = {"account": account, "kind": "request", "limit": "1000"}
        while True:
            page = await self.backend.get("rows", **query)
            for row in page["rows"]:
                yield row
            if page["next"] is None:
                return
            query["before"] = page["next"]

    async def wallet(self, account: str = "alice") -> dict[str, int]:
        """Where the credits of an account are, in nano-dollars."""
        (wallet,) = (await self.backend.get("wallets", account=account))["wallets"]
        return {name.removesuffix("_nanodollars"): value for name, value in wallet.items() if isinstance(value, int)}

    async def grant(self, account: str, amount: int) -> None:
        """Give an account credit."""
        credit = {"id": f"{account}:{amount}", "wallet": account, "kind": "grant", "amount_nanodollars": amount}
        await self.backend.post("credits", credit)

    async def new_account(self, account: str, amount: int) -> str:
        """An account with credit, and its key, which both proxies know."""
        await self.backend.post("accounts", {"name": account})
        await self.grant(account, amount)
        key: str = (await self.backend.post(f"accounts/{account}/keys", {}))["key"]
        async with asyncio.timeout(5):
            while not all(proxy.books.keys.find(key) for proxy in self.proxies.values()):
                await asyncio.sleep(0.005)
        return key


def _has_more(standing: Standing) -> bool:
    return bool(standing.open_requests or standing.unsettled_rows or standing.unposted_rows)


@asynccontextmanager
async def a_rig(directory: Path, provider_url: str, **changes: Any) -> AsyncIterator[Rig]:
    """Run it in a directory of its own; `changes` are to the configurations."""
    directory.mkdir()
    keys = directory / "keys.json"
    write_keys(keys, alice=ALICE)
    documents = [
        config_document(
            upstream=upstream,
            endpoints=endpoints_at(provider_url),
            models=models_of(upstream),
            multiplier_band=[1, 2],
            timeouts=_TIMEOUTS,
            disconnect={"policy": policy, "concurrent": 10_000},
        )
        | changes
        for upstream, policy in ((OPENHANDS, "drain"), (OHMYGPT, "abort"))
    ]
    async with (
        running_backend(directory / "backend", keys, *documents) as backend,
        running_proxy(documents[0], backend) as openhands,
        running_proxy(documents[1], backend) as ohmygpt,
    ):
        rig = Rig(backend, openhands, ohmygpt)
        await rig.grant("alice", _CREDIT)
        yield rig
