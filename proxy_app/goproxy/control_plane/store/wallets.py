"""Wallets and the credits that fill them. What proxies were lent of them is in `leases`."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from goproxy.control_plane.store.database import keep_or_insert
from goproxy.control_plane.store.refusals import Conflict, NotFound
from goproxy.control_plane.store.schema import accounts, credit_entries, leases, renewals, wallets
from goproxy.control_plane.store.wide_sum import sum_of, summed
from goproxy.core import wallet_name
from goproxy.core.lease import MOST, Loan, Wallet
from goproxy.core.pricing import dollars
from goproxy.timestamps import now

RENEWAL = "renewal:"

OWN_ENTRIES = ("opening:", "limit:", "rerate_", RENEWAL)
"""What the ids of entries begin with that nobody but the store itself makes."""


RENEWS = (
    renewals.c.period.label("renews"),
    renewals.c.amount.label("renews_to_nanodollars"),
    renewals.c.next_at.label("renews_at"),
)
"""How a wallet renews, as documents say it."""


def ensure(connection: Connection, wallet: str, *, account: str, key_id: str | None = None) -> None:
    """Let there be this wallet."""
    keep_or_insert(connection, wallets, id=wallet, account=account, key_id=key_id, credits=0, created_at=now())


def remember(connection: Connection, wallet: str) -> None:
    """Let there be a wallet that a proxy names and this store does not know: it may have lost its memory."""
    if (key_id := wallet_name.key_of(wallet)) is not None:
        ensure(connection, wallet, account="", key_id=key_id)
    else:
        ensure(connection, wallet, account=wallet_name.account_of(wallet))


def existing(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Those of the wallets that there are."""
    return set(connection.execute(select(wallets.c.id).where(wallets.c.id.in_(list(ids)))).scalars())


def load(connection: Connection, wallet: str) -> Wallet:
    """A wallet with its loans, locked until the transaction ends.

    Raises:
        NotFound: there is none of this id.
    """
    locked = select(wallets.c.credits).where(wallets.c.id == wallet).with_for_update()
    credited = connection.execute(locked).scalar()
    if credited is None:
        raise NotFound(f"there is no wallet {wallet!r}")
    return Wallet(credited, _loans(connection, wallet))


def find(connection: Connection, wallet: str) -> Wallet:
    """A wallet with its loans, as it stands; one that there is not is empty."""
    credited = connection.execute(select(wallets.c.credits).where(wallets.c.id == wallet)).scalar()
    return Wallet(credited or 0, _loans(connection, wallet))


def _loans(connection: Connection, wallet: str) -> dict[str, Loan]:
    loans = select(leases.c.instance, leases.c.granted_total, leases.c.spent_total).where(leases.c.wallet == wallet)
    return {name: Loan(granted, spent) for name, granted, spent in connection.execute(loans)}


def show(connection: Connection, account: str | None = None, wallet: str | None = None) -> list[dict[str, Any]]:
    """Wallets and where their credits are, by id; all, or of one account, or one."""
    chosen = select(wallets, *RENEWS).outerjoin(renewals).order_by(wallets.c.id)
    if account is not None:
        chosen = chosen.where(wallets.c.account == account)
    if wallet is not None:
        chosen = chosen.where(wallets.c.id == wallet)
    lent = select(leases) if wallet is None else select(leases).where(leases.c.wallet == wallet)
    if account is not None:
        lent = lent.join(wallets, wallets.c.id == leases.c.wallet).where(wallets.c.account == account)
    by_wallet: dict[str, dict[str, Loan]] = {}
    for lease in connection.execute(lent):
        by_wallet.setdefault(lease.wallet, {})[lease.instance] = Loan(lease.granted_total, lease.spent_total)
    shown = []
    for record in connection.execute(chosen).mappings():
        held = Wallet(record["credits"], by_wallet.get(record["id"]))
        shown.append(
            {
                "id": record["id"],
                "account": record["account"],
                "key_id": record["key_id"],
                "credits_nanodollars": held.credits,
                "balance_nanodollars": held.balance,
                "held_nanodollars": held.held,
                "spent_nanodollars": held.spent,
            }
            | {column.name: record[column.name] for column in RENEWS}
        )
    return shown


def settle_in(connection: Connection, wallet: str, names: Collection[str] | None) -> None:
    """Let a wallet that is about to be credited be there: `<account>/<wallet>` begins with its first credit.

    Args:
        names: of the wallets that upstreams pay from; None: any will do.

    Raises:
        NotFound: there is no such wallet, nor an account that it could be of, nor an upstream that would pay from it.
    """
    if existing(connection, [wallet]):
        return
    account, name = wallet_name.account_of(wallet), wallet_name.name_of(wallet)
    if name is None or not connection.execute(select(accounts.c.name).where(accounts.c.name == account)).scalar():
        raise NotFound(f"there is no wallet {wallet!r}")
    if names is not None and name not in names:
        known = (
            ", ".join(wallet_name.of_account(account, each) for each in sorted(names)) or "none but the accounts' own"
        )
        raise NotFound(
            f"there is no wallet {wallet!r}, and no upstream would pay from it; those that would be: {known}. "
            "With `force` (`--force`) it begins all the same"
        )
    ensure(connection, wallet, account=account)


