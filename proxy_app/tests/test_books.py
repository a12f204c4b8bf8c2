"""The books: money is held before a request is sent, spent once, and known to the control plane in the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from goproxy.config import parse_config
from goproxy.core.journal_record import Leased, Reader
from goproxy.core.keys import new_key
from goproxy.core.lease import Wallet
from goproxy.core.ledger import Hold, Row, Settlement, interrupted
from goproxy.core.usage import Usage
from goproxy.data_plane import journal, kept_lease, key_poll, lease_desk, row_post
from goproxy.data_plane.bodies import Bodies
from goproxy.data_plane.books import (
    Books,
    InsufficientFunds,
    JournalUnwritable,
    LeaseUnavailable,
    books_for,
    interruption,
)
from goproxy.data_plane.control_client import (
    ControlClient,
    ControlPlaneAway,
    ControlPlaneRefuses,
    LeaseAnswer,
    LeaseCall,
    PostedRows,
)
from goproxy.data_plane.journal import Journal
from goproxy.data_plane.journal_directory import Segment
from goproxy.data_plane.kept_lease import KeptLease
from goproxy.data_plane.lease_desk import LeaseDesk
from goproxy.data_plane.observer import Observer
from goproxy.data_plane.scoreboard import Scoreboard
from goproxy.hosting import Readiness
from tests.bookkeeping import a_hold, a_row
from tests.conftest import Lines
from tests.control import TOKEN, Control, key_entry, running_control
from tests.gateway import config_document

KEY = new_key(bytes(range(32)))
CONFIG = parse_config(json.dumps(config_document()).encode())
(OPUS,) = CONFIG.models


def interrupt(hold: Hold, progress: Usage | None) -> Row:
    return interrupted(
        hold,
        progress=progress,
        settled_at="2026-01-02T03:05:00.000Z",
        versions=OPUS.prices,
        multiplier=OPUS.billing_multiplier,
    )


@pytest.fixture
def eventually(eventually: Callable[..., Any]) -> Callable[..., Any]:
    """With patience: what is waited for takes several calls on a machine that may be busy."""
    return partial(eventually, seconds=5.0)


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    async with running_control() as running:
        running.wallets["alice"] = Wallet(credits=10_000)
        yield running


@asynccontextmanager
async def kept(directory: Path, control: Control, **settings: Any) -> AsyncIterator[Books]:
    """Books of one proxy, with their journal in `directory`."""
    async with aiohttp.ClientSession() as session:
        client = ControlClient(session, control.url, TOKEN, "openhands")
        books = Books(Journal(directory), client, interrupt, directory / "keys.json", **settings)
        await books.start()
        try:
            yield books
        finally:
            await books.close()


@pytest.fixture
async def books(tmp_path: Path, control: Control) -> AsyncIterator[Books]:
    async with kept(tmp_path / "a", control) as running:
        yield running


async def crash(books: Books) -> None:
    """End like a process that is killed: nothing is said or written any more."""
    for task in books._tasks:
        task.cancel()
    await asyncio.gather(*books._tasks, return_exceptions=True)
    books._open.clear()
    await books._journal.close()


@asynccontextmanager
async def crashing(directory: Path, control: Control, **settings: Any) -> AsyncIterator[Books]:
    async with aiohttp.ClientSession() as session:
        client = ControlClient(session, control.url, TOKEN, "openhands")
        books = Books(Journal(directory), client, interrupt, directory / "keys.json", **settings)
        await books.start()
        yield books
        await crash(books)


async def spend(books: Books, id_: str, amount: int, cost: int) -> None:
    """One request, from its hold to its row on the disk."""
    hold = a_hold(id_, amount)
    await books.open(hold)
    await books.settle(a_row(hold, cost))


async def test_a_request_is_held_settled_and_posted(
    books: Books, control: Control, eventually: Callable[..., Any]
) -> None:
    hold = a_hold("req_1", 1000)
    await books.open(hold)
    assert (books.standing.open_requests, books.standing.held) == (1, 1000)
    assert control.wallets["alice"].held >= 1000
    await books.settle(a_row(hold, 400))
    assert (books.standing.open_requests, books.standing.held) == (0, 0)
    await eventually(lambda: "req_1" in control.rows)
    await eventually(lambda: books.standing.unposted_rows == 0)
    assert control.wallets["alice"].spent == 400
    assert control.total_is_right()


async def test_most_requests_ask_nobody(books: Books, control: Control, eventually: Callable[..., Any]) -> None:
    for n in range(5):
        await books.open(a_hold(f"req_{n}", 100))
    await eventually(lambda: books.standing.free >= 250)
    asked = len(control.calls_to("leases"))
    await books.settle(a_row(a_hold("req_0", 100), 10))
    await books.open(a_hold("req_5", 100))
    assert len(control.calls_to("leases")) == asked


async def test_what_does_not_fit_is_refused_with_the_amounts(books: Books, control: Control) -> None:
    await books.open(a_hold("req_1", 4000))
    with pytest.raises(InsufficientFunds) as refusal:
        await books.open(a_hold("req_2", 6001))
    assert (refusal.value.wallet, refusal.value.needed, refusal.value.free) == ("alice", 6001, 6000)
    await books.open(a_hold("req_3", 6000))
    assert books.standing.held == 10_000


async def test_a_key_with_a_limit_is_held_against_both_wallets(
    books: Books, control: Control, eventually: Callable[..., Any]
) -> None:
    control.wallets["key:1"] = Wallet(credits=1500)
    hold = a_hold("req_1", 1000, "alice", "key:1")
    await books.open(hold)
    with pytest.raises(InsufficientFunds) as refusal:
        await books.open(a_hold("req_2", 1000, "alice", "key:1"))
    assert (refusal.value.wallet, refusal.value.free) == ("key:1", 500)
    await books.settle(a_row(hold, 400))
    await books.open(a_hold("req_3", 1000, "alice", "key:1"))
    await eventually(lambda: "req_1" in control.rows)
    assert [control.wallets[wallet].spent for wallet in ("alice", "key:1")] == [400, 400]


async def test_one_that_waits_gets_what_another_releases(books: Books, control: Control) -> None:
    await books.open(a_hold("req_1", 10_000))
    waiting = asyncio.create_task(books.open(a_hold("req_2", 9000)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await books.settle(a_row(a_hold("req_1", 10_000), 400))
    await asyncio.wait_for(waiting, 30)
    assert not books._desk._waiters


async def test_fifty_at_once_over_two_proxies_never_spend_more_than_there_is(tmp_path: Path, control: Control) -> None:
    async with kept(tmp_path / "a", control) as one, kept(tmp_path / "b", control) as other:
        passed = await asyncio.gather(
            *((one, other)[n % 2].open(a_hold(f"req_{n}", 1000)) for n in range(50)), return_exceptions=True
        )
        assert passed.count(None) == 10
        assert all(isinstance(refusal, InsufficientFunds) for refusal in passed if refusal is not None)
        assert control.total_is_right()


async def test_idle_money_is_given_back_when_another_proxy_wants_it(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    async with kept(tmp_path / "b", control) as other:
        async with crashing(tmp_path / "a", control) as one:
            await one.open(a_hold("req_1", 8000))
            await one.settle(a_row(a_hold("req_1", 8000), 400))
            assert one.standing.free >= 7600
            await asyncio.wait_for(other.open(a_hold("req_2", 9000)), 30)
            assert control.total_is_right()
        calls = len(control.calls_to("leases"))
        async with kept(tmp_path / "a", control) as one:
            await eventually(lambda: len(control.calls_to("leases")) > calls)
            assert one.standing.free < 1000, "what was given back is not there after a crash"
            assert control.total_is_right()


async def test_what_another_proxy_wants_back_is_given_back_once(
    books: Books, control: Control, eventually: Callable[..., Any]
) -> None:
    control.wallets["bob"] = Wallet(credits=10_000)
    await spend(books, "req_1", 1000, 100)
    books._desk.recall(["alice"])
    await eventually(lambda: books.standing.free == 0)
    await spend(books, "req_2", 1000, 100)
    books._desk._mark("alice")
    await books.open(a_hold("req_3", 1000, "bob"))
    assert [asked["wallet"] for asked in control.calls_to("leases")[-1]["leases"]] == ["bob"]
    assert books.standing.free > 0


async def test_idle_money_is_given_back_after_a_while(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    async with kept(tmp_path, control, idle_after=0.3) as books:
        await books.open(a_hold("req_1", 8000))
        await asyncio.sleep(0.5)
        assert control.wallets["alice"].held >= 8000
        await books.settle(a_row(a_hold("req_1", 8000), 400))
        await eventually(lambda: control.wallets["alice"].balance == 9600)
        calls = len(control.calls_to("leases"))
        await asyncio.sleep(1.2)
        assert len(control.calls_to("leases")) == calls, "and it is not asked for again"


async def test_wallets_whose_lease_is_at_rest_are_looked_at_no_more(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tens of thousands that were ever used, a few are in use; and a rest is none for ever."""
    monkeypatch.setattr(kept_lease, "_LATELY", 0.1)
    looked_at = list[str]()
    is_due = LeaseDesk._is_due

    def look(desk: LeaseDesk, kept: KeptLease, *args: Any) -> bool:
        looked_at.append(kept.lease.wallet)
        return is_due(desk, kept, *args)

    monkeypatch.setattr(LeaseDesk, "_is_due", look)
    control.wallets["bob"] = Wallet(credits=10_000)
    async with kept(tmp_path, control, idle_after=0.2) as books:
        for name in ("alice", "bob"):
            hold = a_hold(f"req_{name}", 1000, name)
            await books.open(hold)
            await books.settle(a_row(hold, 400))
        await books.open(a_hold("req_1", 100, "bob"))
        await eventually(lambda: not control.wallets["alice"].held)
        await asyncio.sleep(1.2)
        looked_at.clear()
        await asyncio.sleep(1.2)
        assert set(looked_at) == {"bob"}, "it has something held"
        assert books.standing.free == books._desk._kept["bob"].lease.free
        await spend(books, "req_2", 1000, 400)
        assert "alice" in books._desk._active
        assert books.standing.free == sum(each.lease.free for each in books._desk._kept.values())
        await eventually(lambda: control.wallets["alice"].balance == 9200)
        await books.settle(a_row(a_hold("req_1", 100, "bob"), 100))
    assert books.has_told_all
    assert [control.wallets[name].held for name in ("alice", "bob")] == [0, 0]


