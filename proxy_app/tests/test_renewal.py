"""When periods begin, by the calendar in UTC."""

from __future__ import annotations

from datetime import datetime

import pytest

from goproxy.core.renewal import Period, beginning, end
from goproxy.timestamps import text_of

TURNS: list[tuple[Period, str, str, str]] = [
    ("day", "2026-12-31T23:59:59.999Z", "2026-12-31", "2027-01-01"),
    ("day", "2027-01-01T00:00:00.000Z", "2027-01-01", "2027-01-02"),
    ("day", "2027-01-01T00:30:00.000+02:00", "2026-12-31", "2027-01-01"),
    ("week", "2026-12-06T23:59:59.999Z", "2026-11-30", "2026-12-07"),
    ("week", "2026-12-07T00:00:00.000Z", "2026-12-07", "2026-12-14"),
    ("week", "2027-01-01T12:00:00.000Z", "2026-12-28", "2027-01-04"),
    ("month", "2026-12-31T23:59:59.999Z", "2026-12-01", "2027-01-01"),
    ("month", "2027-01-31T12:00:00.000Z", "2027-01-01", "2027-02-01"),
    ("month", "2027-02-01T00:00:00.000Z", "2027-02-01", "2027-03-01"),
    ("month", "2028-02-29T12:00:00.000Z", "2028-02-01", "2028-03-01"),
    ("month", "2027-04-30T12:00:00.000Z", "2027-04-01", "2027-05-01"),
]


@pytest.mark.parametrize(("period", "moment", "first", "following"), TURNS)
def test_a_period_begins_and_ends_at_midnight(period: Period, moment: str, first: str, following: str) -> None:
    then = datetime.fromisoformat(moment)
    assert text_of(beginning(period, then)) == f"{first}T00:00:00.000Z"
    assert text_of(end(period, then)) == f"{following}T00:00:00.000Z"
