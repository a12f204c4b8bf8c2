"""Tables that people read: columns as wide as they must be, numbers to the right, dollars exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

_NANODOLLARS = 10**9
_SUFFIX = "_nanodollars"


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
        return dollars(value)
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def dollars(nanodollars: int) -> str:
    """An amount in dollars, exact: at least the cents, and whatever else there is."""
    whole, rest = divmod(abs(nanodollars), _NANODOLLARS)
    cents, finer = divmod(rest, _NANODOLLARS // 100)
    return f"{'-' if nanodollars < 0 else ''}{whole}.{cents:02}{f'{finer:07}'.rstrip('0') if finer else ''}"


def nanodollars(text: str) -> int:
    """An amount above 0 that somebody has written in dollars.

    Raises:
        ValueError: it is none, or finer than a nano-dollar.
    """
    try:
        amount = Decimal(text) * _NANODOLLARS
        whole = int(amount)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"{text!r} is no amount in dollars") from None
    if whole != amount or not 0 < whole <= 10**17:
        raise ValueError(f"{text!r} is no amount in dollars above 0, with at most nine decimals")
    return whole
