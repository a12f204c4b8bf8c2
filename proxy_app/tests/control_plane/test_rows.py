"""The ledger: every row is kept once, as it was posted; a row that cannot be kept does not sink the others."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, update

from goproxy.control_plane.store import accounts, rows, totals, walk, wallets
from goproxy.control_plane.store.schema import rows as table
from goproxy.core.ledger import Row, Settlement
from goproxy.core.usage import Usage
from tests.conftest import Lines
from tests.control_plane.backend import AS_LISTED, DOLLAR, OPERATOR, PROXY, Backend, row
from tests.control_plane.conftest import on_sqlite
from tests.gateway import OPUS


async def listed(backend: Backend, query: str = "") -> list[Any]:
    found: list[Any] = (await backend.admin("GET", f"/rows?kind=request&{query}"))["rows"]
    return found


async def test_a_row_is_kept_as_it_was_posted(backend: Backend) -> None:
    await backend.account()
    posted = row(1, cost=AS_LISTED, key_id=(await backend.key())["id"], flags=("a", "b"))
    await backend.post("i1", posted)
    (kept,) = await listed(backend)
    assert Row.from_json(kept) == posted
    added = {name: kept[name] for name in kept.keys() - posted.to_json().keys()}
    assert added.pop("received_at").endswith("Z")
    assert added == {"kind": "request", "instance": "i1", "adjustment_nanodollars": 0, "adjusted_multiplier": None}


async def test_a_row_without_an_answer_is_kept_as_it_was_posted(backend: Backend) -> None:
    await backend.account()
    nothing = {"raw_usage": None, "upstream_request_id": None, "upstream_model": None, "status": 0, "usage": Usage()}
    key, prices = (await backend.key())["id"], row(1, cost=AS_LISTED).prices
    posted = row(1, cost=0, settlement=Settlement.INTERRUPTED, key_id=key, prices=prices, **nothing)
    await backend.post("i1", posted)
    assert Row.from_json((await listed(backend))[0]) == posted


async def test_a_row_keeps_its_terms_and_one_of_an_older_proxy_has_none(backend: Backend) -> None:
    await backend.account()
    served = row(1, terms="inference_geo=us,speed=fast")
    await backend.post("i1", served)
    older = row(2).to_json()
    del older["terms"]
    body = {"instance": "i1", "upstream": "openhands", "rows": [older, served.to_json()]}
    answer = await backend.proxy("/rows", body)
    assert answer.json == {"accepted": [row(2).id, row(1).id], "rejected": []}
    assert [each["terms"] for each in await listed(backend)] == ["", "inference_geo=us,speed=fast"]


@on_sqlite
async def test_rerating_finds_the_price_of_the_terms(backend: Backend) -> None:
    """It was added to the price book after the request had been served."""
    await backend.account(dollars=10)
    usage = Usage(input=1_000_000)
    served = row(1, cost=54 * DOLLAR // 10, usage=usage, terms="speed=fast", flags=("speed_other",))
    await backend.post("i1", served, row(2, cost=54 * DOLLAR // 10, usage=usage))
    assert (await rerate(backend))["differing"] == 0
    backend.offer(terms=[{"speed": "fast", "tiers": [{"up_to_prompt_tokens": None, "input": 30, "output": 150}]}])
    done = await rerate(backend, apply=True)
    assert (done["differing"], done["difference_nanodollars"]) == (1, (324 - 54) * DOLLAR // 10)
    assert (await rerate(backend, apply=True))["differing"] == 0


async def test_a_row_that_comes_again_changes_nothing_whatever_it_says(backend: Backend) -> None:
    await backend.account()
    await backend.post("i1", row(1, cost=10), row(2, cost=20), row(1, cost=99))
    again = await backend.post("i1", row(2, cost=77), row(3, cost=30))
    assert again == {"accepted": [row(2).id, row(3).id], "rejected": []}
    costs = {each["id"]: each["cost_nanodollars"] for each in await listed(backend)}
    assert costs == {row(1).id: 10, row(2).id: 20, row(3).id: 30}
    assert (await backend.wallet("alice"))["spent_nanodollars"] == 60


async def test_a_row_counts_in_each_of_its_wallets(backend: Backend) -> None:
    await backend.account()
    key = (await backend.key(limit_nanodollars=DOLLAR))["id"]
    limit = f"key:{key}"
    await backend.post("i1", row(1, cost=5, key_id=key, wallets=("alice", limit)))
    for wallet in ("alice", limit):
        assert (await backend.wallet(wallet))["spent_nanodollars"] == 5


async def test_a_row_of_nobody_we_know_is_kept_and_flagged(backend: Backend) -> None:
    answer = await backend.post("i1", row(1, AS_LISTED, account="mallory", wallets=("mallory",)))
    assert answer["rejected"] == []
    (kept,) = await listed(backend)
    assert kept["flags"] == ["total_mismatch", "unknown_account", "unknown_key", "unknown_wallet"]
    assert (await backend.wallet("mallory"))["balance_nanodollars"] == -AS_LISTED


HOSTILE = "x\0y\ud800z😀'\"; DROP TABLE ledger_rows; --"


async def test_what_an_upstream_calls_things_is_kept_as_far_as_it_can_be(backend: Backend) -> None:
    await backend.account()
    posted = row(1, upstream_model=HOSTILE, upstream_request_id=HOSTILE, outcome=HOSTILE, flags=(HOSTILE,))
    posted = replace(posted, raw_usage={HOSTILE: [HOSTILE, float("inf"), float("nan"), 10**40]})
    assert (await backend.post("i1", posted))["accepted"] == [posted.id]
    (kept,) = await listed(backend)
    assert kept["upstream_model"] == "x\ufffdy?z😀'\"; DROP TABLE ledger_rows; --"
    assert len(await listed(backend, "limit=1")) == 1


def nested(depth: int) -> Any:
    return {"in": nested(depth - 1)} if depth else {}


async def test_the_largest_row_of_a_proxy_is_kept_and_shown(backend: Backend) -> None:
    """And more, for other versions of goproxy may trim otherwise."""
    await backend.account()
    free = dict.fromkeys(row(1).prices, "0")
    posted = row(
        1,
        cost=0,
        prices=free,
        usage=Usage(input=10**12),
        model="m" * 200,
        raw_usage={"x": "x" * 250 * 1024, "deep": nested(30)},
        flags=tuple(f"{'f' * 40}_{number}" for number in range(100)),
        upstream_request_id="r" * 60_000,
        upstream_model="m" * 60_000,
    )
    assert (await backend.post("i1", posted))["accepted"] == [posted.id]
    (kept,) = await listed(backend)
    assert kept["raw_usage"] == posted.raw_usage
    assert (kept["upstream_request_id"], kept["upstream_model"]) == ("r" * 1000, "m" * 1000)


def broken(**changes: Any) -> Any:
    return row(9).to_json() | changes


BAD_ROWS: list[Any] = [
    None,
    [],
    {},
    {"id": 7},
    broken(cost_nanodollars=-1),
    broken(cost_nanodollars=1.0),
    broken(cost_nanodollars=10**18),
    broken(cost_nanodollars=10**30),
    broken(status=10**12),
    broken(wallets=[]),
    broken(wallets=["alice", "alice"]),
    broken(wallets=["a b"]),
    broken(id=""),
    broken(terms="speed=fast, and cheap"),
    broken(terms=None),
    broken(id="x" * 300),
    broken(id="\ud800"),
    broken(upstream="ohmygpt"),
    broken(settlement="guessed"),
    broken(opened_at="yesterday"),
    broken(multiplier="NaN"),
    broken(usage={"input": 10**30}),
    broken(usage={"input": 10**12 + 1}, prices={"input": "0", "output": "0"}, cost_nanodollars=0),
    broken(raw_usage=nested(32)),
    broken(raw_usage={"x": "x" * 256 * 1024}),
    broken(model="m" * 1001),
    broken(settled_at="x" * 1001),
    broken(flags=["f" * 90] * 120),
    broken(prices={**row(9).prices, "x": "x" * 10_000}),
    {name: value for name, value in row(9).to_json().items() if name != "cost_nanodollars"},
]


async def test_rows_that_cannot_be_kept_are_named_and_the_others_are_kept(backend: Backend) -> None:
    await backend.account()
    posted = [row(1).to_json(), *BAD_ROWS, row(2).to_json()]
    answer = await backend.proxy("/rows", {"instance": "i1", "upstream": "openhands", "rows": posted})
    assert answer.status == 200
    assert answer.json["accepted"] == [row(1).id, row(2).id]
    rejected = answer.json["rejected"]
    assert len(rejected) == len(BAD_ROWS)
    assert all(each["reason"] for each in rejected)
    assert {each["id"] for each in await listed(backend)} == {row(1).id, row(2).id}
    shown = (await backend.ask("GET", "/metrics", None)).text
    distinct = {str(each["id"] or each["reason"]) for each in rejected}
    assert f'goproxy_ledger_rows_rejected_total{{upstream="openhands"}} {len(distinct)}.0' in shown


@on_sqlite
async def test_a_row_that_is_posted_again_and_again_is_rejected_once(backend: Backend, lines: Lines) -> None:
    """Or the log is full of it, and the metric rises for as long as the row is kept."""
    for reason in ("guessed", "guessed", "yesterday"):
        posted = {
            "instance": "i1",
            "upstream": "openhands",
            "rows": [broken(settlement=reason), broken(id="other" * 60)],
        }
        assert len((await backend.proxy("/rows", posted)).json["rejected"]) == 2
    shown = (await backend.ask("GET", "/metrics", None)).text
    assert 'goproxy_ledger_rows_rejected_total{upstream="openhands"} 2.0' in shown
    (line,) = lines.all("rows rejected")
    assert line["rows"] == 2


@on_sqlite
async def test_rows_are_counted_though_their_proxy_has_gone(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the ledger all the same, and not new when it posts them again."""
    await backend.account()
    posted = row(1, cost=AS_LISTED, key_id=(await backend.key())["id"])
    is_writing, goes_on = threading.Event(), threading.Event()
    ingest = rows.ingest

    def halting(*arguments: Any) -> Any:
        is_writing.set()
        goes_on.wait(30)
        return ingest(*arguments)

    monkeypatch.setattr(rows, "ingest", halting)
    posting = asyncio.create_task(backend.post("i1", posted))
    await asyncio.to_thread(is_writing.wait, 30)
    posting.cancel()
    with suppress(asyncio.CancelledError):
        await posting
    await asyncio.sleep(0.2)  # for the backend to hear of it
    goes_on.set()
    await backend.post("i1", posted)
    shown = (await backend.ask("GET", "/metrics", None)).text
    assert 'goproxy_ledger_rows_total{settlement="exact",upstream="openhands"} 1.0' in shown


