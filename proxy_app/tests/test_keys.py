"""API keys: their form, their checksum, their digests."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core.compact_json import compact
from goproxy.core.key_snapshot import InvalidSnapshot, KeySnapshot, LimitedKey, ToldKeys, read
from goproxy.core.keys import digest, is_well_formed, new_key

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


@pytest.mark.parametrize(
    "key", ["tg-", "tg-short", "tg-" + "é" * 49, new_key(bytes(32)) + "0", "", new_key(bytes(32)) + "\n"]
)
def test_what_claims_to_be_ours_and_is_not(key: str) -> None:
    assert not is_well_formed(key)


def live(account: str, sha256: str) -> LimitedKey:
    """A key without limits."""
    return LimitedKey(
        id=f"key_{account}",
        account=account,
        sha256=sha256,
        wallets_limit=False,
        expires_at=None,
        upstreams=None,
        models=None,
        requests_per_minute=None,
        tokens_per_minute=None,
    )


def account_of(key: str, *keys: LimitedKey) -> str | None:
    found = KeySnapshot(1, keys).find(key)
    return None if found is None else found.account


def test_an_operators_own_key_has_no_checksum() -> None:
    assert is_well_formed("my-own-key")
    assert account_of("my-own-key", live("carol", digest("my-own-key"))) == "carol"


@given(st.text())
def test_any_text_can_be_presented(key: str) -> None:
    assert account_of(key, live("alice", digest(new_key()))) is None


def test_keys_are_found_by_digest_only() -> None:
    alice, bob, nobody = new_key(), new_key(), new_key()
    keys = live("alice", digest(alice)), live("bob", digest(bob))
    assert [account_of(key, *keys) for key in (alice, bob, nobody)] == ["alice", "bob", None]
    assert len(KeySnapshot(1, keys)) == 2


def test_digests_that_share_a_shelf_are_told_apart() -> None:
    key = new_key()
    other = digest(key)[:32] + "0" * 32
    assert account_of(key, live("other", other)) is None
    assert account_of(key, live("other", other), live("alice", digest(key))) == "alice"


def test_a_snapshot_is_read_as_it_is_written() -> None:
    snapshot = KeySnapshot(7, [live("alice", "a" * 64), live("bob", "b" * 64)])
    again = KeySnapshot.from_json(json.loads(json.dumps(snapshot.to_json())))
    assert again.to_json() == snapshot.to_json()


def told(content: bytes, former: KeySnapshot | None = None) -> tuple[ToldKeys, int]:
    """What a document says, and in how many slices it was read."""
    reading, slices = read(content, former), 0
    while True:
        try:
            next(reading)
        except StopIteration as over:
            return over.value, slices
        slices += 1


MANY = KeySnapshot(7, [live(f'account {n} }},{{" ],"recall":[', digest(str(n))) for n in range(2000)])


@pytest.mark.parametrize("recall", [[], ["alice", "key:1"], None])
def test_many_keys_are_read_in_slices(recall: list[str] | None) -> None:
    """An event loop has something else to do; and what is kept is read like what is told."""
    document = MANY.to_json() | ({} if recall is None else {"recall": recall})
    (snapshot, recalled), slices = told(compact(document))
    assert slices > 10
    assert snapshot.to_json() == MANY.to_json()
    assert recalled == tuple(recall or ())
    again, _ = told(snapshot.document)
    assert again.snapshot.to_json() == MANY.to_json()


def test_keys_that_are_told_once_more_are_not_read() -> None:
    snapshot = told(compact(MANY.to_json() | {"recall": []}))[0].snapshot
    assert told(compact(MANY.to_json() | {"recall": ["alice"]}), snapshot) == (ToldKeys(snapshot, ("alice",)), 0)
    other = KeySnapshot(7, [live("alice", "a" * 64)])
    news, _ = told(compact(other.to_json() | {"recall": []}), snapshot)
    assert news.snapshot.to_json() == other.to_json()
    assert told(KeySnapshot().document)[0].snapshot.to_json() == {"version": 0, "keys": []}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(MANY.to_json() | {"recall": ["alice"]}).encode(),
        compact({"recall": ["alice"]} | MANY.to_json()),
        compact({"keys": MANY.to_json()["keys"], "later": {"keys": []}, "version": 7, "recall": ["alice"]}),
        compact(MANY.to_json() | {"recall": ["alice"], "later": 1}),
    ],
    ids=["with spaces", "recall first", "version last", "more behind"],
)
def test_a_document_that_is_written_in_another_way_says_the_same(content: bytes) -> None:
    (snapshot, recall), _ = told(content)
    assert snapshot.to_json() == MANY.to_json()
    assert recall == ("alice",)
    (again, recall), _ = told(content, snapshot)
    assert (again.to_json(), recall) == (MANY.to_json(), ("alice",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"version":1,"keys":[{}],"recall":[]}',
        b'{"version":1,"keys":[',
        compact(MANY.to_json())[:-1],
        compact(MANY.to_json())[:-1] + b"x",
        compact(MANY.to_json()).replace(b'"wallets_limit":false', b'"wallets_limit":0', 1),
    ],
)
def test_what_says_no_keys_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidSnapshot):
        told(content)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"version": 1},
        {"version": "1", "keys": []},
        {"version": 1, "keys": ["x"]},
        {"version": 1, "keys": [{}]},
    ],
)
def test_what_is_no_snapshot_is_refused_whole(document: Any) -> None:
    with pytest.raises(InvalidSnapshot):
        KeySnapshot.from_json(document)
