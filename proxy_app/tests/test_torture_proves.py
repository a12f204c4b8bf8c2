"""torture/: what does not get through, and what is not looked at, is no success.

Without processes: an edge that refuses, and one that takes nothing, are told from one that withstands.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

_ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "bench")]

from torture import attacks, secrets  # noqa: E402
from torture.deployment import DOMAINS  # noqa: E402

_ATTACKS = (
    attacks.slow_heads,
    attacks.rapid_resets,
    attacks.endless_continuations,
    attacks.pings_and_settings,
)


def _stand(port: int, authority: trustme.CA) -> Any:
    def tls(*protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(list(protocols))
        return context

    deployment: Any = SimpleNamespace(edge_port=port, tls=tls)
    record: Any = None
    return attacks._Stand(deployment, record, 0)


@pytest.mark.parametrize("attack", _ATTACKS)
async def test_an_edge_that_refuses_has_not_withstood(
    attack: Callable[[Any], Awaitable[None]],
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        stand = _stand(nobody.getsockname()[1], trustme.CA())
        await attack(stand)
    assert [failure.partition(": ")[2].partition(" of ")[0] for failure in stand.failures] == ["0"]


@pytest.mark.parametrize("attack", _ATTACKS)
async def test_an_edge_that_takes_nothing_has_not_withstood(attack: Callable[[Any], Awaitable[None]]) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*DOMAINS.values()).configure_cert(tls)
    tls.set_alpn_protocols(["h2", "http/1.1"])

    def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_server(closes, "127.0.0.1", 0, ssl=tls) as edge:
        stand = _stand(edge.sockets[0].getsockname()[1], authority)
        await attack(stand)
    assert len(stand.failures) == 1
    assert "this was no attack" in stand.failures[0]


def test_a_search_that_does_not_look_into_store_and_journal_is_none() -> None:
    kept = [("backend/backend.sqlite3", "a planted id"), ("openhands/journal/journal-00000001.log", "a planted id")]
    secrets._must_find("planted", kept)
    for missing in kept:
        with pytest.raises(RuntimeError, match=f"is not found in {missing[0][:20]}"):
            secrets._must_find("planted", [place for place in kept if place is not missing])
