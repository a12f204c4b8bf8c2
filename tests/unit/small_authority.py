"""Stands in for certbot with an authority behind it: does what `certonly` does, and says what certbot 5.8 says."""

from __future__ import annotations

import argparse
import json
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from issued import issue

FAILED = """
Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these problems:
{}
Hint: The Certificate Authority failed to download the temporary challenge files created by Certbot.
"""
ONE = """  Identifier: {0}
  Type:   caa
  Detail: CAA record for {0} prevents issuance
"""


@dataclass
class SmallAuthority:
    """Its state is in a file, since each order is a process."""

    config: Path

    @property
    def _file(self) -> Path:
        return self.config / "authority.json"

    def expect(self, **state: Any) -> None:
        """`refuses`: names; `says`: what it answers to an order instead, once."""
        self.config.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps({"orders": [], "refuses": [], "says": ""} | state))

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._file.read_text())
        return state

    @property
    def orders(self) -> list[list[str]]:
        """The names of each order."""
        return [order["domains"] for order in self.state["orders"]]

    def program(self, place: Path) -> None:
        """Put a certbot there that orders from it."""
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\n"
            "import small_authority\nsmall_authority.main()\n"
        )
        place.chmod(place.stat().st_mode | stat.S_IXUSR)

    def put(self, lineage: str, names: list[str], renewal: dict[str, str], left: float = 60) -> None:
        """The certificate, and what certbot notes beside it."""
        pair = issue(*names, left=left)
        pair.write(self.config / "live" / lineage)
        place = self.config / f"renewal/{lineage}.conf"
        place.parent.mkdir(exist_ok=True)
        place.write_text("[renewalparams]\n" + "".join(f"{key} = {value}\n" for key, value in renewal.items()))

    def names(self, lineage: str) -> list[str]:
        """What the certificate is for."""
        held = x509.load_pem_x509_certificate((self.config / "live" / lineage / "fullchain.pem").read_bytes())
        found = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return sorted(found.get_values_for_type(x509.DNSName))

    def order(self, order: argparse.Namespace) -> str:
        """Empty when there is a certificate now, and what certbot ends with otherwise."""
        state = self.state
        noted = {"domains": order.domains, "subset": order.allow_subset_of_names, "profile": order.preferred_profile}
        said = state["says"]
        self.expect(**state | {"orders": [*state["orders"], noted], "says": ""})
        if said:
            return str(said)
        failed = [name for name in order.domains if name in state["refuses"]]
        if failed:
            print(FAILED.format("\n".join(ONE.format(name) for name in failed)))
        valid = [name for name in order.domains if name not in failed]
        if failed and not (order.allow_subset_of_names and valid):
            return "Some challenges have failed."
        renewal = {"server": order.server, "preferred_profile": order.preferred_profile}
        if order.allow_subset_of_names:
            renewal["allow_subset_of_names"] = "True"
        self.put(order.cert_name, valid, {key: value for key, value in renewal.items() if value})
        return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["certonly"])
    for option in ("server", "config-dir", "cert-name", "preferred-profile"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--domains", type=lambda names: names.split(","))
    parser.add_argument("--allow-subset-of-names", action="store_true")
    order, _ = parser.parse_known_args()
    said = SmallAuthority(Path(order.config_dir)).order(order)
    sys.exit(f"Saving debug log to /var/log/letsencrypt/letsencrypt.log\n{said}" if said else 0)


if __name__ == "__main__":
    main()
