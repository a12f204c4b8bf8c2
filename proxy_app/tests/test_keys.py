"""API keys: their form, their checksum, their digests."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core.keys import InvalidKeyFile, KeyEntry, KeySet, digest, is_well_formed, new_key, read_key_file

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_a_key_is_prefix_256_bits_and_checksum() -> None:
    assert re.fullmatch(r"tg-[0-9A-Za-z]{49}", new_key())
    assert new_key(bytes(32)) == "tg-" + "0" * 43 + "49ZIxU"  # pinned: keys that are out there must stay valid
    assert new_key(b"\xff" * 32)[3:46] > new_key(b"\xfe" * 32)[3:46]


def test_two_keys_differ() -> None:
    assert new_key() != new_key()


@given(st.binary(min_size=32, max_size=32))
def test_every_new_key_is_well_formed(random: bytes) -> None:
    assert is_well_formed(new_key(random))


@given(st.binary(min_size=32, max_size=32), st.integers(3, 51), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_seen(random: bytes, at: int, character: str) -> None:
    key = new_key(random)
    mistyped = key[:at] + character + key[at + 1 :]
    assert is_well_formed(mistyped) == (mistyped == key)


@pytest.mark.parametrize("key", ["tg-", "tg-short", "tg-" + "é" * 49, new_key() + "0", "", new_key() + "\n"])
def test_what_claims_to_be_ours_and_is_not(key: str) -> None:
    assert not is_well_formed(key)


def test_an_operators_own_key_has_no_checksum() -> None:
    assert is_well_formed("my-own-key")
    assert KeySet([KeyEntry("carol", digest("my-own-key"))]).account_of("my-own-key") == "carol"


@given(st.text())
def test_any_text_can_be_presented(key: str) -> None:
    assert KeySet([KeyEntry("alice", digest(new_key()))]).account_of(key) is None


def test_keys_are_found_by_digest_only() -> None:
    alice, bob, nobody = new_key(), new_key(), new_key()
    keys = KeySet([KeyEntry("alice", digest(alice)), KeyEntry("bob", digest(bob))])
    assert (keys.account_of(alice), keys.account_of(bob), keys.account_of(nobody)) == ("alice", "bob", None)
    assert len(keys) == 2


def test_digests_that_share_a_shelf_are_told_apart() -> None:
    key = new_key()
    other = digest(key)[:32] + "0" * 32
    assert KeySet([KeyEntry("other", other)]).account_of(key) is None
    assert KeySet([KeyEntry("other", other), KeyEntry("alice", digest(key))]).account_of(key) == "alice"


def test_the_file_is_read() -> None:
    key = new_key()
    document = {"keys": [{"account": "alice", "prefix": key[:11], "sha256": digest(key)}]}
    assert read_key_file(json.dumps(document).encode()).account_of(key) == "alice"
    assert len(read_key_file(b'{"keys": []}')) == 0


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b'{"keys": [', "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        ([], 'a list "keys"'),
        ({"keys": {}}, 'a list "keys"'),
        ({"keys": ["x"]}, r"keys\[0\] must be an object"),
        ({"keys": [{"sha256": "0" * 64}]}, r"keys\[0\].account"),
        ({"keys": [{"account": "a", "sha256": "0" * 63}]}, r"keys\[0\].sha256"),
        ({"keys": [{"account": "a", "sha256": "A" * 64}]}, r"keys\[0\].sha256"),
        ({"keys": [{"account": "a", "sha256": 7}]}, r"keys\[0\].sha256"),
    ],
)
def test_a_file_that_is_not_in_order_is_refused_whole(document: Any, complaint: str) -> None:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(InvalidKeyFile, match=complaint):
        read_key_file(data)
