"""On which terms a provider serves a request: what changes its price and no count, and is no other model.

Terms are text, of the fields that are not standard alone, in order: `inference_geo=us,speed=fast`; of a standard
request it is empty. A value that no price could be written for is `?` there. OpenAI has the service tier, Anthropic
all three; a gateway that speaks OpenAI's protocol passes the others on to Anthropic, so that no protocol is told apart.

OpenAI's tier `fast` is `priority`, by which name its answers tell it.

Sources: `types/chat/completion_create_params.py` of openai-python, `types/beta/message_create_params.py` and
`types/beta/beta_usage.py` of anthropic-sdk-python; "Service Tiers" of Groq's documentation, whose standard tier is
`on_demand`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

STANDARD: Mapping[str, frozenset[str]] = {
    "inference_geo": frozenset({"global", "not_available", ""}),
    "service_tier": frozenset({"auto", "default", "standard", "standard_only", "on_demand"}),
    "speed": frozenset({"standard"}),
}
"""The fields, in order, and what the prices of a model are for where nothing else is said."""

_LEFT_TO_PROVIDER: Mapping[str, frozenset[str | None]] = {
    "inference_geo": frozenset({None, ""}),  # the workspace has a default
    "service_tier": frozenset({None, "auto"}),  # so has the project, and capacity may have been bought
}
"""What a request says that lets the provider choose; None: nothing."""

_SAME_AS: Mapping[tuple[str, str | None], str] = {("service_tier", "fast"): "priority"}
"""Values of a field by another name."""

VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a price can be written for."""

TERMS = re.compile(r"([a-z_]{1,40}=([A-Za-z0-9][A-Za-z0-9._-]{0,63}|\?)(,(?!$)|$)){0,8}")
"""Terms as `written_terms` has them."""


def written_terms(values: Mapping[str, str]) -> str:
    """The terms of these fields' values."""
    if not values:
        return ""
    parts = []  # no generator: nearly every answer tells the standard, and nothing is joined
    for name, standard in STANDARD.items():
        value = values.get(name)
        if value is not None and value not in standard:
            value = _SAME_AS.get((name, value), value)
            parts.append(f"{name}={value if VALUE.fullmatch(value) else '?'}")
    return ",".join(parts) if parts else ""


def charged_terms(asked: str, told: Mapping[str, str]) -> str:
    """The terms that a request is charged by: what the answer tells, and what was asked for where it does not."""
    if not asked:
        return written_terms(told)
    said = {name: value for name, value in told.items() if value not in _LEFT_TO_PROVIDER.get(name, ())}
    return written_terms({**dict(part.split("=", 1) for part in asked.split(",")), **said})


def can_come_of(terms: str, asked: Mapping[str, str]) -> bool:
    """Whether the provider may serve a request with these fields on `terms`, be it on the standard in some of them."""
    for part in terms.split(","):
        name, value = part.split("=", 1)
        wish = asked.get(name)
        wish = _SAME_AS.get((name, wish), wish)
        if wish != value and wish not in _LEFT_TO_PROVIDER.get(name, ()):
            return False
    return True
