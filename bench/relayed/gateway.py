"""The goproxy as an operator runs it: `goproxy serve` and `goproxy backend`, keys, credit, and the journal on a disk.

Only the command line, its environment and the HTTP interfaces are used here (proxy_app/README.md), nothing of the code.
"""

from __future__ import annotations

import json
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from relayed.gateway_files import backend_environment, proxy_environment
from relayed.generators import Provider
from relayed.process import Process, free_port, interpreter, running
from relayed.web import get, is_ready, metric, post

PROXY_APP = Path(__file__).parents[2] / "proxy_app"
_OPERATOR, _PROXY = "operator-token-of-the-measurements", "proxy-token-of-the-measurements"
_API_KEY = "sk-ant-of-the-measurements-0123456789"
_ACCOUNTS = 16
_CREDIT = 10**16
_START = 30.0
_POSTED = 240.0
_NICE = 19
"""Of the backend: it shares its core with provider and clients, and may come after them."""

_MULTIPLIER = "1.08"
_PRICES = {"input": "5", "output": "25", "cache_write_5m": "6.25", "cache_write_1h": "10", "cache_read": "0.5"}
TOKENS = {"input": 1200, "cache_read": 3000, "output": 120}
"""What the provider tells in each answer, stream or not."""

COST = int(sum(1000 * Decimal(_PRICES[kind]) * count for kind, count in TOKENS.items()) * Decimal(_MULTIPLIER))
"""Nano-dollars, in whole numbers, of each answer."""


@dataclass
class Gateway:
    """A goproxy, its backend, and the keys of its clients."""

    port: int
    process: Process
    backend: Process
    backend_port: int
    keys: Path
    served: int = field(default=0)
    """Requests that it has had of the measurements."""

    def backlog(self) -> int:
        """Rows that are in its journal, and not in the ledger yet."""
        return int(metric(self.port, "goproxy_journal_unposted_rows"))

    def settle(self, requests: int) -> float:
        """Wait until the ledger has so many more rows; the seconds that it took. What is missing then is missing."""
        self.served += requests
        began = time.monotonic()
        while self._rows() < self.served and time.monotonic() < began + _POSTED:
            time.sleep(0.2)
        return round(time.monotonic() - began, 2)

    def ledger(self) -> dict[str, int]:
        """What the ledger has, and how far that is from what it should have."""
        usage = self._usage()
        tokens = {kind: usage[kind] for kind in (*TOKENS, "cache_write_5m", "cache_write_1h", "reasoning")}
        should = {kind: TOKENS.get(kind, 0) * self.served for kind in tokens}
        return {
            "requests": self.served,
            "rows": usage["requests"],
            "token_difference": sum(abs(tokens[kind] - should[kind]) for kind in tokens),
            "cost_nanodollars": usage["cost_nanodollars"],
            "cost_difference_nanodollars": abs(usage["cost_nanodollars"] - self.served * COST),
        }

    def _rows(self) -> int:
        return int(self._usage()["requests"])

    def _usage(self) -> dict[str, Any]:
        (line,) = get(self.backend_port, "/admin/v1/usage", _OPERATOR)["usage"]
        return dict(line)


@contextmanager
def running_gateway(
    directory: Path,
    provider: Provider,
    core: int | Sequence[int],
    backend_core: int,
    *,
    base_url: str = "",
    ca: Path | None = None,
    processes: int = 1,
    proxy_app: Path = PROXY_APP,
) -> Iterator[Gateway]:
    """Run it on a core, and its backend on another one.

    `base_url`: another way to the provider. `proxy_app`: another goproxy than that of this checkout.
    """
    port, backend_port = free_port(), free_port()
    directory.mkdir(parents=True)
    config = directory / "config.json"
    base_url = base_url or f"http://127.0.0.1:{provider.port}"
    config.write_text(json.dumps(_config(port, base_url) | {"processes": processes}))
    environment = backend_environment(
        directory, backend_port, {"measured": config}, _OPERATOR, {"measured": _PROXY}, directory / "keys.json"
    )
    importing = _importing(proxy_app)
    with running("backend", _goproxy("backend"), backend_core, environment | importing, _NICE) as backend:
        backend.await_true(lambda: is_ready(backend_port), "getting ready", _START)
        keys = directory / "keys.txt"
        keys.write_text(
            "".join(f"{new_key(backend_port, _OPERATOR, f'account-{each}')}\n" for each in range(_ACCOUNTS))
        )
        keys.chmod(0o600)
        environment = proxy_environment(directory, config, _API_KEY, _PROXY, backend_port)
        if ca is not None:
            environment["CA_PATH"] = str(ca)
        with running("goproxy", _goproxy("serve"), core, environment | importing) as process:
            process.await_true(lambda: is_ready(port), "getting ready", _START)
            yield Gateway(port, process, backend, backend_port, keys)


def _goproxy(verb: str) -> list[str]:
    return [interpreter(), "-m", "goproxy.cli", verb]


def _importing(proxy_app: Path) -> dict[str, str]:
    return {
        "PYTHONSAFEPATH": "1",  # or a goproxy in the working directory would come first
        "PYTHONPATH": f"{proxy_app}:{sysconfig.get_path('purelib')}",
    }


def _config(port: int, base_url: str) -> dict[str, Any]:
    model = "claude-opus-4-5-20251101"
    tier = {"up_to_prompt_tokens": None} | {kind: float(price) for kind, price in _PRICES.items()}
    return {
        "upstream": "measured",
        "domain": "chat.example.org",
        "port": port,
        "endpoints": [{"name": "anthropic", "protocol": "anthropic", "base_url": f"{base_url}/v1/messages"}],
        "multiplier_band": [1, 2],
        "models": [
            {
                "name": "Claude Opus 4.5",
                "id": model,
                "id_aliases": ["claude-opus-4-5"],
                "upstream": "measured",
                "upstream_model_id": model,
                "billing_multiplier": float(_MULTIPLIER),
                "prices": [{"effective_from": "2025-01-01", "tiers": [tier]}],
            }
        ],
        "timeouts": {"connect": 10, "first_byte": 60, "idle": 60, "total": 600},
        "max_body_bytes": 32 * 1024 * 1024,
    }


def new_key(backend_port: int, operator: str, account: str, **limits: Any) -> str:
    """An account with credit, and its key."""
    api = "/admin/v1"
    post(backend_port, f"{api}/accounts", operator, {"name": account})
    credit = {"id": f"credit-{account}", "wallet": account, "kind": "grant", "amount_nanodollars": _CREDIT}
    post(backend_port, f"{api}/credits", operator, credit)
    key: str = post(backend_port, f"{api}/accounts/{account}/keys", operator, limits)["key"]
    return key