def credit(
    connection: Connection,
    entry_id: str,
    wallet: str,
    kind: str,
    amount: int,
    note: str = "",
) -> dict[str, Any]:
    """Add nano-dollars to a wallet, or take them (below 0); the entry of the ledger.

    Args:
        entry_id: makes it idempotent; the same entry a second time is the first one again.

    Raises:
        NotFound: there is no such wallet.
        Conflict: the id stands for another entry, or more would be taken than the balance has.
    """
    loaded, account = load(connection, wallet), _account(connection, wallet)
    entry = {"id": entry_id, "wallet": wallet, "account": account, "kind": kind, "amount": amount, "note": note}
    if not keep_or_insert(connection, credit_entries, **entry, received_at=now()):
        known = _entry(connection, entry_id)
        if {name: known[name] for name in entry} != entry:
            raise Conflict(f"{entry_id!r} stands for another entry: {known['kind']} of {dollars(known['amount'])}")
        return known
    try:
        loaded.credit(amount)
    except ValueError:
        told = f"{dollars(-amount)} cannot be taken, for the balance is {dollars(loaded.balance)}"
        raise Conflict(f"wallet {wallet}: {told}") from None
    _store_credits(connection, wallet, loaded.credits)
    return _entry(connection, entry_id)


def limit(connection: Connection, key_id: str, amount: int) -> list[str]:
    """Let a key spend this much in all, or since it was filled up last, whatever its wallet was credited until now.

    Corrections of prices are no credit, for they belong to what was spent. What is behind it, which it had spent when
    it was filled up, does not count. What proxies were lent stays theirs, or a running request would have nothing to
    settle with: the balance may fall below 0, and nothing is lent then.

    Returns:
        The instances that hold what the balance lacks.

    Raises:
        NotFound: the key has no wallet.
    """
    wallet = wallet_name.of_key(key_id)
    loaded = load(connection, wallet)
    behind = connection.execute(select(wallets.c.behind).where(wallets.c.id == wallet)).scalar_one()
    if difference := amount + behind + _corrected(connection, wallet) - loaded.credits:
        loaded.credits += difference
        _store_credits(connection, wallet, loaded.credits)
        _book(connection, f"limit:{key_id}:{secrets.token_hex(8)}", wallet, "limit", difference)
    return [name for name, loan in loaded.loans.items() if loan.held > 0] if loaded.balance < 0 else []


def fill_up(connection: Connection, entry_id: str, wallet: str, amount: int) -> None:
    """Let a wallet have this much to spend, if it has less; what it has spent until now is behind it.

    Args:
        entry_id: of the credit; where there is such an entry, this was done.

    Raises:
        NotFound: there is no such wallet.
        Conflict: its credits would be beyond all measure.
    """
    loaded = load(connection, wallet)
    if connection.execute(select(credit_entries.c.id).where(credit_entries.c.id == entry_id)).first() is not None:
        return
    if (lacking := amount - (loaded.credits - loaded.spent)) > 0:
        _store_credits(connection, wallet, loaded.credits + lacking)
        _book(connection, entry_id, wallet, "renewal", lacking)
    if wallet_name.key_of(wallet) is not None:  # accounts have no limit
        leave_behind(connection, wallet, loaded.spent - _corrected(connection, wallet))


def leave_behind(connection: Connection, wallet: str, amount: int) -> None:
    """Let a limit not count this much of what the wallet spends; below 0: it counts more than that."""
    connection.execute(update(wallets).where(wallets.c.id == wallet).values(behind=amount))


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A correction of what a request cost; below 0: it costs more."""

    row_id: str
    amount: int
    note: str


def adjust(connection: Connection, wallet: str, adjustments: Sequence[Adjustment]) -> None:
    """Settle corrections with a wallet, even if its balance falls below 0.

    Raises:
        Conflict: its credits would be beyond all measure.
    """
    loaded, account, received_at = load(connection, wallet), _account(connection, wallet), now()
    entries = [
        {
            "id": f"rerate_{secrets.token_hex(12)}",
            "wallet": wallet,
            "account": account,
            "kind": "rerate",
            "amount": each.amount,
            "note": each.note,
            "row_id": each.row_id,
            "received_at": received_at,
        }
        for each in adjustments
    ]
    connection.execute(insert(credit_entries), entries)
    _store_credits(connection, wallet, loaded.credits + sum(each.amount for each in adjustments))


def _corrected(connection: Connection, wallet: str) -> int:
    """What corrections of prices came to, so far."""
    entries = select(*sum_of(credit_entries.c.amount, "amount"))
    corrections = entries.where(credit_entries.c.wallet == wallet, credit_entries.c.kind == "rerate")
    return summed(connection.execute(corrections).mappings().one(), "amount")


def _book(connection: Connection, entry_id: str, wallet: str, kind: str, amount: int) -> None:
    entry = {"id": entry_id, "wallet": wallet, "account": _account(connection, wallet), "kind": kind, "amount": amount}
    connection.execute(insert(credit_entries).values(**entry, note="", received_at=now()))


def _store_credits(connection: Connection, wallet: str, amount: int) -> None:
    if abs(amount) > MOST:
        raise Conflict(f"wallet {wallet} cannot have more than {dollars(MOST)}")
    connection.execute(update(wallets).where(wallets.c.id == wallet).values(credits=amount))


def _account(connection: Connection, wallet: str) -> str:
    return str(connection.execute(select(wallets.c.account).where(wallets.c.id == wallet)).scalar_one())


def _entry(connection: Connection, entry_id: str) -> dict[str, Any]:
    return dict(connection.execute(select(credit_entries).where(credit_entries.c.id == entry_id)).mappings().one())
