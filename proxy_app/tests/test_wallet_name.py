"""What wallets are called."""

from __future__ import annotations

import re

import pytest

from goproxy.core.wallet_name import OF_KEY, PATTERN, account_of, key_of, name_of, of_account, of_key

_KEY_ID = "key_0123456789abcdef"


@pytest.mark.parametrize(
    ("wallet", "account", "name"),
    [("alice", "alice", None), ("a.b@c-d", "a.b@c-d", None), ("alice/team", "alice", "team")],
)
def test_a_wallet_of_an_account_tells_the_account_and_what_upstreams_call_it(
    wallet: str, account: str, name: str | None
) -> None:
    assert (account_of(wallet), name_of(wallet), key_of(wallet)) == (account, name, None)
    assert of_account(account, name) == wallet
    assert re.search(PATTERN, wallet)


def test_a_wallet_of_a_key_tells_the_key() -> None:
    wallet = of_key(_KEY_ID)
    assert wallet == f"key:{_KEY_ID}"
    assert key_of(wallet) == _KEY_ID
    assert wallet.startswith(OF_KEY)
    assert re.search(PATTERN, wallet)


@pytest.mark.parametrize("wallet", ["", "alice/", "/team", "alice/Team", "key:alice", "key:", "a/b/c"])
def test_a_name_that_is_no_wallets_does_not_match(wallet: str) -> None:
    assert not re.search(PATTERN, wallet)