@on_sqlite
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b'{"rows": 1}', 400),
        (b'{"rows": [], "upstream": "openhands"}', 400),
        (b'{"rows": [], "upstream": "openhands", "instance": "a b"}', 400),
        (b'{"rows": [], "instance": "i1"}', 403),
        (b'{"rows": [], "instance": "i1", "upstream": "ohmygpt"}', 403),
        (json.dumps({"rows": [0] * 501, "instance": "i1", "upstream": "openhands"}).encode(), 413),
        (b" " * (16 * 1024 * 1024 + 1), 413),
    ],
)
async def test_a_post_that_is_none(backend: Backend, body: bytes, status: int) -> None:
    answer = await backend.ask("POST", "/proxy/v1/rows", PROXY["openhands"], data=io.BytesIO(body))
    assert answer.status == status
    assert answer.error


async def test_five_hundred_rows_at_once(backend: Backend) -> None:
    await backend.account()
    usage = {f"field_{number}": number for number in range(100)}  # the providers' own words can be long
    batch = [row(number, cost=number, raw_usage=usage) for number in range(500)]
    assert len((await backend.post("i1", *batch))["accepted"]) == 500
    assert (await backend.wallet("alice"))["spent_nanodollars"] == sum(range(500))


async def test_pages_show_every_row_once_and_the_newest_first(backend: Backend) -> None:
    await backend.account()
    for number in range(0, 20, 5):
        batch = [replace(row(each), id=f"{'aB_z-'[each % 5]}{each}") for each in range(number, number + 5)]
        await backend.post("i1", *batch)
        await backend.grant("alice", 1, f"credit_{number}")
    pages, before = [], ""
    while True:
        page = await backend.admin("GET", f"/rows?limit=3{before}")
        pages += page["rows"]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert len(pages) == len({each["id"] for each in pages}) == 20 + 4 + 1
    moments = [each["received_at"] for each in pages]
    assert moments == sorted(moments, reverse=True)