async def test_that_money_is_given_back_is_on_the_disk_before_another_can_have_it(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a process that dies in between is followed by one that spends it, too."""
    append, kept_on_disk = Segment.append, list[bool]()

    def append_slowly(segment: Segment, data: bytes) -> None:
        time.sleep(0.05)
        append(segment, data)

    def look(verb: str) -> None:
        if verb == "leases":
            (path,) = tmp_path.glob("journal-*.log")
            (told,) = control.calls_to(verb)[-1]["leases"]
            noted = [record for record, _ in Reader(path.read_bytes()) if isinstance(record, Leased)]
            kept_on_disk.append(noted[-1].granted_total == told["known_total"])

    async with kept(tmp_path, control, idle_after=0.3) as books:
        await spend(books, "req_1", 8000, 400)
        monkeypatch.setattr(Segment, "append", append_slowly)
        control.on_call = look
        await eventually(lambda: control.wallets["alice"].balance == 9600)
        control.on_call = lambda _: None
    assert kept_on_disk
    assert all(kept_on_disk)


async def test_a_proxy_that_leaves_posts_its_rows_and_gives_back_what_it_has(tmp_path: Path, control: Control) -> None:
    async with kept(tmp_path, control) as books:
        await spend(books, "req_1", 8000, 400)
    assert "req_1" in control.rows
    assert (control.wallets["alice"].balance, control.wallets["alice"].held) == (9600, 0)


async def test_a_proxy_that_leaves_borrows_nothing_more(tmp_path: Path, control: Control) -> None:
    """What it was lent is used up, so that it would ask ahead if it stayed."""
    async with kept(tmp_path, control) as books:
        await books.open(a_hold("req_1", 1000))
        await books.settle(a_row(a_hold("req_1", 1000), 1000 + books.standing.free))
    assert control.wallets["alice"].held == 0


async def test_a_proxy_of_many_wallets_gives_all_of_them_back(
    tmp_path: Path, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several calls."""
    monkeypatch.setattr(lease_desk, "WALLETS_PER_CALL", 2)
    names = [f"account_{n}" for n in range(5)]
    control.wallets.update({name: Wallet(credits=10_000) for name in names})
    async with kept(tmp_path, control) as books:
        for n, name in enumerate(names):
            hold = a_hold(f"req_{n}", 1000, name)
            await books.open(hold)
            await books.settle(a_row(hold, 100))
    assert [control.wallets[name].held for name in names] == [0] * 5
    assert max(len(call["leases"]) for call in control.calls_to("leases")) == 2


async def test_a_proxy_that_hears_of_foreign_rows_as_it_leaves_leaves_its_journal_to_the_next(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    """They are its own, and its journal was restored since. The next process begins anew."""
    async with kept(tmp_path, control) as books:
        await spend(books, "req_1", 1000, 100)
        (instance,) = control.sequences
        control.wallets["alice"].spend(instance, 500)
    assert not books.has_told_all
    async with kept(tmp_path, control):
        await eventually(lambda: len(control.sequences) == 2)


async def test_what_was_not_sent_costs_nothing(tmp_path: Path, control: Control) -> None:
    async with kept(tmp_path, control) as books:
        await books.open(a_hold("req_1", 8000))
        books.void("req_1")
        assert books.standing.held == 0
    async with kept(tmp_path, control) as books:
        assert books.interrupted == [], "nor does a later process find it open"
    assert control.rows == {}
    assert control.wallets["alice"].balance == 10_000


async def test_a_request_is_settled_once(
    books: Books, control: Control, eventually: Callable[..., Any], lines: Lines
) -> None:
    hold = a_hold("req_1")
    await books.open(hold)
    for cost in (400, 500):
        await books.settle(a_row(hold, cost))
    await books.settle(a_row(a_hold("req_unknown")))
    await eventually(lambda: books.standing.unposted_rows == 0)
    assert [row.cost_nanodollars for _, row in control.rows.values()] == [400]
    assert len(lines.all("request is settled already, or was never opened")) == 2


async def test_who_is_cancelled_while_opening_holds_nothing(tmp_path: Path, control: Control) -> None:
    async with kept(tmp_path, control) as books:
        for seconds in (0, 0.001, 0.005, 0.02):
            opening = asyncio.create_task(books.open(a_hold(f"req_{seconds}", 9000)))
            await asyncio.sleep(seconds)
            if opening.done():
                books.void(f"req_{seconds}")
                continue
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        await books.open(a_hold("req_last", 9000))
        await books.settle(a_row(a_hold("req_last", 9000)))
    assert list(control.rows) == ["req_last"]


async def test_who_is_cancelled_at_the_moment_when_there_is_room_holds_nothing(books: Books) -> None:
    await books.open(a_hold("req_1", 9000))
    waiting = asyncio.create_task(books.open(a_hold("req_2", 9000)))
    await asyncio.sleep(0.05)
    settling = books.settle(a_row(a_hold("req_1", 9000), 0))
    await asyncio.sleep(0)  # there is room now, and who waits for it has not run yet
    waiting.cancel()
    await asyncio.gather(settling, waiting, return_exceptions=True)
    assert waiting.cancelled()
    await books.open(a_hold("req_3", 9000))


async def test_who_is_given_room_as_its_time_is_over_has_it(books: Books) -> None:
    """It is held: who was refused now would leave it held for ever."""
    await books.open(a_hold("req_1", 9000))
    books._desk._lease_wait = 0
    opening = asyncio.create_task(books.open(a_hold("req_2", 9000)))
    await asyncio.sleep(0)  # it waits, and the next turn ends that
    books.settle(a_row(a_hold("req_1", 9000), 0))
    await opening
    assert books.standing.held == 9000


async def test_of_a_wallet_that_is_overdrawn_nothing_is_wanted_ahead(books: Books, control: Control) -> None:
    """Less than nothing can not be wanted: the call would be refused, and all other wallets with it."""
    control.wallets |= {"alice": Wallet(credits=1000), "bob": Wallet(credits=10_000)}
    await spend(books, "req_1", 1000, 3000)
    await books._post.post_all()
    with pytest.raises(InsufficientFunds):
        await books.open(a_hold("req_2", 100))
    assert control.wallets["alice"].balance == -2000
    books._desk._mark("alice")
    await books.open(a_hold("req_3", 100, "bob"))
    assert all(asked["want"] >= 0 for call in control.calls_to("leases") for asked in call["leases"])


# The control plane is away.


@pytest.fixture
async def impatient(tmp_path: Path, control: Control) -> AsyncIterator[Books]:
    async with kept(tmp_path / "a", control, lease_wait=0.5) as running:
        yield running


async def test_requests_go_on_while_the_lease_lasts(
    impatient: Books, control: Control, eventually: Callable[..., Any]
) -> None:
    books = impatient
    await spend(books, "req_0", 3000, 100)
    await control.leave()
    for n in range(1, 20):
        await spend(books, f"req_{n}", 1000, 100)
    with pytest.raises(LeaseUnavailable):
        await asyncio.wait_for(books.open(a_hold("req_large", 9000)), 30)
    assert books.standing.control_problem is not None
    assert books.standing.unposted_rows >= 19
    control.away = False
    await eventually(lambda: len(control.rows) == 20)
    await books.open(a_hold("req_large", 7000))
    assert control.wallets["alice"].spent == 2000
    assert control.total_is_right()


async def test_an_answer_that_leaves_a_wallet_out_is_none(impatient: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would be asked for the same again at once, and for ever."""

    async def nothing(*_: Any) -> list[LeaseAnswer]:
        return []

    monkeypatch.setattr(impatient._control, "lease", nothing)
    with pytest.raises(LeaseUnavailable, match="leaves out what was asked"):
        await impatient.open(a_hold("req_1", 1000))


async def test_a_control_plane_that_always_knows_of_more_is_asked_seldom(
    impatient: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer makes this proxy another instance: without a pause it would be thousands a second."""
    instances = []

    async def know_of_more(instance: str, _: int, calls: Sequence[LeaseCall]) -> list[LeaseAnswer]:
        instances.append(instance)
        return [LeaseAnswer(call.wallet, granted_total=10_000, spent_total=5, balance=10_000) for call in calls]

    monkeypatch.setattr(impatient._control, "lease", know_of_more)
    with pytest.raises(LeaseUnavailable, match="it knows of rows of this proxy that the proxy does not know of"):
        await impatient.open(a_hold("req_1", 1000))
    assert 1 < len(instances) < 10
    assert impatient.standing.control_problem is not None


async def test_the_metrics_have_the_age_of_the_oldest_row_and_of_several_processes_the_highest(
    books: Books, control: Control, eventually: Callable[..., Any]
) -> None:
    """Rows wait all the time where there is traffic: how many says nothing."""
    board = Scoreboard(2)
    one, other = board.places
    observer = Observer("openhands", books, Bodies(0), one)

    def ages() -> list[float]:
        return [
            float(line.rpartition(" ")[2])
            for line in observer.metrics().splitlines()
            if line.startswith(("goproxy_journal_unposted_age_seconds{", "goproxy_journal_unsettled_age_seconds{"))
        ]

    assert ages() == [0, 0]
    for n in range(2):
        await books.open(a_hold(f"req_{n}", 100))
    await control.leave()
    for n, seconds in enumerate((100, 50)):
        settled_at = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
        settling = books.settle(replace(a_row(a_hold(f"req_{n}", 100)), settled_at=settled_at.replace("+00:00", "Z")))
        assert seconds <= ages()[1] < seconds + 10
        await settling
    assert 100 <= ages()[0] < 110
    other.beat(Readiness(True, ""), observer.gauges() | {"journal_unposted_age_seconds": 700.0})
    assert ages() == [700, 0]
    other.vacate()
    control.away = False
    await eventually(lambda: ages() == [0, 0])


async def test_it_starts_while_the_control_plane_is_away(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    control.keys = [key_entry(KEY)]
    async with crashing(tmp_path, control) as books:
        await eventually(lambda: len(books.keys) == 1)
        await books.open(a_hold("req_1", 3000))
        await eventually(lambda: (tmp_path / "keys.json").exists())
    await control.leave()
    async with kept(tmp_path, control) as books:
        assert books.keys.find(KEY) is not None
        assert 0 <= books.keys_age < 5
        assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600
        await books.open(a_hold("req_2", 1000))


async def test_too_many_rows_that_cannot_be_posted_stop_new_requests_until_they_are(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    async with kept(tmp_path, control, backlog_bytes=1500) as books:
        holds = [a_hold("req_0", 3000), a_hold("req_1", 100)]
        for hold in holds:
            await books.open(hold)
        await control.leave()
        for hold in holds:
            await books.settle(a_row(hold, 1))
        with pytest.raises(LeaseUnavailable, match="too many rows"):
            await books.open(a_hold("req_2", 100))
        assert books.standing.unposted_bytes > 1500
        control.away = False
        await eventually(lambda: books.standing.unposted_rows == 0)
        assert books.standing.unposted_bytes == 0
        await books.open(a_hold("req_2", 100))


async def test_rows_that_were_posted_take_no_room(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    async with kept(tmp_path, control, backlog_bytes=1500) as books:
        for n in range(10):
            await spend(books, f"req_{n}", 100, 1)
            await eventually(lambda: books.standing.unposted_rows == 0)
            assert books.standing.unposted_bytes == 0
        await books.open(a_hold("req_last", 100))
    assert len(control.rows) == 10


async def test_lost_answers_change_nothing(tmp_path: Path, control: Control, eventually: Callable[..., Any]) -> None:
    control.loses_answers = 3
    async with kept(tmp_path, control) as books:
        await books.open(a_hold("req_1", 3000))
        control.loses_answers = 2
        await books.settle(a_row(a_hold("req_1", 3000), 400))
        await eventually(lambda: books.standing.unposted_rows == 0)
        assert control.total_is_right()
    assert control.wallets["alice"].spent == 400
    assert (control.wallets["alice"].balance, control.wallets["alice"].held) == (9600, 0)


@pytest.mark.parametrize(("refused", "other"), [("req_2", "req_3"), ("req_3", "req_2")])
async def test_a_row_that_is_not_taken_is_kept_and_hinders_no_other(
    books: Books, control: Control, eventually: Callable[..., Any], lines: Lines, refused: str, other: str
) -> None:
    control.rejects["req_1"] = "a reason"
    control.refuses_batches_with.add(refused)
    holds = [a_hold(f"req_{n}", 100) for n in range(4)]
    for hold in holds:
        await books.open(hold)
    await asyncio.gather(*(books.settle(a_row(hold, 10)) for hold in holds))
    await eventually(lambda: set(control.rows) == {"req_0", other})
    await eventually(lambda: books._post.postable == 0)
    assert books.standing.unposted_rows == 2
    told = {line["request_id"]: line["reason"] for line in lines.all("control plane does not take a row; it is kept")}
    assert told == {"req_1": "a reason", refused: "422 something in it is wrong"}


async def test_a_row_that_is_never_taken_is_tried_less_and_less_and_told_once(
    books: Books, control: Control, eventually: Callable[..., Any], lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_post, "_SET_ASIDE", 0.1)
    control.rejects["req_1"] = "a reason"

    def tries() -> int:
        return sum(each["id"] == "req_1" for call in control.calls_to("rows") for each in call["rows"])

    await spend(books, "req_1", 100, 10)
    await eventually(lambda: tries() >= 3)
    await asyncio.sleep(2)
    assert tries() <= 6, "after 0.1, 0.2, 0.4, 0.8 and 1.6 s, and what a post waits"
    assert len(lines.all("control plane does not take a row; it is kept")) == 1
    assert not lines.all("control plane still does not take rows")
    monkeypatch.setattr(row_post, "_TELL_AGAIN", 0)
    control.rejects["req_1"] = "another reason"
    await eventually(lambda: len(lines.all("control plane does not take a row; it is kept")) == 2)
    monkeypatch.setattr(row_post, "_SET_ASIDE_LONGEST", 0.1)
    await eventually(lambda: lines.all("control plane still does not take rows"))
    del control.rejects["req_1"]
    await eventually(lambda: books.standing.unposted_rows == 0)
    await eventually(lambda: books.is_settled)


async def test_many_rows_that_are_not_taken_leave_the_event_loop_to_others(
    books: Books, control: Control, eventually: Callable[..., Any]
) -> None:
    """More than are posted at once: a proxy of another version may have nothing but such rows."""
    holds = [a_hold(f"req_{n}", 1) for n in range(250)]
    control.rejects.update({hold.id: "a reason" for hold in holds})
    for hold in holds:
        await books.open(hold)
    await asyncio.gather(*(books.settle(a_row(hold, 1)) for hold in holds))
    began = time.monotonic()
    await asyncio.sleep(1)
    assert time.monotonic() - began < 5
    assert books.standing.unposted_rows == 250


async def test_two_that_post_at_the_same_time_post_each_row_once(books: Books, control: Control) -> None:
    """An instance that is given up posts what there is while rows are on their way."""
    control.takes = 0.05
    await spend(books, "req_1", 100, 10)
    await asyncio.gather(books._post.post_all(), books._post.post_all())
    assert [row["id"] for call in control.calls_to("rows") for row in call["rows"]] == ["req_1"]


async def test_as_many_rows_as_are_worth_a_call_do_not_wait(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_post, "_EVERY", 3600)
    monkeypatch.setattr(row_post, "_AT_ONCE", 3)
    async with kept(tmp_path, control) as books:
        for n in range(3):
            await spend(books, f"req_{n}", 100, 10)
        await eventually(lambda: len(control.rows) == 3)


async def test_rows_that_come_during_a_call_wait_for_others(books: Books, control: Control) -> None:
    """A call costs much more than a row of it: a busy proxy would do little else."""

    async def ask(worker: int) -> None:
        for n in range(40):
            hold = a_hold(f"req_{worker}_{n}", 10)
            await books.open(hold)
            await books.settle(a_row(hold, 1))

    control.takes = 0.02
    began = time.monotonic()
    await asyncio.gather(*map(ask, range(4)))
    assert len(control.calls_to("rows")) <= 1 + (time.monotonic() - began) / 0.2


async def test_a_batch_is_as_long_as_it_may_be_again_once_what_was_refused_is_found(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_post, "ROWS_PER_POST", 4)
    control.refuses_batches_with.add("req_0")
    async with kept(tmp_path, control) as books:
        holds = [a_hold(f"req_{n}", 10) for n in range(12)]
        for hold in holds:
            await books.open(hold)
        await control.leave()
        for hold in holds:
            await books.settle(a_row(hold, 1))
        control.away = False
        await eventually(lambda: len(control.rows) == 11)
        assert [len(call["rows"]) for call in control.calls_to("rows")] == [4, 2, 1, 1, 2, 4, 4]


async def test_a_proxy_that_leaves_posts_all_rows_that_are_taken(
    tmp_path: Path, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be they more than one call has."""
    monkeypatch.setattr(row_post, "ROWS_PER_POST", 4)
    monkeypatch.setattr(row_post, "_EVERY", 3600)
    control.refuses_batches_with.add("req_0")
    async with kept(tmp_path, control) as books:
        for n in range(9):
            await spend(books, f"req_{n}", 10, 1)
        assert control.rows == {}
    assert len(control.rows) == 8


async def test_what_is_said_of_rows_that_were_not_sent_is_nothing(
    books: Books, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(*_: Any) -> PostedRows:
        return PostedRows(("req_1", "req_2"), {"req_3": "a reason"})

    monkeypatch.setattr(books._control, "post_rows", answer)
    await spend(books, "req_1", 1000, 100)
    await eventually(lambda: books.standing.unposted_rows == 0)
    assert books._post.postable == 0


async def test_an_answer_that_says_nothing_of_the_rows_is_none(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or they would be posted again at once, and for ever."""

    async def nothing(*_: Any) -> PostedRows:
        return PostedRows((), {})

    monkeypatch.setattr(books._control, "post_rows", nothing)
    await spend(books, "req_1", 1000, 100)
    with pytest.raises(ControlPlaneAway):
        await asyncio.wait_for(books._post.post_all(), 30)


# The proxy dies.


async def test_what_was_open_becomes_one_interrupted_row(tmp_path: Path, control: Control) -> None:
    async with crashing(tmp_path, control) as books:
        await books.open(a_hold("req_1", 3000))
        await books.open(a_hold("req_2", 3000))
        books.progress("req_2", Usage(output=1), "")
        books.progress("req_2", Usage(input=1, output=20), "")
    for interrupted_ids in (["req_1", "req_2"], []):
        async with kept(tmp_path, control) as books:
            assert [row.id for row in books.interrupted] == interrupted_ids
            metrics = Observer("openhands", books, Bodies(0)).metrics()
            assert ('settlement="interrupted"' in metrics) == bool(interrupted_ids)
    rows = {id_: row for id_, (_, row) in control.rows.items()}
    assert {id_: row.settlement for id_, row in rows.items()} == dict.fromkeys(
        ("req_1", "req_2"), Settlement.INTERRUPTED
    )
    assert rows["req_1"].cost_nanodollars == 0
    assert (rows["req_2"].usage, rows["req_2"].cost_nanodollars) == (Usage(input=1, output=20), 3000)
    assert rows["req_2"].flags == ("capped_at_hold",)
    assert control.wallets["alice"].spent == 3000
    assert (control.wallets["alice"].balance, control.wallets["alice"].held) == (7000, 0)


async def test_what_was_open_is_charged_by_the_terms_that_were_noted(tmp_path: Path, control: Control) -> None:
    fast = replace(a_hold("req_1", 3000), terms="speed=fast")
    async with crashing(tmp_path, control) as books:
        for id_ in ("req_1", "req_2"):
            await books.open(replace(fast, id=id_))
            books.progress(id_, Usage(input=1), "" if id_ == "req_2" else "speed=fast")
    async with kept(tmp_path, control) as books:
        assert {row.id: (row.terms, row.flags) for row in books.interrupted} == {
            "req_1": ("speed=fast", ("capped_at_hold", "speed_other")),
            "req_2": ("", ("capped_at_hold",)),
        }


async def test_rows_that_were_not_posted_are_and_leases_are_found_again(tmp_path: Path, control: Control) -> None:
    async with crashing(tmp_path, control) as books:
        await books.open(a_hold("req_1", 3000))
        await books.open(a_hold("req_2", 3000))
        await books.open(a_hold("req_3", 2000))
        await control.leave()
        await books.settle(a_row(a_hold("req_1", 3000), 400))
        books.progress("req_3", Usage(output=1_000_000), "")
        free = books.standing.free
    for _ in range(2):
        async with kept(tmp_path, control) as books:
            assert books.standing.free == free + 3000, "of those in the middle one cost nothing, the other one all"
            assert books.standing.unposted_rows >= 1
            assert books.standing.unposted_bytes > 500 * books.standing.unposted_rows
    control.away = False
    async with kept(tmp_path, control) as books:
        pass
    assert sorted(control.rows) == ["req_1", "req_2", "req_3"]
    assert (control.wallets["alice"].balance, control.wallets["alice"].held) == (7600, 0)


async def test_rows_that_were_posted_are_not_posted_again(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    async with crashing(tmp_path, control) as books:
        await spend(books, "req_1", 1000, 100)
        await eventually(lambda: books.standing.unposted_rows == 0)
    async with kept(tmp_path, control) as books:
        assert books.standing.unposted_rows == 0
    assert len(control.calls_to("rows")) == 1


async def test_a_bigger_lease_that_nobody_heard_of_is_undone(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    async with crashing(tmp_path, control) as books:
        await spend(books, "req_1", 1000, 100)
        await eventually(lambda: books.standing.unposted_rows == 0)
        free = books.standing.free
        control.loses_answers = 1
        opening = asyncio.create_task(books.open(a_hold("req_2", 5000)))
        await eventually(lambda: control.loses_answers == 0)
        opening.cancel()
        assert control.wallets["alice"].held > 5000
    async with kept(tmp_path, control) as books:
        await eventually(lambda: control.wallets["alice"].held == free)
        assert books.standing.free == free


async def test_a_bigger_lease_for_one_who_did_not_wait_is_undone(
    books: Books, control: Control, eventually: Callable[..., Any]
) -> None:
    await spend(books, "req_0", 1000, 1000)
    await eventually(lambda: books.standing.unposted_rows == 0)
    free = books.standing.free
    control.loses_answers = 1
    opening = asyncio.create_task(books.open(a_hold("req_1", 5000)))
    await eventually(lambda: control.loses_answers == 0)
    opening.cancel()
    assert control.wallets["alice"].held > 5000
    await eventually(lambda: control.wallets["alice"].held == free)


async def test_a_journal_from_a_backup_is_another_instances(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], lines: Lines
) -> None:
    async with crashing(tmp_path / "a", control) as books:
        await spend(books, "req_1", 1000, 100)
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    for n in range(2, 4):
        async with crashing(tmp_path / "a", control) as books:
            await spend(books, f"req_{n}", 3000, 100)
    (former,) = control.sequences
    held = control.wallets["alice"].loans[former].held
    async with kept(tmp_path / "backup", control) as books:
        await spend(books, "req_4", 1000, 100)
        await eventually(lambda: len(control.sequences) == 2)
        await eventually(lambda: books.standing.unposted_rows == 0)
        (_, latter) = control.sequences
        assert books.standing.free <= control.wallets["alice"].loans[latter].held
    assert latter != former
    first = next(call for call in control.calls_to("leases") if call["instance"] == latter)
    assert [asked["known_total"] for asked in first["leases"]] == [0]
    assert control.wallets["alice"].loans[former].held <= held, "what the former one was lent is not spent by another"
    assert control.wallets["alice"].loans[latter].held == 0
    assert control.total_is_right()
    assert set(control.rows) >= {"req_1", "req_4"}
    assert lines.all("this proxy begins a new instance")


async def test_a_journal_that_was_copied_while_it_was_used_is_another_instances(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], lines: Lines
) -> None:
    """Its next start is numbered above all calls that the control plane knows of: only the rows tell."""
    async with crashing(tmp_path / "a", control) as books:
        await spend(books, "req_1", 1000, 100)
        await eventually(lambda: books.standing.unposted_rows == 0)
        shutil.copytree(tmp_path / "a", tmp_path / "backup")
        for n in range(2, 7):
            await spend(books, f"req_{n}", 1000, 1000)
        await eventually(lambda: books.standing.unposted_rows == 0)
    async with kept(tmp_path / "backup", control) as books:
        await eventually(lambda: len(control.sequences) == 2)
        for n in range(10, 30):
            with suppress(InsufficientFunds):
                await spend(books, f"req_{n}", 1000, 1000)
    assert control.total_is_right()
    assert control.wallets["alice"].spent > 5100
    assert lines.all("this proxy begins a new instance")


@pytest.mark.parametrize("starts_in_vain", [0, 1])
async def test_rows_that_the_control_plane_has_are_not_held_for_after_damage(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], starts_in_vain: int
) -> None:
    """What said that they were posted is what the damage hit. In vain is a start that hears nothing of the backend."""
    async with crashing(tmp_path, control) as books:
        for n in range(3):
            await spend(books, f"req_{n}", 1000, 100)
        await eventually(lambda: len(control.rows) == 3 and books.standing.unposted_rows == 0)
        for n in (8, 9):
            await books.open(a_hold(f"req_{n}", 1000))
    (former,) = control.sequences
    spent = control.wallets["alice"].spent
    (path,) = tmp_path.glob("journal-*.log")
    content = bytearray(path.read_bytes())
    content[content.index(b'"posted"') + 1] ^= 0x01
    path.write_bytes(content)
    for _ in range(starts_in_vain):
        control.away = True
        async with crashing(tmp_path, control) as books:
            await eventually(lambda: books.standing.unsettled_rows == 0)
        control.away = False
    async with kept(tmp_path, control) as books:
        await eventually(lambda: {"req_8", "req_9"} <= set(control.rows) and books.standing.unposted_rows == 0)
        await spend(books, "req_10", 1000, 100)
        await eventually(lambda: "req_10" in control.rows)
    *_, latter = control.sequences
    assert (latter == former) is bool(starts_in_vain), "the second start knows of all that it spent"
    assert {posted["instance"] for posted in control.calls_to("rows")[:-1]} == {former}
    assert control.wallets["alice"].loans[latter].held == 0, "nothing is spent here that is not spent there"
    async with kept(tmp_path, control) as books:
        await spend(books, "req_11", 1000, 0)
    assert control.wallets["alice"].loans[latter].held == 0, "nor after the next start"
    assert [*control.sequences][-1] == latter
    assert control.wallets["alice"].spent == spent + 100 + sum(
        control.rows[name][1].cost_nanodollars for name in ("req_8", "req_9")
    )
    assert control.total_is_right()


async def test_rows_that_the_control_plane_has_are_not_held_by_the_next_instance(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    """The answers to them were lost, and the instance that posted them is given up."""
    async with kept(tmp_path / "a", control, lease_wait=10) as books:
        control.loses_all_of = {"rows"}
        for n in range(4):
            await spend(books, f"req_{n}", 500, 500)
        await eventually(lambda: len(control.rows) == 4)
        assert books.standing.unposted_rows == 4
        (former,) = control.sequences
        control.sequences[former] = 10**18
        refused = len(control.calls_to("leases"))
        waiting = asyncio.create_task(books.open(a_hold("req_9", 5000)))
        await eventually(lambda: len(control.calls_to("leases")) > refused)
        await asyncio.sleep(0.5)
        control.loses_all_of = set()
        await waiting
        asked = [call["instance"] for call in control.calls_to("leases")[refused:]]
        assert asked.count(former) == 1, "the former one says nothing more of what it was lent"
        await books.settle(a_row(a_hold("req_9", 5000), 100))
    (_, latter) = control.sequences
    assert control.wallets["alice"].loans[latter].held == 0
    assert control.wallets["alice"].spent == 2100
    assert control.total_is_right()


async def test_an_instance_of_another_upstream_becomes_a_new_one_that_posts_its_rows(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    """A journal came here with rows that the control plane takes of that other upstream only."""
    async with crashing(tmp_path / "a", control) as books:
        control.loses_all_of = {"rows"}
        await spend(books, "req_1", 500, 500)
    control.loses_all_of, control.rows = set(), {}
    control.disowns = set(control.sequences)
    async with kept(tmp_path / "a", control):
        await eventually(lambda: "req_1" in control.rows)
    assert control.rows["req_1"][0] not in control.disowns


async def test_rows_on_their_way_are_the_former_instances(
    books: Books, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it one that is tried again: it is not among those that are posted before."""
    monkeypatch.setattr(row_post, "_SET_ASIDE", 0.0)
    control.rejects["req_1"] = "a reason"
    await spend(books, "req_1", 1000, 100)
    await eventually(lambda: books._post.postable == 0)
    post, on_its_way, may_go = books._control.post_rows, asyncio.Event(), asyncio.Event()

    async def post_in_the_end(instance: str, rows: Sequence[bytes]) -> PostedRows:
        on_its_way.set()
        await may_go.wait()
        return await post(instance, rows)

    monkeypatch.setattr(books._control, "post_rows", post_in_the_end)
    await on_its_way.wait()
    control.rejects.clear()
    former = books._journal.instance
    renewing = asyncio.create_task(books._renew())
    await asyncio.sleep(0)
    may_go.set()
    assert await renewing == {}
    assert control.rows["req_1"][0] == former != books._journal.instance


async def test_rows_that_are_not_taken_are_spent_by_the_next_instance(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one that posts them in the end."""
    monkeypatch.setattr(row_post, "_SET_ASIDE", 0.1)
    control.rejects["req_1"] = "a reason"
    control.wallets["key:1"] = Wallet(credits=10_000)
    async with kept(tmp_path, control) as books:
        hold = a_hold("req_1", 1000, "alice", "key:1")
        await books.open(hold)
        await books.settle(a_row(hold, 100))
        await eventually(lambda: books._post.postable == 0)
        (former,) = control.sequences
        control.sequences[former] = 10**18
        await books.open(a_hold("req_2", 5000))
        control.rejects.clear()
        await eventually(lambda: "req_1" in control.rows)
        books.void("req_2")
    assert books.has_told_all, "and the control plane knows of no row that it does not know of itself"
    assert [*control.sequences] == [former, control.rows["req_1"][0]]


async def test_rows_that_the_disk_does_not_have_yet_are_spent_by_the_next_instance(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    append, disk = Segment.append, threading.Event()

    def append_in_the_end(segment: Segment, data: bytes) -> None:
        disk.wait(10)
        append(segment, data)

    async with kept(tmp_path, control) as books:
        await books.open(a_hold("req_1", 1000))
        (former,) = control.sequences
        control.sequences[former] = 10**18
        monkeypatch.setattr(Segment, "append", append_in_the_end)
        books.settle(a_row(a_hold("req_1", 1000), 100))
        opening = asyncio.create_task(books.open(a_hold("req_2", 5000)))
        await eventually(lambda: len(control.sequences) == 2)
        assert books.standing.unsettled_rows == 1
        disk.set()
        await opening
        await eventually(lambda: "req_1" in control.rows)
        books.void("req_2")
    assert books.has_told_all, "and the control plane knows of no row that it does not know of itself"
    assert [*control.sequences] == [former, control.rows["req_1"][0]]


async def test_an_instance_whose_rows_are_refused_stays_what_it_is(
    books: Books, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the control plane has them is not known: another one would spend them a second time."""

    async def refuse(*_: Any) -> None:
        raise ControlPlaneRefuses(403, "who are you?")

    monkeypatch.setattr(books._control, "post_rows", refuse)
    await spend(books, "req_1", 500, 500)
    former = books._journal.instance
    with pytest.raises(ControlPlaneRefuses):
        await books._renew()
    assert books._journal.instance == former


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_the_books_agree(tmp_path: Path, control: Control, seed: int) -> None:
    """Two proxies, one wallet; answers get lost, the control plane comes and goes, proxies die and come again."""
    chance = random.Random(seed)
    costs: dict[str, int] = {}
    left_open: set[str] = set()
    count = 0

    async def ask(books: Books) -> None:
        nonlocal count
        count += 1
        hold = a_hold(f"req_{count}", chance.randint(1, 900))
        try:
            await books.open(hold)
        except (InsufficientFunds, LeaseUnavailable):
            return
        left_open.add(hold.id)
        await asyncio.sleep(chance.uniform(0, 0.02))
        left_open.discard(hold.id)
        costs[hold.id] = chance.randint(0, hold.amount // 4)
        await books.settle(a_row(hold, costs[hold.id]))
        assert control.total_is_right()

    async def proxy(name: str, *, dies: bool) -> None:
        with_end = crashing if dies else kept
        async with with_end(tmp_path / name, control, lease_wait=0.5) as books:
            asking = [asyncio.create_task(ask(books)) for _ in range(15)]
            await asyncio.sleep(chance.uniform(0.02, 0.1))
            control.loses_answers = chance.randint(0, 3)
            control.away = chance.random() < 0.3
            if not dies:
                await asyncio.gather(*asking)
            control.away = False
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    for dies in (True, True, False):
        await asyncio.gather(proxy("a", dies=dies), proxy("b", dies=dies))
    control.loses_answers = 0
    for name in ("a", "b"):
        async with kept(tmp_path / name, control):
            pass
    rows = {id_: row for id_, (_, row) in control.rows.items()}
    assert rows.keys() >= costs.keys() | left_open, "nothing is lost"
    assert {id_: rows[id_].cost_nanodollars for id_ in costs if rows[id_].settlement is not Settlement.INTERRUPTED} == {
        id_: cost for id_, cost in costs.items() if rows[id_].settlement is not Settlement.INTERRUPTED
    }
    wallet = control.wallets["alice"]
    assert wallet.spent == sum(row.cost_nanodollars for row in rows.values())
    assert (wallet.balance, wallet.held) == (10_000 - wallet.spent, 0)


# Its disk fails.


async def test_on_a_full_disk_nothing_is_begun_and_what_runs_is_settled(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    async with aiohttp.ClientSession() as session:
        client = ControlClient(session, control.url, TOKEN, "openhands")
        books = Books(Journal(tmp_path, segment_bytes=16384), client, interrupt, tmp_path / "keys.json")
        await books.start()
        (tmp_path / "journal.new").mkdir()
        running: list[str] = []
        while books.standing.journal_problem is None:
            with suppress(JournalUnwritable):
                await books.open(a_hold(f"req_{len(running)}", 100))
                running.append(f"req_{len(running)}")
        assert running
        with pytest.raises(JournalUnwritable):
            await books.open(a_hold("req_more", 100))
        assert books.standing.held == len(running) * 100
        for id_ in running:
            await asyncio.wait_for(books.settle(a_row(a_hold(id_, 100), 10)), 30)
        (tmp_path / "journal.new").rmdir()
        await eventually(lambda: books.standing.journal_problem is None)
        await spend(books, "req_later", 100, 10)
        await books.close()
    assert set(control.rows) == {*running, "req_later"}
    wallet = control.wallets["alice"]
    assert (wallet.balance, wallet.held) == (10_000 - wallet.spent, 0)


# Keys.


async def test_on_a_disk_that_does_not_answer_nothing_is_begun_and_nothing_stays_held(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_SILENT", 1.0)
    monkeypatch.setattr(journal, "_LOOK_EVERY", 0.05)
    append, disk = Segment.append, threading.Event()

    def append_in_the_end(segment: Segment, data: bytes) -> None:
        disk.wait(30)
        append(segment, data)

    async with kept(tmp_path, control) as books:
        await books.open(a_hold("req_0", 1000))
        held = books._desk._kept["alice"].lease.held
        monkeypatch.setattr(Segment, "append", append_in_the_end)
        with pytest.raises(JournalUnwritable, match="the disk does not answer"):
            await asyncio.wait_for(books.open(a_hold("req_1", 1000)), 5)
        assert books._desk._kept["alice"].lease.held == held
        assert books.standing.journal_problem == "the disk does not answer"
        began = time.monotonic()
        with pytest.raises(JournalUnwritable, match="the disk does not answer"):
            await books.open(a_hold("req_2", 1000))
        assert time.monotonic() - began < 0.9, "at once"
        disk.set()
        await eventually(lambda: books.standing.journal_problem is None)
        await spend(books, "req_3", 1000, 100)
        await books.settle(a_row(a_hold("req_0", 1000), 400))
    assert set(control.rows) == {"req_0", "req_3"}
    assert control.wallets["alice"].held == 0


async def test_keys_are_new_within_a_moment(books: Books, control: Control, eventually: Callable[..., Any]) -> None:
    await eventually(lambda: books.keys_age < 1)
    assert books.keys.find(KEY) is None
    await control.tell(key_entry(KEY))
    await eventually(lambda: books.keys.find(KEY) is not None)
    await control.tell()
    await eventually(lambda: books.keys.find(KEY) is None)


async def test_keys_that_change_all_the_time_are_asked_for_now_and_then(
    tmp_path: Path, control: Control, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read ten thousand takes a while. The first change after a pause is heard at once all the same."""
    monkeypatch.setattr(key_poll, "_PAUSE_PER_BYTE", 1.0)
    monkeypatch.setattr(key_poll, "_LONGEST_PAUSE", 0.4)
    await control.tell(key_entry(KEY))
    async with kept(tmp_path, control) as books:
        await eventually(lambda: books.keys.find(KEY) is not None)
        await asyncio.sleep(0.5)
        asked = len(control.calls_to("keys"))
        for n in range(50):
            await control.tell(key_entry(new_key(), id=f"key_{n}"))
            await asyncio.sleep(0.02)
            if n == 5:
                assert books.keys.find(KEY) is None
        assert len(control.calls_to("keys")) - asked <= 5
        await eventually(lambda: books.keys.version == control.version)


async def test_a_control_plane_without_keys_is_known(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    control.version = 0
    async with kept(tmp_path, control) as books:
        assert books.keys_age == float("inf")
        await eventually(lambda: books.keys_age < 1)


async def test_a_restored_control_plane_is_believed(
    books: Books, control: Control, eventually: Callable[..., Any]
) -> None:
    for _ in range(3):
        await control.tell(key_entry(KEY))
    await eventually(lambda: books.keys.version == 4)
    await control.leave()
    await eventually(lambda: books.standing.control_problem is not None)
    control.keys, control.version, control.away = [], 2, False
    await eventually(lambda: books.keys.version == 2)


@asynccontextmanager
async def keeping_a_key(directory: Path, control: Control, eventually: Callable[..., Any]) -> AsyncIterator[Books]:
    """Books that have kept a key, and ask for news of it all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_poll, "_WAIT", 0)
        await control.tell(key_entry(KEY))
        async with kept(directory, control) as books:
            await eventually(lambda: books.keys.find(KEY) is not None)
            await eventually((directory / "keys.json").exists)
            yield books


async def test_kept_keys_stay_fresh_whatever_is_answered(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    """Where other proxies want money back all the time, there is news in each answer, and the same keys."""
    path = tmp_path / "a" / "keys.json"
    async with keeping_a_key(tmp_path / "a", control, eventually):
        (instance,) = control.recalls
        control.recalls[instance] = Insistent({"alice"})
        asked = len(control.calls_to("keys"))
        await eventually(lambda: len(control.calls_to("keys")) > asked + 2)
        os.utime(path, (0, 0))
        await eventually(lambda: path.stat().st_mtime > 0)


class Insistent(set[str]):
    """Wallets that are recalled again and again."""

    def clear(self) -> None:
        pass


async def test_keys_that_could_not_be_kept_make_no_older_ones_look_fresh(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    """Or a process that starts while the control plane is away would let in what is revoked."""
    path = tmp_path / "a" / "keys.json"
    async with keeping_a_key(tmp_path / "a", control, eventually) as books:
        (tmp_path / "a" / "keys.new").mkdir()  # where they are written first
        await control.tell()
        await eventually(lambda: books.keys.find(KEY) is None)
        os.utime(path, (0, 0))
        asked = len(control.calls_to("keys"))
        await eventually(lambda: len(control.calls_to("keys")) > asked + 2)
        assert path.stat().st_mtime == 0
        (tmp_path / "a" / "keys.new").rmdir()
        await eventually(lambda: json.loads(path.read_bytes())["keys"] == [])


async def test_kept_keys_of_other_upstreams_go_though_their_version_stays(
    tmp_path: Path, control: Control, eventually: Callable[..., Any]
) -> None:
    """An older control plane told the keys of all upstreams."""
    await control.tell(key_entry(KEY), key_entry(new_key(), id="key_2", upstreams=["ohmygpt"]))
    path = tmp_path / "a" / "keys.json"
    async with kept(tmp_path / "a", control):
        await eventually(path.exists)
    control.keys.pop()
    async with kept(tmp_path / "a", control):
        await eventually(lambda: [key["id"] for key in json.loads(path.read_bytes())["keys"]] == ["key_1"])


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 1, "keys": [{}]}', b"\xff"])
async def test_kept_keys_that_cannot_be_read_are_none(
    tmp_path: Path, control: Control, lines: Lines, content: bytes
) -> None:
    (tmp_path / "keys.json").write_bytes(content)
    await control.leave()
    async with kept(tmp_path, control) as books:
        assert (len(books.keys), books.keys_age) == (0, float("inf"))
    assert lines.all("kept keys cannot be read")


# For the server.


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ({"own": 100, "beside": 200}, "beside"),
        ({"own": 200, "beside": 100}, "own"),
        ({"beside": 100}, "beside"),
        ({"own": 100, "beside": 200, "broken": 300}, "beside"),
    ],
)
async def test_keys_begin_with_those_that_any_instance_heard_last(
    tmp_path: Path, control: Control, written: dict[str, float], known: str
) -> None:
    """The control plane is away. Nobody writes where another instance keeps them: it may be writing there."""
    for name, heard in written.items():
        path = tmp_path / name / "keys.json"
        path.parent.mkdir()
        path.write_text("" if name == "broken" else json.dumps({"version": 1, "keys": [key_entry(KEY, id=name)]}))
        os.utime(path, (heard, heard))
    before = {path: path.read_bytes() for path in tmp_path.rglob("keys.json")}
    await control.leave()
    beside = [tmp_path / name for name in ("nobody", *written)]
    async with books_for(CONFIG, tmp_path / "own", control.url, TOKEN, beside) as books:
        key = books.keys.find(KEY)
        assert key is not None
        assert (key.id, round(time.time() - books.keys_age)) == (known, written[known])
    assert {path: path.read_bytes() for path in tmp_path.rglob("keys.json")} == before


async def test_books_for_a_configuration(tmp_path: Path, control: Control, eventually: Callable[..., Any]) -> None:
    async with books_for(CONFIG, tmp_path / "journal", control.url, TOKEN) as books:
        await spend(books, "req_1", 1000, 400)
        await eventually((tmp_path / "journal" / "keys.json").exists)  # keys are kept beside requests, not before them
    assert "req_1" in control.rows


def test_an_interrupted_request_is_priced_by_its_model() -> None:
    hold = a_hold("req_1", 10**9)
    row = interruption(CONFIG)(hold, Usage(input=1_000_000, output=1_000_000))
    assert (row.cost_nanodollars, row.settlement) == (10**9, Settlement.INTERRUPTED)
    assert interruption(CONFIG)(hold, None).cost_nanodollars == 0


def test_an_interrupted_request_of_a_model_that_is_gone_says_what_it_used() -> None:
    hold = Hold.from_json(a_hold("req_1", 10**9).to_json() | {"model": "gone"})
    row = interruption(CONFIG)(hold, Usage(output=20))
    assert (row.cost_nanodollars, row.usage, row.flags) == (0, Usage(output=20), ("unpriced",))
