"""Options of the roles that an inventory sets under their own names: slips of the pen, and values that nothing takes.

The roles say themselves what an option is (meta/argument_specs.yml); of a size they can only say that it is text, and
of a number not how small it may be.
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
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
SIZES = {
    "goproxy_log_max_size": DOCKER_SIZE,
    "goproxy_memory_limit": DOCKER_SIZE,
    "nginx_log_max_size": DOCKER_SIZE,
    "nginx_memory_limit": DOCKER_SIZE,
    "nginx_temp_size": TMPFS_SIZE,
}
LOWEST = {
    "certbot_check_port": 1,
    "goproxy_log_max_files": 1,  # Docker's
    "goproxy_pids_limit": -1,  # to Docker, no limit
    "goproxy_ready_seconds": 1,  # with 0, no new container is ready in time
    "nginx_admin_requests_per_minute": 1,  # nginx's
    "nginx_connect_timeout": 1,  # with 0, nginx gives up before it has begun
    "nginx_log_max_files": 1,  # Docker's
    "nginx_pids_limit": 20,  # one worker, and those of a few reloads: the role knows how many there are
    "nginx_requests_burst": 1,  # nginx's
}
"""The least that a number may be, where it is not 0: seconds, counts and sizes are never less."""


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
    elif option.get("type") == "int":
        check_number(field, LOWEST.get(field.subject, 0))


def check_number(field: Field, lowest: int) -> None:
    if not re.fullmatch(r"-?\d+", str(field.value)):
        field.refuse("give a whole number")
    elif int(field.value) < lowest:
        field.report(f"is {field.value}", f"give {lowest} or more")


def mib(size: Any) -> int | None:
    """Whole MiB of the size of a tmpfs. None: it is a share of the host's memory, or no size."""
    parts = re.fullmatch(r"(\d+)([kmg]?)", str(size), re.IGNORECASE)
    return int(parts[1]) * UNITS[parts[2].lower()] // UNITS["m"] if parts else None
