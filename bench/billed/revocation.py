"""From the operator's word that a key is revoked until each proxy refuses it on a connection that is open."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from billed.provider import truthful_provider
from billed.report import Findings
from billed.rig import Rig, a_rig
from tests.gateway import Running
from tests.raw import connected

_LIMIT_MS = 1000
_EVERY = 0.002
_GET = "GET /v1/models HTTP/1.1\r\nHost: gateway\r\nx-api-key: %s\r\n\r\n"


async def measure(directory: Path, keys: int) -> Findings:
    """So many keys, one after the other."""
    findings = Findings()
    async with truthful_provider() as provider, a_rig(directory, provider.url) as rig:
        took = [await _revoke(rig, f"account-{number}") for number in range(keys)]
    longest = round(1000 * max(took), 1)
    findings.count("billing.revocation_ms_max", longest)
    findings.note("billing.revocations", keys)
    if longest >= _LIMIT_MS:
        findings.wrong(f"a revoked key was let in for {longest} ms")
    return findings


async def _revoke(rig: Rig, account: str) -> float:
    """Seconds until both proxies refuse it."""
    shown = await rig.new_account(account, 1)
    (key,) = (await rig.backend.get("keys", account=account))["keys"]
    is_used = [asyncio.Event() for _ in rig.proxies]
    refused = [
        asyncio.create_task(_refused_at(proxy, shown, used))
        for proxy, used in zip(rig.proxies.values(), is_used, strict=True)
    ]
    await asyncio.gather(*(used.wait() for used in is_used))
    began = time.monotonic()
    await rig.backend.post(f"keys/{key['id']}/revoke", None)
    return max(await asyncio.gather(*refused)) - began


async def _refused_at(proxy: Running, key: str, used: asyncio.Event) -> float:
    """Use the key on one connection until it is refused; the point in time of that answer."""
    async with connected(proxy.port) as raw:
        while True:
            await raw.send((_GET % key).encode())
            status, _ = await raw.answer()
            if status == 401:
                return time.monotonic()
            assert status == 200
            used.set()
            await asyncio.sleep(_EVERY)
