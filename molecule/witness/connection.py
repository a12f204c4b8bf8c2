"""Where things are: the JSON file that GATEWAY_CONNECTION names, as the testkit writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Address:
    """A host and a port, `127.0.0.1:443` in the file."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port`."""
        host, _, port = text.rpartition(":")
        return cls(host, int(port))


@dataclass(frozen=True)
class Connection:
    """The gateway under test, and the world around it."""

    https: Address
    http: Address
    dns: Address
    ca: Path
    api_key: str
    vps: str
    vps_ipv4: str
    domains: Mapping[str, str]
    providers: Mapping[str, str]
    secrets: Mapping[str, str]

    @classmethod
    def read(cls) -> Self:
        """Read the file that GATEWAY_CONNECTION names."""
        path = os.environ.get("GATEWAY_CONNECTION")
        if not path:
            raise LookupError("GATEWAY_CONNECTION is not set; let it name the connection.json that the testkit wrote.")
        there = json.loads(Path(path).read_text(encoding="utf-8"))
        try:
            return cls(
                https=Address.parse(there["https"]),
                http=Address.parse(there["http"]),
                dns=Address.parse(there.get("dns_server") or there["dns"]),
                ca=Path(path).parent / there["ca"],
                api_key=there["api_key"],
                vps=there["vps"],
                vps_ipv4=there["vps_ipv4"],
                domains=there["domains"],
                providers=there["providers"],
                secrets=there["secrets"],
            )
        except KeyError as missing:
            raise LookupError(
                f"{path} has no {missing}; run the testkit again, so that it writes all of it."
            ) from missing

    @property
    def marked_secrets(self) -> dict[str, str]:
        """Give every secret that was planted, by what it is."""
        return {**self.secrets, "a client's API key": self.api_key}
