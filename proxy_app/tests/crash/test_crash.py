"""Nothing acknowledged is lost, nothing is doubled: killed anywhere, without power, on a disk that fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from goproxy.control_plane.store import accounts, rows
from goproxy.control_plane.store.database import Database
from tests.bookkeeping import a_hold, a_row
from tests.crash.power_loss import fail_the_power, never_said_before_synced
from tests.crash.promises import Promises, read
from tests.crash.store_sweep import StoreFigures, Told, look, store_sweep
from tests.crash.strace import Call, Run, traced
from tests.crash.sweep import ROUNDS, sweep

pytestmark = pytest.mark.timeout(120)


def test_killed_at_any_system_call() -> None:
    figures = sweep(25)
    assert not figures.broken, figures.broken
    assert figures.points == 25
    assert {"pwrite64", "fdatasync", "fsync", "rename", "fallocate", "write"} <= figures.at.keys()


def test_a_store_killed_at_any_system_call_has_what_it_acknowledged_once() -> None:
    figures = store_sweep(9)
    assert not figures.broken, figures.broken
    assert (figures.points, set(figures.at)) == (9, {"pwrite64", "fdatasync", "ftruncate"})


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("UPDATE leases SET updated_at = ''", ([], [], [])),
        ("UPDATE leases SET spent_total = 2 * spent_total", ([], ["80 is charged for rows of 40"], [])),
        ("UPDATE leases SET spent_total = 0", (["0 is charged for rows of 40"], [], [])),
        ("DELETE FROM ledger_rows", (["req_1"], ["40 is charged for rows of 0"], [])),
        (
            "UPDATE leases SET spent_total = 80; UPDATE ledger_rows SET cost_nanodollars = 80",
            ([], ["80 is charged for rows of 40"], ["req_1 costs 80, and 40 was posted"]),
        ),
    ],
)
def test_what_a_store_charges_twice_is_noticed(
    tmp_path: Path, tampering: str, found: tuple[list[str], list[str], list[str]]
) -> None:
    """The last of these would add up, but for what the program said that it posted."""
    path, told, figures = tmp_path / "backend.sqlite3", Told(), StoreFigures()
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.transact("account", lambda store: accounts.create(store, "alice"))
    database.transact("post", lambda store: rows.ingest(store, "i", "openhands", [a_row(a_hold("req_1", 100), 40)]))
    database.close()
    told.hear(["posting req_1 40", "accepted req_1 40"])
    with closing(sqlite3.connect(path)) as store:
        store.executescript(tampering)
    look(path, told, figures)
    assert (figures.lost, figures.doubled, figures.unbalanced) == found


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, list[Call]]:
    scratch = tmp_path_factory.mktemp("whole_run")
    ran, calls = traced(scratch / "journal", "0", ROUNDS, scratch / "log")
    return scratch / "journal", ran, calls


def test_open_returns_after_the_sync_of_its_record(whole_run: tuple[Path, Run, list[Call]]) -> None:
    _, _, calls = whole_run
    before, too_early = never_said_before_synced(calls)
    assert too_early == []
    assert len(before) == 3 * ROUNDS
    # And the check sees it where it is otherwise: without the syncs, all are too early.
    _, all_of_them = never_said_before_synced(call for call in calls if "sync" not in call.name)
    assert all_of_them == before


def test_the_power_fails_at_any_promise(whole_run: tuple[Path, Run, list[Call]]) -> None:
    directory, ran, calls = whole_run
    looked_at, broken = fail_the_power(str(directory), calls)
    assert not broken, broken
    assert looked_at >= sum(line.startswith(("opened", "settled", "returned")) for line in ran.said)
    # And the check sees it where it is otherwise.
    for name in ("fdatasync", "fsync"):
        _, broken = fail_the_power(str(directory), (call for call in calls if call.name != name))
        assert broken.lost


FAULTS = {
    "no space to write": ("pwrite64", "ENOSPC", "9..10"),
    "sync fails": ("fdatasync", "EIO", "9+9"),
    "no space for a new segment": ("fallocate", "ENOSPC", "1..2"),
    "a new segment is not synced": ("fsync", "EIO", "1..3"),
    "the directory is read-only": ("rename", "EROFS", "1..2"),
    "the directory is not synced": ("fsync", "EIO", "2"),
}
"""The system call, the error, and which calls of each thread fail."""


@pytest.fixture(scope="module")
def faulted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Run, list[Call]]]:
    """A run with each fault. They mostly sleep until the next attempt, so that they run at once."""

    def run_with(fault: str) -> tuple[Path, Run, list[Call]]:
        scratch = tmp_path_factory.mktemp("faulted")
        call, error, when = FAULTS[fault]
        inject = f"inject={call}:error={error}:when={when}"
        return scratch / "journal", *traced(scratch / "journal", "0", ROUNDS, scratch / "log", "-e", inject)

    with ThreadPoolExecutor(len(FAULTS)) as pool:
        return dict(zip(FAULTS, pool.map(run_with, FAULTS), strict=True))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails(fault: str, faulted: dict[str, tuple[Path, Run, list[Call]]]) -> None:
    directory, ran, calls = faulted[fault]
    assert any("INJECTED" in call.result for call in calls)
    assert ran.said[-1] == "ended", "it recovers by itself"
    promises = Promises()
    promises.hear(ran.said)
    assert len(promises.opened) == 3 * ROUNDS
    broken = promises.balance(read(directory))
    assert not broken, broken
    assert uses_after_a_failed_sync(calls) == []


def test_the_power_fails_while_the_disk_does(faulted: dict[str, tuple[Path, Run, list[Call]]]) -> None:
    for fault, (directory, _, calls) in faulted.items():
        _, broken = fail_the_power(str(directory), calls)
        assert not broken, (fault, broken)


def test_what_cannot_be_written_is_refused(faulted: dict[str, tuple[Path, Run, list[Call]]]) -> None:
    refused = {fault for fault, (_, ran, _) in faulted.items() if any("refused" in line for line in ran.said)}
    assert len(refused) >= len(FAULTS) / 2, "in the others it was rows that waited"


def uses_after_a_failed_sync(calls: Sequence[Call]) -> list[Call]:
    """System calls on a segment after it could not be synced; only closing it is right."""
    written: set[int] = set()
    failed: set[int] = set()
    wrong = []
    for call in calls:
        match call.name:
            case "close":
                written.discard(call.descriptor)
                failed.discard(call.descriptor)
            case "pwrite64" | "fdatasync" | "fsync":
                if call.descriptor in failed:
                    wrong.append(call)
                if call.name == "pwrite64":
                    written.add(call.descriptor)
                elif call.result.startswith("-1") and call.descriptor in written:
                    failed.add(call.descriptor)
    return wrong
