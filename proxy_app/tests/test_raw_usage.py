"""Usage as providers tell it nearly always takes a short way; it must lead to where the long one leads."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from goproxy.core.anthropic_meter import COUNTS as ANTHROPIC
from goproxy.core.openai_meter import COUNTS as OPENAI
from goproxy.core.raw_usage import RawUsage
from goproxy.core.usage import MAX_TOKENS

_NAMES = sorted({name for path in (*ANTHROPIC, *OPENAI) for name in path} | {"service_tier", "server_tool_use", "new"})
_VALUES = st.one_of(
    st.integers(0, 9), st.sampled_from([MAX_TOKENS, MAX_TOKENS + 1, -1, True, None, "standard", "priority", "7", [1]])
)
_OBJECT = st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=3)
_TOLD = st.lists(st.dictionaries(st.sampled_from(_NAMES), _VALUES | _OBJECT, max_size=5) | st.none() | st.just(7))


@given(told=_TOLD, looks=st.booleans())
@example(told=[{"cache_creation": {"ephemeral_5m_input_tokens": 1}}, {"cache_creation": 5}], looks=False)
@example(told=[{"input_tokens": 3}, {"input_tokens": -1}, {"input_tokens": 4}], looks=False)
def test_the_short_way_leads_to_where_the_long_one_leads(told: list[Any], looks: bool) -> None:
    """`looks`: somebody asks for the counts in between."""
    for counts in (ANTHROPIC, OPENAI):
        short, long = RawUsage(counts), RawUsage(counts)
        for usage in told:
            if not short.merge_usual(usage):
                short.merge(usage)
            long.merge(usage)
            if looks:
                assert short.tokens == long.tokens
        assert short.tokens == long.tokens
        for name in ("document", "invalid", "was_invalid", "was_trimmed"):
            assert getattr(short, name) == getattr(long, name), name


def test_what_both_protocols_tell_takes_the_short_way() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 2}}
    cached = {"cache_creation": {"ephemeral_1h_input_tokens": 2}, "service_tier": "standard"}
    for counts, told, tokens in (
        (ANTHROPIC, {"input_tokens": 9, **cached}, [9, 2]),
        (OPENAI, {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16, **details}, [9, 7, 16, 1, 2]),
    ):
        usage = RawUsage(counts)
        assert usage.merge_usual(told)
        assert usage.document == told
        assert list(usage.tokens.values()) == tokens
