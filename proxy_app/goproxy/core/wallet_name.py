"""What wallets are called. Both planes compose and split the names here alone.

A wallet is an account's own (`alice`), another one of an account that upstreams name (`alice/team`), or a key's, whose
credit is what the key may spend (`key:key_0123456789abcdef`). The names of accounts have neither slash nor colon.
"""

from __future__ import annotations

PATTERN = r"^([A-Za-z0-9][A-Za-z0-9._@-]{0,63}(/[a-z0-9][a-z0-9-]{0,40})?|key:key_[0-9a-f]{16})$"
"""Of all three."""

OF_KEY = "key:"
"""What the names of keys' wallets begin with, where a call for each of many wallets would be too dear."""


def of_key(key_id: str) -> str:
    """The wallet whose credit is the spending limit of a key."""
    return OF_KEY + key_id


def key_of(wallet: str) -> str | None:
    """The other way round; None: it is a wallet of an account."""
    return wallet[len(OF_KEY) :] if wallet.startswith(OF_KEY) else None


def of_account(account: str, name: str | None) -> str:
    """The wallet of an account that upstreams call so; None: its own."""
    return account if name is None else f"{account}/{name}"


def account_of(wallet: str) -> str:
    """The account of such a wallet."""
    return wallet.partition("/")[0]


def name_of(wallet: str) -> str | None:
    """What upstreams call such a wallet; None: it is the account's own."""
    _, slash, name = wallet.partition("/")
    return name if slash else None
