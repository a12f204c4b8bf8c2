"""A filter that says what is wrong with a file in which a role keeps what it knows."""

from __future__ import annotations

import json
from typing import Any


def damage(text: str) -> str:
    """What is wrong with a file that a role keeps its knowledge in; empty if nothing is."""
    try:
        known = json.loads(text)
    except ValueError as error:
        return f"it is no JSON ({error})" if text.strip() else "it is empty"
    return "" if isinstance(known, dict) else "it is no JSON object"


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        return {"damage": damage}
