"""Tables that people read: columns as wide as they must be, numbers to the right, dollars exact."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from goproxy.core.pricing import MOST_AT_ONCE, NANODOLLARS, dollars

_SUFFIX = "_nanodollars"
_AMOUNT = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?", re.ASCII)


def table(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """One line for each record, under a line of headings. Amounts in nano-dollars are shown in dollars."""
    lines = [[heading(column) for column in columns]]
    lines += [[shown(column, record.get(column)) for column in columns] for record in records]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    to_the_right = [
        any(isinstance(record.get(column), int) and not isinstance(record.get(column), bool) for record in records)
        for column in columns
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_the_right, strict=True)
        ).rstrip()
        for line in lines
    )


def heading(column: str) -> str:
    """`balance_nanodollars` is BALANCE USD."""
    name = column.removesuffix(_SUFFIX)
    return name.upper().replace("_", " ") + (" USD" if name != column else "")


def shown(column: str, value: Any) -> str:
    """A value in its cell."""
    if value is None or value == []:
        return "-"
    if column.endswith(_SUFFIX):
        return amount(value)
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(each if each.isprintable() else "\ufffd" for each in text)  # a terminal obeys what does not print


def amount(nanodollars: int) -> str:
    """An amount under a heading that says USD."""
    return dollars(nanodollars).replace("$", "")


def nanodollars(text: str) -> int:
    """An amount above 0 that somebody has written in dollars.

    Raises:
        ValueError: it is none, or finer than a nano-dollar.
    """
    if not (found := _AMOUNT.fullmatch(text)):
        raise ValueError(f"{text!r} is no amount in dollars, such as 10 or 0.25; at most nine decimals")
    whole = int(found[1]) * NANODOLLARS + int(found[2].ljust(9, "0") if found[2] else 0)
    if not 0 < whole <= MOST_AT_ONCE:
        raise ValueError(f"{text!r}: expected an amount above 0 and up to {amount(MOST_AT_ONCE)} dollars")
    return whole
