"""When credit that renews does: by the calendar, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Literal

Period = Literal["day", "week", "month"]
"""A week begins on Monday, as in ISO 8601."""


def beginning(period: Period, moment: datetime) -> datetime:
    """When the period began that a moment is in."""
    day = moment.astimezone(UTC).date()
    match period:
        case "week":
            day -= timedelta(days=day.weekday())
        case "month":
            day = day.replace(day=1)
    return datetime.combine(day, time(), UTC)


def end(period: Period, moment: datetime) -> datetime:
    """When the next period begins."""
    longer_than_one = {"day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=31)}[period]
    return beginning(period, beginning(period, moment) + longer_than_one)
