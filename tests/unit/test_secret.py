"""The checksum of an API key is computed twice, here and in the proxy, which shares no code with the collection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.trollllm.gateway.plugins.module_utils import secret
from goproxy.core import keys


@given(st.binary(min_size=32, max_size=32))
def test_a_key_that_the_proxy_makes_is_right_here(random: bytes) -> None:
    key = keys.new_key(random)
    assert not secret.is_mistyped(key)
    assert not secret.is_placeholder(key)
    assert secret.is_sendable(key)


@given(st.binary(min_size=32, max_size=32), st.integers(3, 51), st.sampled_from(secret.ALPHABET))
def test_both_notice_a_wrong_character(random: bytes, place: int, character: str) -> None:
    key = keys.new_key(random)
    wrong = key[:place] + character + key[place + 1 :]
    assert secret.is_mistyped(wrong) is (wrong != key)
    assert keys.is_well_formed(wrong) is (wrong == key)


@given(
    st.text(alphabet=st.characters(codec="ascii"), max_size=60)
    | st.from_regex(r"tg-[0-9A-Za-z]{48,50}", fullmatch=True)
)
def test_both_judge_any_text_alike(text: str) -> None:
    assert secret.is_mistyped(text) is (bool(text) and not keys.is_well_formed(text))
