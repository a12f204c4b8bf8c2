"""How much of a wallet is wanted ahead of need."""

from __future__ import annotations

import pytest

from goproxy.core.lease import Lease
from goproxy.data_plane.kept_lease import KeptLease


def spending(requests: int, each: int, seconds: float) -> tuple[KeptLease, float]:
    """A lease after so many requests, one after the other, in so many seconds."""
    kept = KeptLease(Lease("alice", granted_total=10**12), 0.0)
    now = 0.0
    for number in range(requests):
        now = seconds * (number + 1) / requests
        kept.lease.hold(str(number), 3 * each)
        kept.use(now)
        kept.lease.settle(str(number), each)
    return kept, now


@pytest.mark.parametrize("seconds", [1.0, 3.0, 60.0])
def test_a_lease_that_is_spent_fast_is_to_last_for_two_seconds(seconds: float) -> None:
    """What is held at once says nothing about it where a request takes a moment."""
    each, per_second = 1000, 100
    kept, now = spending(int(per_second * seconds), each, seconds)
    assert kept.need(now) == pytest.approx(3 * each + 2.0 * per_second * each, rel=0.1)


def test_a_pace_that_is_over_is_forgotten() -> None:
    kept, now = spending(1000, 1000, 10.0)
    assert kept.need(now + 1.0) > kept.need(now + 5.0) > kept.need(now + 10.0)
    assert kept.need(now + 60.0) <= 3000


@pytest.mark.parametrize(("requests", "seconds"), [(1, 0.1), (4, 0.1), (6, 60.0)])
def test_a_few_requests_have_no_pace(requests: int, seconds: float) -> None:
    """One dear request is no reason to borrow for twenty."""
    kept, now = spending(requests, 10**9, seconds)
    assert kept.need(now + 0.5) == 3 * 10**9


def test_what_a_process_before_has_spent_is_no_pace() -> None:
    kept = KeptLease(Lease("alice", granted_total=10**12, spent_total=10**11), 0.0)
    for number in range(5):
        kept.lease.hold(str(number), 1000)
        kept.use(0.1)
    assert kept.need(1.0) == 5000


@pytest.mark.parametrize("idle", [0.0, 1000.0])
def test_the_most_that_was_held_at_once_is_needed_for_ten_seconds_and_more(idle: float) -> None:
    """However long nothing was held before."""
    kept = KeptLease(Lease("alice", granted_total=10**12), 0.0)
    kept.lease.hold("req_1", 3000)
    kept.use(idle)
    kept.lease.settle("req_1", 1)
    kept.lease.hold("req_2", 10)
    kept.use(idle + 1.0)
    assert [kept.need(idle + seconds) for seconds in (1.0, 12.0, 25.0)] == [3000, 3000, 10]


def test_what_is_in_use_is_not_idle_unless_others_want_it() -> None:
    """A request may run for longer than a lease lies unused."""
    kept = KeptLease(Lease("alice", granted_total=1000), -60.0)
    kept.lease.hold("req_1", 400)
    kept.use(0.0)
    assert not kept.has_idle(60.0)
    kept.is_recalled = True
    assert kept.has_idle(60.0)
    kept.is_recalled = False
    kept.lease.settle("req_1", 400)
    assert kept.has_idle(60.0)
    assert not kept.has_idle(-1.0)


def test_more_is_asked_for_when_less_than_half_of_the_need_is_free() -> None:
    kept = KeptLease(Lease("alice", granted_total=3000), 0.0)
    kept.lease.hold("req_1", 2000)
    kept.use(0.0)
    assert not kept.is_low(0.0)
    kept.lease.give_back(1)
    assert kept.is_low(0.0)


def test_a_lease_is_at_rest_when_there_is_nothing_to_do_for_it() -> None:
    kept = KeptLease(Lease("alice"), 0.0)
    assert not kept.is_at_rest(0.0), "the control plane does not know what is known here"
    kept.is_told = True
    assert kept.is_at_rest(0.0)
    kept.lease.grant(1000)
    assert not kept.is_at_rest(0.0)
    kept.lease.hold("req_1", 1000)
    kept.use(0.0)
    assert not kept.is_at_rest(0.0)
    kept.lease.settle("req_1", 1000)
    assert not kept.is_at_rest(1.0), "more may be asked for ahead"
    assert kept.is_at_rest(30.0)
    kept.is_recalled = True
    assert not kept.is_at_rest(30.0)
    kept.is_recalled = False
    kept.lease.spent_total += 1
    assert not kept.is_at_rest(30.0), "it is overdrawn"
