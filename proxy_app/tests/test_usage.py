"""What is counted, as rows and journals keep it."""

from __future__ import annotations

from typing import Any

import pytest

from goproxy.core.usage import Usage


def test_a_kind_that_is_not_told_is_0() -> None:
    assert Usage.from_json({}) == Usage() == Usage(0, 0, 0, 0, 0, 0, 0)
    assert Usage.from_json({"output": 7, "of_a_later_version": 1}) == Usage(output=7)


def test_it_passes_through_json() -> None:
    usage = Usage(1, 2, 3, 4, 50, 6, 7)
    assert Usage.from_json(usage.to_json()) == usage
    assert usage.prompt == 10


@pytest.mark.parametrize("count", [1.5, 1.0, True, False, None, "1", -1, [1]])
def test_what_is_no_count_is_refused(count: Any) -> None:
    for name in Usage().to_json():
        with pytest.raises(ValueError, match=f"^{name}: .* is no count"):
            Usage.from_json({name: count})
