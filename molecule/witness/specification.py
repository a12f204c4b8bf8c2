"""The names and numbers of the specification, word for word, and independent of any inventory."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Upstream:
    """What the specification says of one upstream."""

    name: str
    domain: str
    service: str
    port: int
    provider_host: str
    provider_path: str
    multipliers: tuple[Decimal, Decimal]
    models: frozenset[str]

    def __str__(self) -> str:
        """Give the name: it stands in the names of tests."""
        return self.name

    @property
    def config_file(self) -> str:
        """The file below goproxy/ that defines it."""
        return f"config-{self.name}-prod.json"

    @property
    def endpoint(self) -> str:
        """Where its Anthropic endpoint points to."""
        return f"https://{self.provider_host}{self.provider_path}"

    @property
    def other(self) -> Upstream:
        """The other one of the two."""
        return OHMYGPT if self is OPENHANDS else OPENHANDS


CLAUDES = frozenset({"Claude Opus 4.5", "Claude Sonnet 4.5", "Claude Haiku 4.5"})

OPENHANDS = Upstream(
    name="openhands",
    domain="chat.trollllm.xyz",
    service="goproxy-openhands",
    port=8004,
    provider_host="llm-proxy.app.all-hands.dev",
    provider_path="/v1/messages",
    multipliers=(Decimal("1.06"), Decimal("1.08")),
    models=CLAUDES | {"Gemini 3 Pro Preview"},
)
OHMYGPT = Upstream(
    name="ohmygpt",
    domain="chat2.trollllm.xyz",
    service="goproxy-ohmygpt",
    port=8005,
    provider_host="apic1.ohmycdn.com",
    provider_path="/api/v1/ai/openai/cc-omg/v1/messages",
    multipliers=(Decimal("1.04"), Decimal("1.1")),
    models=CLAUDES,
)
BOTH = (OPENHANDS, OHMYGPT)

NETWORK = "trollllm-network"
EDGE = "trollllm-edge"
BACKEND = "backend"
LINEAGE = "/etc/letsencrypt/live/trollllm.xyz"
NAMED_SUITE = "ECDHE-ECDSA-AES128-GCM-SHA256"
