"""Credit that renews: a wallet that is filled up again at the beginning of each period. What it has beyond that stays.

A renewal is an entry of the ledger, as a grant is. What requests cost counts in the period in which their rows come. Of
the periods in which no backend ran, or the account was disabled, the present one alone is made up for.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, or_, select, update

from goproxy.control_plane.store import wallets
from goproxy.control_plane.store.database import keep_or_insert
from goproxy.control_plane.store.live_keys import is_live
from goproxy.control_plane.store.refusals import Conflict
from goproxy.control_plane.store.schema import accounts, keys, renewals
from goproxy.control_plane.store.schema import wallets as wallet_table
from goproxy.core.renewal import Period, beginning, end
from goproxy.timestamps import now, text_of

_AT_ONCE = 100
"""Wallets that are filled up in one transaction: others wait for it."""


NONE: dict[str, Any] = dict.fromkeys(column.name for column in wallets.RENEWS)
"""How documents say that a wallet does not renew."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What one round of renewals did."""

    wallets: int
    refused: Mapping[str, str]
    """By wallet, why it could not be filled up."""


def schedule(connection: Connection, wallet: str, period: Period, amount: int) -> bool:
    """Let a wallet have this much, in nano-dollars, at the beginning of each period to come; whether it is new to that.

    What it has now stays as it is.
    """
    values = {"period": period, "amount": amount, "next_at": text_of(end(period, _moment()))}
    if keep_or_insert(connection, renewals, wallet=wallet, **values):
        return True
    connection.execute(update(renewals).where(renewals.c.wallet == wallet).values(**values))
    return False


def begin(connection: Connection, wallet: str, period: Period, amount: int) -> None:
    """Let a wallet renew. If it did not, it is filled up at once; a change holds from the next period on.

    Raises:
        NotFound: there is no such wallet.
        Conflict: its credits would be beyond all measure.
    """
    if schedule(connection, wallet, period, amount):
        wallets.fill_up(connection, _entry(wallet, secrets.token_hex(8)), wallet, amount)


def stop(connection: Connection, wallet: str) -> None:
    """Let a wallet renew no more. What it has stays."""
    connection.execute(delete(renewals).where(renewals.c.wallet == wallet))


def is_any_due(connection: Connection) -> bool:
    """Whether there is something for `renew`."""
    return connection.execute(_due().limit(1)).first() is not None


def renew(connection: Connection) -> Renewed:
    """Fill up some of the wallets whose next period has begun: to be called until it was none."""
    refused: dict[str, str] = {}
    due = connection.execute(_due().order_by(renewals.c.wallet).limit(_AT_ONCE).with_for_update(of=renewals)).all()
    for found in due:
        try:
            _renew(connection, found)
        except Conflict as problem:
            refused[found.wallet] = str(problem)
            _put_off(connection, found)
    return Renewed(len(due), refused)


def catch_up(connection: Connection, wallet: str) -> None:
    """Fill up a wallet whose next period has begun, before it is changed: what is asked for belongs to that period.

    Raises:
        Conflict: its credits would be beyond all measure.
    """
    late = select(renewals).where(renewals.c.wallet == wallet, renewals.c.next_at <= now())
    if (found := connection.execute(late).first()) is not None:
        _renew(connection, found)


def renewal_of(connection: Connection, wallet: str) -> dict[str, Any]:
    """How a wallet renews, as documents say it."""
    found = connection.execute(select(*wallets.RENEWS).where(renewals.c.wallet == wallet)).mappings().first()
    return NONE if found is None else dict(found)


def _renew(connection: Connection, due: Row[Any]) -> None:
    entry = _entry(due.wallet, text_of(beginning(due.period, _moment())))
    wallets.fill_up(connection, entry, due.wallet, due.amount)
    _put_off(connection, due)


def _put_off(connection: Connection, due: Row[Any]) -> None:
    following = text_of(end(due.period, _moment()))
    connection.execute(update(renewals).where(renewals.c.wallet == due.wallet).values(next_at=following))


def _due() -> Select[Any]:
    """Those whose next period has begun; of a key that is not live, or an account that is disabled, none is."""
    return (
        select(renewals.c.wallet, renewals.c.period, renewals.c.amount)
        .join(wallet_table, wallet_table.c.id == renewals.c.wallet)
        .outerjoin(keys, keys.c.id == wallet_table.c.key_id)
        .join(
            accounts, accounts.c.name == func.coalesce(keys.c.account, wallet_table.c.account)
        )  # a key may have moved
        .where(renewals.c.next_at <= now(), accounts.c.disabled_at.is_(None))
        .where(or_(wallet_table.c.key_id.is_(None), is_live()))
    )


def _entry(wallet: str, what: str) -> str:
    return f"{wallets.RENEWAL}{wallet}:{what}"


def _moment() -> datetime:
    return datetime.fromisoformat(now())
