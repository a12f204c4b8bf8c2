"""What holds for every regular expression of the program."""

from __future__ import annotations

import re
from pathlib import Path

import goproxy

_POSSESSIVE_GROUP = re.compile(r"\)(?:[*+?]|\{[\d,]*\})\+")


def test_no_group_is_repeated_possessively() -> None:
    r"""Python before 3.11.5 finds what is not there with `(?:...)*+` (CPython issue 106052): `data: `
    passed for events that are whole. A character or a class may be repeated so.
    """
    files = list(Path(goproxy.__file__).parent.rglob("*.py"))
    lines = [line for file in files for line in file.read_text().splitlines() if "re.compile(" in line]
    assert len(lines) > 20
    assert [line for line in lines if _POSSESSIVE_GROUP.search(line)] == []
