# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""Whose a file is, and who may read it: the owner, the group and the mode that a module was given."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable
from typing import Any

UNKNOWN_ID = -2  # a name that this host does not know (yet): tolerated in check mode only


class Refused(Exception):
    """What was asked for cannot be put on the host; the message says why and what would help."""


def permissions(value: Any, where: str, example: str) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[0-7]{3,4}", value):
        raise Refused(f"{where} is {value!r}; give a quoted octal number such as '{example}'")
    return int(value, 8)


def user(value: str | None, where: str, check_mode: bool) -> int | None:
    """The number of a user that is given by name or number. None: none is given."""
    return _identity(value, lambda name: pwd.getpwnam(name).pw_uid, where, check_mode)


def group(value: str | None, where: str, check_mode: bool) -> int | None:
    """The same of a group."""
    return _identity(value, lambda name: grp.getgrnam(name).gr_gid, where, check_mode)


def _identity(value: str | None, known: Callable[[str], int], where: str, check_mode: bool) -> int | None:
    if value is None or value == "":
        return None
    if value.isdigit():
        return int(value)
    try:
        return known(value)
    except KeyError:
        if check_mode:  # an earlier task would have made it
            return UNKNOWN_ID
        raise Refused(f"{where} is {value!r}, which this host does not know; make it first, or give a number") from None
