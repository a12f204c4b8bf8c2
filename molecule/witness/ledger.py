"""The backend as its operator asks it: `goproxy admin` in its container; and what a request ought to cost."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import yaml
from testinfra.host import Host

from .connection import Connection
from .specification import BACKEND
from .waiting import wait_until

Row = dict[str, Any]
INVENTORY = Path(__file__).parents[2] / "inventory/demo/group_vars/all"


class Ledger:
    """Accounts, keys and rows."""

    def __init__(self, host: Host, connection: Connection) -> None:
        """Ask as the operator whose token the testkit planted."""
        self._host = host
        self._token = connection.secrets["operator"]

    def ask(self, *arguments: str) -> Any:
        """Run a verb of `goproxy admin` that must succeed, and give the answer; a backend that starts is waited for."""
        words = " ".join("%s" for _ in arguments)
        command = f"printf %s %s | docker exec --interactive {BACKEND} goproxy admin --json {words}"
        deadline = time.monotonic() + 20
        while True:
            told = self._host.run(command, "%s", self._token, *arguments)
            if "no answer" not in told.stderr or time.monotonic() > deadline:
                assert told.succeeded, told.stderr
                return json.loads(told.stdout)
            time.sleep(0.3)

    def row(self, request_id: str, timeout: float = 30) -> Row:
        """Give the row of a request, which the proxy posts soon after its end."""
        found: list[Row] = []

        def there() -> bool:
            rows: list[Row] = self.ask("rows", "--kind", "request", "--limit", "200")["rows"]
            found[:] = [row for row in rows if row["id"] == request_id]
            return bool(found)

        wait_until(there, timeout)
        assert len(found) == 1
        return found[0]

    def wallet(self, wallet: str) -> dict[str, int]:
        """Give a wallet's amounts."""
        (found,) = [each for each in self.ask("credit", "list")["wallets"] if each["id"] == wallet]
        return dict(found)


def client_name(model: str) -> str:
    """Give the name by which clients ask for a model of the price book."""
    book = yaml.load((INVENTORY / "price_book.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return str(book["goproxy_price_book"][model]["id"])


def list_price(model: str) -> Mapping[str, Decimal]:
    """Give US dollars per million tokens by kind, as the inventory's price book says; the last tier of the last day."""
    book = yaml.load((INVENTORY / "price_book.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    version = max(book["goproxy_price_book"][model]["prices"], key=lambda each: str(each["effective_from"]))
    tier = version["tiers"][0] if "tiers" in version else version
    return {kind: Decimal(tier[kind]) for kind in ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")}


def multiplier(upstream: str, model: str) -> Decimal:
    """Give the factor on the list price, as the upstream's own file says."""
    text = (INVENTORY / f"upstreams/{upstream}.yml").read_text(encoding="utf-8")
    entry = yaml.load(text, Loader=yaml.BaseLoader)[f"goproxy_upstream__{upstream}"]["models"][model]
    return Decimal(entry["multiplier"])


def cost(tokens: Mapping[str, int], prices: Mapping[str, Decimal], factor: Decimal) -> int:
    """Give nano-dollars: a dollar per million tokens is a thousand nano-dollars per token."""
    exact = sum((count * prices[kind] for kind, count in tokens.items()), Decimal(0)) * factor * 1000
    return int(exact.to_integral_value(ROUND_HALF_EVEN))
