"""Accounts: who pays. One has a wallet of its own name from the beginning."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, literal, or_, select, update

from goproxy.control_plane.store import wallets
from goproxy.control_plane.store.database import keep_or_insert
from goproxy.control_plane.store.refusals import Conflict, NotFound
from goproxy.control_plane.store.schema import accounts
from goproxy.control_plane.store.schema import rows as row_table
from goproxy.control_plane.store.schema import wallets as wallet_table
from goproxy.timestamps import now

DECLARED = "declared"
"""Origin of what stands in the inventory; it goes when it leaves the inventory."""

OPERATOR = "operator"
"""Origin of what was made by the admin API; it stays until it is taken back there."""


def create(connection: Connection, name: str, note: str = "", origin: str = OPERATOR) -> dict[str, Any]:
    """Make an account, and its wallet.

    Raises:
        Conflict: there is one of this name.
    """
    if not keep_or_insert(connection, accounts, name=name, note=note, origin=origin, created_at=now()):
        raise Conflict(f"there is an account {name!r} already")
    wallets.ensure(connection, name, account=name)
    return get(connection, name)


def get(connection: Connection, name: str) -> dict[str, Any]:
    """An account.

    Raises:
        NotFound: there is none of this name.
    """
    found = connection.execute(select(accounts).where(accounts.c.name == name)).mappings().first()
    if found is None:
        raise NotFound(f"there is no account {name!r}")
    return dict(found)


def is_named(connection: Connection, name: str) -> bool:
    """Whether there is an account of this name, or a wallet or a row of one: these are kept whoever they name."""
    columns = (accounts.c.name, wallet_table.c.account, row_table.c.account)
    found = (connection.execute(select(each).where(each == name).limit(1)).first() for each in columns)
    return any(each is not None for each in found)


def all_of_them(connection: Connection) -> list[dict[str, Any]]:
    """All accounts, by name."""
    return [dict(found) for found in connection.execute(select(accounts).order_by(accounts.c.name)).mappings()]


def disable(connection: Connection, name: str, by: str = OPERATOR) -> dict[str, Any]:
    """Let none of its keys in any more. What it has is kept. What the operator disables no declaration enables.

    Raises:
        NotFound: there is none of this name.
    """
    get(connection, name)
    can_change = or_(accounts.c.disabled_at.is_(None), literal(by == OPERATOR))
    values = {"disabled_at": func.coalesce(accounts.c.disabled_at, now()), "disabled_by": by}
    connection.execute(update(accounts).where(accounts.c.name == name, can_change).values(values))
    return get(connection, name)


def enable(connection: Connection, name: str) -> dict[str, Any]:
    """Let its keys in again, those that were not revoked.

    Raises:
        NotFound: there is none of this name.
    """
    connection.execute(update(accounts).where(accounts.c.name == name).values(disabled_at=None, disabled_by=None))
    return get(connection, name)
