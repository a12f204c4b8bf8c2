"""Sums over records that may not fit into the 64 bits of the databases' integers."""

from __future__ import annotations

from sqlalchemy import ColumnElement, RowMapping, func

_HALF = 2**32


def sum_of(column: ColumnElement[int], name: str) -> list[ColumnElement[int]]:
    """The sum of a column, in two: SQLite's own is an error from 64 bits on, which a hundred wallets can come to."""
    return [func.sum(column // _HALF).label(f"{name}_high"), func.sum(column % _HALF).label(f"{name}_low")]


def summed(record: RowMapping, name: str) -> int:
    """What both parts of a sum come to; of nothing: 0."""
    return int(record[f"{name}_high"] or 0) * _HALF + int(record[f"{name}_low"] or 0)
