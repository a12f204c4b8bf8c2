"""Holds, rows and what was read of an answer, as tests need them."""

from __future__ import annotations

from goproxy.core.ledger import Hold, Row, Settlement
from goproxy.core.meter import Reading
from goproxy.core.usage import Usage

NOTHING = Reading(
    usage=None,
    raw_usage=None,
    exact=False,
    ended=False,
    error=None,
    flags=(),
    terms={},
    model=None,
    generated_bytes=0,
)
"""Was read of an answer."""


def a_hold(id_: str, amount: int = 1000, *wallets: str) -> Hold:
    """A hold on `alice` unless wallets are named."""
    return Hold(
        id=id_,
        opened_at="2026-01-02T03:04:05.678Z",
        account="alice",
        key_id="key_1",
        wallets=wallets or ("alice",),
        upstream="openhands",
        endpoint="openhands-anthropic",
        protocol="anthropic",
        model="claude-opus-4-5-20251101",
        stream=True,
        estimated_input_tokens=100,
        amount=amount,
    )


def a_row(hold: Hold, cost: int = 400) -> Row:
    """The hold, settled at this cost."""
    return Row(
        id=hold.id,
        opened_at=hold.opened_at,
        account=hold.account,
        key_id=hold.key_id,
        wallets=hold.wallets,
        upstream=hold.upstream,
        endpoint=hold.endpoint,
        protocol=hold.protocol,
        model=hold.model,
        stream=hold.stream,
        estimated_input_tokens=hold.estimated_input_tokens,
        hold_nanodollars=hold.amount,
        settled_at="2026-01-02T03:04:06.789Z",
        settlement=Settlement.EXACT,
        status=200,
        outcome="ok",
        usage=Usage(input=10, output=20),
        raw_usage={"input_tokens": 10, "output_tokens": 20, "note": "füü\n"},
        flags=(),
        price_version="2025-11-24",
        prices={"input": "5", "output": "25"},
        tier_up_to=None,
        multiplier="1.08",
        cost_nanodollars=cost,
        received_bytes=1234,
        answered_bytes=1234,
        upstream_request_id="req_upstream",
        upstream_model=hold.model,
    )