async def test_rows_are_chosen(backend: Backend) -> None:
    await backend.account()
    await backend.account("bob")
    other: dict[str, Any] = {"account": "bob", "wallets": ("bob",), "key_id": "key_ffffffffffffffff", "model": "other"}
    await backend.post("i1", row(1), row(2, opened_at="2026-11-24T00:00:00.000Z", settlement=Settlement.DRAINED))
    await backend.post("i2", row(3, upstream="ohmygpt", **other), upstream="ohmygpt")
    for query, expected in {
        "account=alice": {1, 2},
        "key=key_ffffffffffffffff": {3},
        "upstream=ohmygpt": {3},
        "model=other": {3},
        "settlement=drained": {2},
        "since=2026-11-24": {2},
        "until=2026-11-23": {1, 3},
        "account=alice&since=2026-11-23&until=2026-11-23": {1},
    }.items():
        assert {each["id"] for each in await listed(backend, query)} == {row(number).id for number in expected}, query
    granted = await backend.admin("GET", "/rows?kind=grant&account=bob")
    assert [each["id"] for each in granted["rows"]] == ["grant-bob"]
    day = granted["rows"][0]["received_at"][:10]
    assert await backend.admin("GET", f"/rows?kind=grant&account=bob&since={day}&until={day}") == granted
    assert (await backend.admin("GET", "/rows?kind=grant&model=other"))["rows"] == []


