"""The limits per minute of one key: how much is let in, and when what is not may come again."""

from __future__ import annotations

from goproxy.core.rate import KeyRate


def admitted(rate: KeyRate, now: float, *, most: int = 100) -> int:
    """How many requests are let in at this moment, if that many come."""
    return sum(rate.admit(now) is None for _ in range(most))


def left(rate: KeyRate, now: float) -> float:
    assert rate.requests is not None
    return rate.requests.level(now)


def test_a_minutes_requests_may_come_at_once_and_the_next_when_there_is_room_for_it() -> None:
    rate = KeyRate(3, None, 0)
    assert [rate.admit(0) for _ in range(4)] == [None, None, None, ("requests", 20.0)]
    assert rate.admit(15.0) == ("requests", 5.0)
    assert rate.admit(20.0) is None
    assert rate.admit(20.0) == ("requests", 20.0)


def test_an_idle_hour_is_worth_one_minute() -> None:
    rate = KeyRate(3, None, 0)
    assert admitted(rate, 0) == 3
    assert admitted(rate, 3600) == 3
    assert rate.admit(3600) == ("requests", 20.0)


def test_there_is_no_limit_where_none_is_given() -> None:
    assert admitted(KeyRate(None, None, 0), 0) == 100
    rate = KeyRate(None, 1, 0)
    assert admitted(rate, 0) == 100, "a request alone takes no tokens"


def test_what_an_answer_used_beyond_the_limit_is_waited_for() -> None:
    rate = KeyRate(None, 60, 0)
    assert rate.admit(0) is None
    rate.used(200, 0)
    assert rate.admit(0) == ("tokens", 141.0), "140 below nothing, and one to begin with"
    assert rate.admit(100) == ("tokens", 41.0)
    assert rate.admit(141) is None


def test_a_request_that_the_tokens_do_not_let_in_is_not_counted() -> None:
    rate = KeyRate(3, 60, 0)
    rate.used(60, 0)
    assert [rate.admit(0) for _ in range(5)] == [("tokens", 1.0)] * 5
    assert left(rate, 0) == 3


def test_limits_that_stay_go_on_with_what_is_left() -> None:
    rate = KeyRate(3, 60, 0)
    assert KeyRate.after(rate, 3, 60, 5) is rate
    unlimited = KeyRate(None, None, 0)
    assert KeyRate.after(unlimited, None, 0, 5) is unlimited, "0 is none, too"


def test_of_a_limit_that_changes_the_same_share_is_left() -> None:
    rate = KeyRate(3, None, 0)
    assert admitted(rate, 0, most=2) == 2
    changed = KeyRate.after(rate, 6, 600, 0)
    assert left(changed, 0) == 2
    assert admitted(changed, 0) == 2
    assert changed.tokens is not None
    assert changed.tokens.level(0) == 600, "of one that there was not, all"
    lifted = KeyRate.after(changed, None, 600, 0)
    assert lifted.requests is None


def test_a_key_that_comes_first_has_all_of_its_minute() -> None:
    assert admitted(KeyRate.after(None, 3, None, 7), 7) == 3
