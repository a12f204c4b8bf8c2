"""What keys.yml says of a verb's variables: those that it does not take, and how they are given again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ansible_collections.trollllm.gateway.plugins.module_utils.field import nearest
from ansible_collections.trollllm.gateway.plugins.module_utils.role_options import PREFIXES

_WITH_EACH = ("json", "verb")

_REST = "_raw_params"
"""What Ansible calls the words behind the first of a value: a shell has taken the quotes away."""

_PASSED = (*PREFIXES, "ansible_", "gateway_", "vault_")
"""What begins like this is an inventory's, or Ansible's."""

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+-]+")
"""What stays one value behind a `=`."""


def untaken(given: Collection[str], verb: str, verbs: Mapping[str, Mapping[str, Collection[str]]]) -> list[str]:
    """A sentence for each extra variable that this verb does not take; ``verbs`` has the variables of every verb."""
    takes = {each: [name for part in parts.values() for name in part] for each, parts in verbs.items()}
    own, of_any = [*takes[verb], *_WITH_EACH], {name for names in takes.values() for name in names}
    told = f"it takes {', '.join(takes[verb]) or 'none'}"
    return [
        """a value has a space in it; give it as JSON, such as -e '{"note": "paid cash"}'"""
        if name == _REST
        else f"verb={verb} takes no {name}; {told}"
        if name in of_any
        else f"{name} is not known; {_meant(name, own, given) or f'verb={verb}: {told}'}"
        for name in given
        if name not in own and not name.startswith(_PASSED)
    ]


def _meant(name: str, own: Iterable[str], given: Collection[str]) -> str | None:
    near = nearest(name, own)
    return None if near is None or near in given else f"did you mean {near}?"


def as_options(variables: Mapping[str, Any]) -> str:
    """The options that give these extra variables; a value that Ansible would take apart is written as JSON."""
    return " ".join(f"-e {shlex.quote(_given(name, value))}" for name, value in variables.items())


def _given(name: str, value: Any) -> str:
    if _PLAIN.fullmatch(str(value)):
        return f"{name}={value}"
    return json.dumps({name: str(value)}, ensure_ascii=False)


class FilterModule:
    """Filters of playbooks/keys.yml."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"as_options": as_options, "untaken": untaken}