async def found_by_model(backend: Backend, query: str) -> set[str]:
    """The requests that are chosen: as rows, and as many of them in usage and in a rerating."""
    found = {each["id"] for each in await listed(backend, query)}
    (line,) = (await backend.admin("GET", f"/usage?{query}"))["usage"]
    asked = dict(part.split("=") for part in query.split("&"))
    assert (line["requests"], (await rerate(backend, **asked))["rows"]) == (len(found), len(found))
    return found


async def test_a_model_is_called_by_its_alias_as_well(backend: Backend) -> None:
    """Rows have its id: asked for the alias, a rerating said that there was nothing to correct."""
    await backend.account(dollars=10)
    await backend.post("i1", row(1, cost=54 * DOLLAR // 10, usage=Usage(input=1_000_000)), row(2, model="other"))
    assert await found_by_model(backend, "model=claude-opus-4-5") == {row(1).id}
    assert await found_by_model(backend, "model=claude-opus-4-5&upstream=openhands") == {row(1).id}
    done = await rerate(backend, model="claude-opus-4-5", multiplier="2", apply=True)
    assert done["difference_nanodollars"] == 10 * DOLLAR - 54 * DOLLAR // 10


async def test_an_alias_stands_at_each_upstream_for_what_it_is_there(backend: Backend) -> None:
    """Or a rerating by it would correct rows of a model that it is no name of."""
    await backend.account()
    newer = OPUS | {"name": "newer", "id": "opus-next", "upstream": "ohmygpt"}
    older = OPUS | {"name": "older", "id_aliases": [], "upstream": "ohmygpt"}
    backend.configure("ohmygpt", newer, older)
    backend.configure("second", OPUS | {"id": "another", "id_aliases": [], "upstream": "second"})
    await backend.post("i1", row(1))
    await backend.post(
        "i2", row(2, upstream="ohmygpt"), row(3, upstream="ohmygpt", model="opus-next"), upstream="ohmygpt"
    )
    of_before = row(4, upstream="second")
    await backend.post("i3", of_before, row(5, upstream="second", model="claude-opus-4-5"), upstream="second")
    assert await found_by_model(backend, "model=claude-opus-4-5") == {row(each).id for each in (1, 3, 4, 5)}
    assert await found_by_model(backend, "model=claude-opus-4-5&upstream=ohmygpt") == {row(3).id}
    assert await found_by_model(backend, "model=claude-opus-4-5-20251101") == {row(each).id for each in (1, 2, 4)}


async def test_usage_is_summed_up_by_any_axis(backend: Backend) -> None:
    await backend.account()
    usage_of_each = replace(row(0).usage, web_search=5)
    of_the_next_day = row(2, cost=20, usage=usage_of_each, opened_at="2026-11-24T00:00:00.000Z")
    await backend.post("i1", row(1, cost=10, usage=usage_of_each), of_the_next_day)
    of_bob: dict[str, Any] = {"account": "bob", "wallets": ("bob",), "usage": usage_of_each}
    await backend.post("i2", row(3, 2**53 + 1, upstream="ohmygpt", **of_bob), upstream="ohmygpt")
    tokens = {"input": 9, "cache_write_5m": 1, "cache_write_1h": 2, "cache_read": 3, "output": 7, "reasoning": 4}
    tokens["web_search"] = 5

    async def usage(query: str) -> Any:
        answer = await backend.admin("GET", f"/usage?{query}")
        assert answer["complete"]
        return [{name: value for name, value in line.items() if value is not None} for line in answer["usage"]]

    everything = {name: 3 * count for name, count in tokens.items()} | {"requests": 3}
    assert await usage("") == [everything | {"cost_nanodollars": 2**53 + 31}]
    assert await usage("by=account") == [
        {"account": "alice", "requests": 2, "cost_nanodollars": 30} | {k: 2 * n for k, n in tokens.items()},
        {"account": "bob", "requests": 1, "cost_nanodollars": 2**53 + 1} | tokens,
    ]
    lines = await usage("by=day,upstream&account=alice")
    assert [(line["day"], line["upstream"], line["cost_nanodollars"]) for line in lines] == [
        ("2026-11-23", "openhands", 10),
        ("2026-11-24", "openhands", 20),
    ]


async def rerate(backend: Backend, **asked: Any) -> Any:
    return await backend.admin("POST", "/rerate", asked)


async def test_rerating_settles_the_difference_once(backend: Backend) -> None:
    await backend.account(dollars=10)
    usage = Usage(input=1_000_000, output=100_000)  # 5 + 2.5 dollars by the list, times 1.08
    right, key = 8_100_000_000, (await backend.key(limit_nanodollars=20 * DOLLAR))["id"]
    limit = f"key:{key}"
    wrong = row(1, cost=right - 7, usage=usage, key_id=key, wallets=("alice", limit), multiplier="1.08")
    await backend.post("i1", wrong, row(2, cost=right, usage=usage), row(3, model="gone"))

    looked = await rerate(backend)
    assert (looked["rows"], looked["differing"], looked["unpriced"], looked["applied"]) == (3, 1, 1, False)
    assert (await backend.wallet("alice"))["balance_nanodollars"] == 10 * DOLLAR - 2 * right + 7 - 1_000_000

    done = await rerate(backend, apply=True)
    assert done["difference_nanodollars"] == 7
    assert done["differences"] == [
        {"id": wrong.id, "account": "alice", "before_nanodollars": right - 7, "after_nanodollars": right}
    ]
    assert (await rerate(backend, apply=True))["differing"] == 0
    assert (await backend.wallet("alice"))["balance_nanodollars"] == 10 * DOLLAR - 2 * right - 1_000_000
    assert (await backend.wallet(limit))["balance_nanodollars"] == 20 * DOLLAR - right
    kept = {each["id"]: each for each in await listed(backend)}
    assert (kept[wrong.id]["cost_nanodollars"], kept[wrong.id]["adjustment_nanodollars"]) == (right - 7, 7)
    entries = (await backend.admin("GET", "/rows?kind=rerate"))["rows"]
    assert {(each["wallet"], each["amount_nanodollars"], each["row_id"]) for each in entries} == {
        ("alice", -7, wrong.id),
        (limit, -7, wrong.id),
    }
    (line,) = (await backend.admin("GET", "/usage"))["usage"]
    assert line["cost_nanodollars"] == 2 * right + 1_000_000


@on_sqlite
@pytest.mark.parametrize(("multiplier", "cost"), [("as_billed", 108), ("current", 108), ("1.07", 107), ("2", 200)])
async def test_rerating_with_another_multiplier(backend: Backend, multiplier: str, cost: int) -> None:
    await backend.account()
    await backend.post("i1", row(1, cost=54 * DOLLAR // 10, usage=Usage(input=1_000_000), multiplier="1.08"))
    done = await rerate(backend, multiplier=multiplier, apply=True, account="alice", model="claude-opus-4-5-20251101")
    assert done["difference_nanodollars"] == 5 * DOLLAR * cost // 100 - 54 * DOLLAR // 10
    assert (await rerate(backend, apply=True))["differing"] == 0
    again = await rerate(backend, multiplier="1.08", apply=True)
    assert again["difference_nanodollars"] == -done["difference_nanodollars"]
    assert (await backend.wallet("alice"))["balance_nanodollars"] == 10 * DOLLAR - 54 * DOLLAR // 10


async def test_a_row_that_cannot_be_priced_does_not_stop_the_others(backend: Backend) -> None:
    """Somebody with a proxy's token may have posted it."""
    await backend.account(dollars=100)
    free = dict.fromkeys(row(1).prices, "0")
    await backend.post("i1", row(1, cost=0, prices=free, usage=Usage(input=10**12)), row(2))
    done = await backend.admin("POST", "/rerate", {"multiplier": "100", "apply": True})
    assert (done["rows"], done["unpriced"], [each["id"] for each in done["differences"]]) == (2, 1, [row(2).id])


async def test_rerating_keeps_the_multiplier_of_the_last_correction(backend: Backend) -> None:
    """Prices that are put right later do not undo it; nor is it lost where it makes no difference yet."""
    await backend.account()
    dear = row(1, cost=54 * DOLLAR // 10, usage=Usage(input=1_000_000), multiplier="1.08")
    estimate: Any = {"settlement": Settlement.ESTIMATED, "flags": ("capped_at_hold",)}
    capped = row(2, cost=7, usage=Usage(input=1_000_000), multiplier="1.08", hold_nanodollars=7, **estimate)
    await backend.post("i1", dear, capped)
    looked = await rerate(backend, multiplier="1.20")
    done = await rerate(backend, multiplier="1.20", apply=True)
    assert looked == done | {"applied": False}
    assert (done["differing"], done["difference_nanodollars"]) == (1, 6 * DOLLAR // 10)
    assert (await rerate(backend, apply=True))["difference_nanodollars"] == 0
    kept = await listed(backend)
    assert [(each["multiplier"], each["adjusted_multiplier"]) for each in kept] == [("1.08", "1.2")] * 2
    (entry,) = (await backend.admin("GET", "/rows?kind=rerate"))["rows"]
    assert entry["row_id"] == dear.id
    assert (await backend.wallet("alice"))["balance_nanodollars"] == 4 * DOLLAR - 7


@on_sqlite
@pytest.mark.parametrize(("first", "cost"), [(None, 540), ("1", 500), ("1.2", 600)])
async def test_rerating_what_was_settled_without_a_price(backend: Backend, first: str | None, cost: int) -> None:
    """Its model had left the configuration, and is back."""
    await backend.account()
    unpriced: Any = {"prices": {"input": "0", "output": "0"}, "multiplier": "1", "flags": ("unpriced",)}
    await backend.post("i1", row(1, cost=0, usage=Usage(input=1_000_000), **unpriced))
    if first is not None:
        await rerate(backend, multiplier=first, apply=True)
    await rerate(backend, apply=True)
    (kept,) = await listed(backend)
    assert kept["adjustment_nanodollars"] == cost * DOLLAR // 100


async def test_rerating_goes_through_all_pages(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "STEP", 50)
    await backend.account()
    batch = [row(number, cost=1, usage=Usage(input=1), multiplier="1") for number in range(130)]
    await backend.post("i1", *batch[:60])
    await backend.post("i1", *batch[60:])
    done = await rerate(backend, apply=True)
    assert (done["rows"], done["differing"], len(done["differences"])) == (130, 130, 100)
    assert done["difference_nanodollars"] == 130 * 4999


async def test_rerating_does_not_read_what_the_provider_said(backend: Backend) -> None:
    """It is up to 256 KiB of each row, of some thousand at a time."""
    await backend.account()
    await backend.post("i1", row(1))
    ruin = update(table).values(raw_usage="{no JSON")
    await backend.plane.database.run("ruin", lambda store: store.execute(ruin))
    assert (await rerate(backend, apply=True))["differing"] == 1
    assert (await rerate(backend, apply=True))["differing"] == 0


async def test_a_ledger_is_held_against_the_providers_record(backend: Backend) -> None:
    await backend.account()
    await backend.post("i1", row(1), row(2), row(3), row(4, upstream_request_id=None))
    export = "request_id,input_tokens,output_tokens,model\nup_1,9,7,x\nup_2,9,8,x\nup_9,1,1,x\n"
    headers = {"Authorization": f"Bearer {OPERATOR}", "Content-Type": "text/csv"}
    url = f"{backend.url}/admin/v1/reconcile?upstream=openhands&since=2026-11-23&until=2026-11-23"
    async with backend.session.post(url, data=export, headers=headers) as answer:
        assert answer.status == 200
        assert await answer.json() == {
            "matched": 1,
            "differing": [
                {"request_id": "up_2", "row_ids": [row(2).id], "ledger": {"output": 7}, "export": {"output": 8}}
            ],
            "missing": ["up_9"],
            "extra": ["up_3"],
            "unnamed": [row(4).id],
            "left_out": {"differing": 0, "missing": 0, "extra": 0, "unnamed": 0},
            "ledger_tokens": {"input": 36, "output": 28},
            "export_tokens": {"input": 19, "output": 16},
        }


ALONE = '[{"request_id": "\\ud800", "input": 1}]'
"""Half of a surrogate pair."""


@on_sqlite
@pytest.mark.parametrize("export", ["", "request_id,input\nup_1,many\n", "[1]", "\ud800", '{"data": 7}', ALONE])
async def test_an_export_that_cannot_be_read(backend: Backend, export: str) -> None:
    body = export.encode("utf-8", "surrogatepass")
    answer = await backend.ask("POST", "/admin/v1/reconcile?upstream=openhands", data=body)
    assert answer.status == 400, answer.text


async def test_a_page_may_end_at_any_id_that_is_kept(backend: Backend) -> None:
    await backend.account(dollars=0)
    await backend.post("i1", *(replace(row(number), id=f"a~{number}|}}~") for number in range(3)))
    first = await backend.admin("GET", "/rows?limit=2")
    second = await backend.admin("GET", "/rows", params={"limit": "2", "before": first["next"]})
    assert [each["id"] for each in first["rows"] + second["rows"]] == [f"a~{number}|}}~" for number in (2, 1, 0)]


async def test_a_keys_limit_is_no_money_of_its_own(backend: Backend) -> None:
    await backend.account(dollars=10)
    limit = f"key:{(await backend.key(limit_nanodollars=5 * DOLLAR))['id']}"
    await backend.lend("i1", 1, ("alice", 0, DOLLAR), (limit, 0, DOLLAR))
    found, alice = await backend.plane.database.read("count", totals.totals), await backend.wallet("alice")
    assert found.balance == alice["balance_nanodollars"]
    assert found.held == {"openhands": alice["held_nanodollars"]}


async def test_sums_may_be_larger_than_what_the_database_adds_up(backend: Backend) -> None:
    """SQLite's own sum ends with an error at 64 bits: the metrics said that the store was gone."""
    names, most = [f"account-{number}" for number in range(100)], 10**17

    def fill(store: Connection) -> None:
        for name in names:
            accounts.create(store, name)
            wallets.credit(store, f"grant-{name}", name, "grant", most)
        wallets.adjust(store, names[0], [wallets.Adjustment("row", -2 * most - 7, "below 0")])

    await backend.plane.database.run("fill", fill)
    changes: dict[str, Any] = {"cost": most, "usage": Usage(input=10**12), "key_id": "key"}
    await backend.post("i1", *(row(n, account=name, wallets=(name,), **changes) for n, name in enumerate(names)))
    await backend.plane.count()
    found = await backend.plane.database.read("count", totals.totals)
    assert found.balance == -2 * most - 7
    assert found.held == {"openhands": 0}
    assert "goproxy_store_available 1" in backend.plane.metrics.text()
    (line,) = (await backend.admin("GET", "/usage"))["usage"]
    assert (line["requests"], line["cost_nanodollars"], line["input"]) == (100, 100 * most, 100 * 10**12)
