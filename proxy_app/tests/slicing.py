"""Bytes cut into pieces."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def sliced(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """Some bytes, in pieces of any length, empty ones too."""
    data = draw(whole)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def one_by_one(data: bytes) -> list[bytes]:
    """Each byte a piece of its own."""
    return [data[at : at + 1] for at in range(len(data))]
