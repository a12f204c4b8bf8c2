"""Options of the roles that an inventory sets under their own names: slips of the pen, and values that nothing takes.

The roles say themselves what an option is (meta/argument_specs.yml); of a size they can only say that it is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .field import Field, Problem, Unresolved, listed, nearest, shown

PREFIXES = ("certbot_", "dns_", "docker_", "goproxy_", "nginx_")
DOCKER_SIZE = (
    re.compile(r"\d+(\.\d+)? ?([kmgt]i?)?b?", re.IGNORECASE),
    "give a size as Docker takes it, like 512m or 2g",
)
TMPFS_SIZE = re.compile(r"\d+[kmg]?|\d{1,2}%", re.IGNORECASE), "give a size as a tmpfs takes it, like 384m or 1g"
SIZES = {
    "goproxy_log_max_size": DOCKER_SIZE,
    "goproxy_memory_limit": DOCKER_SIZE,
    "nginx_log_max_size": DOCKER_SIZE,
    "nginx_memory_limit": DOCKER_SIZE,
    "nginx_temp_size": TMPFS_SIZE,
}


def check(given: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """From the variables with one of the PREFIXES, and what may be set of the roles' options, by name."""
    problems: list[Problem] = []
    for name, value in given.items():
        field = Field(value, name, problems)
        if name in options:
            check_value(field, options[name])
        else:
            field.report_slip(options, given)
    return problems


def check_value(field: Field, option: Mapping[str, Any]) -> None:
    """Numbers may be text: -e gives them so."""
    if isinstance(field.value, Unresolved):
        return  # it may be made of another option's default, or of facts, which the role has
    choices = [str(choice) for choice in option.get("choices", [])]
    form, right = SIZES.get(field.subject, (None, ""))
    if form is not None:
        if isinstance(field.value, bool) or not form.fullmatch(str(field.value)):
            field.refuse(right)
    elif choices:
        word = field.text(f"give {listed(choices)}")
        if word is not None and word not in choices:
            near = nearest(word, choices)
            field.report(f"is {shown(word)}", f"did you mean {near}?" if near else f"give {listed(choices)}")
    elif option.get("type") == "int" and not re.fullmatch(r"-?\d+", str(field.value)):
        field.refuse("give a whole number")
