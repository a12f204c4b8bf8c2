"""What the control plane counts, for Prometheus. No label is a key, an account or an instance.

Prometheus keeps floating-point numbers: amounts are shown here to be watched, and are computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from goproxy.control_plane.store.totals import Totals
from goproxy.core.ledger import Row

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one control plane."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._rows = Counter(
            "goproxy_ledger_rows",
            "Rows that came, by how they were settled.",
            ["upstream", "settlement"],
            registry=registry,
        )
        self._cost = Counter(
            "goproxy_ledger_cost_nanodollars", "What those rows cost.", ["upstream"], registry=registry
        )
        self._rejected = Counter(
            "goproxy_ledger_rows_rejected", "Rows that could not be kept.", ["upstream"], registry=registry
        )
        self._refused = Counter(
            "goproxy_leases_refused",
            "Times that a wallet did not have what a proxy wanted to be lent.",
            ["upstream"],
            registry=registry,
        )
        self._store = Histogram(
            "goproxy_store_seconds",
            "How long a piece of work of the store took.",
            ["work"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._configurations = Gauge("goproxy_configurations", "Configurations that are mounted.", registry=registry)
        self._broken = Gauge(
            "goproxy_configurations_broken",
            "Those of them whose file cannot be used as it stands now.",
            registry=registry,
        )
        self._available = Gauge(
            "goproxy_store_available", "Whether the last work could be done, read and written.", registry=registry
        )
        self._accounts = Gauge("goproxy_accounts", "Accounts, disabled ones too.", registry=registry)
        self._balance = Gauge(
            "goproxy_wallets_balance_nanodollars",
            "What all wallets together have left to lend.",
            registry=registry,
        )
        self._held = Gauge(
            "goproxy_leases_held_nanodollars",
            "What proxies were lent and did not report as spent.",
            ["upstream"],
            registry=registry,
        )

    def begin(self, upstream: str) -> None:
        """Count from 0 what alarms are on: Prometheus sees no increase from nothing to the first one."""
        for counter in (self._rejected, self._refused):
            counter.labels(upstream)

    def configured(self, mounted: int, broken: int) -> None:
        """How many configurations there are, and how many of them cannot be used."""
        self._configurations.set(mounted)
        self._broken.set(broken)

    def came(self, new: Sequence[Row]) -> None:
        """Rows were taken into the ledger."""
        for row in new:
            self._rows.labels(row.upstream, row.settlement.value).inc()
            self._cost.labels(row.upstream).inc(row.cost_nanodollars)

    def rejected(self, upstream: str, rows: int) -> None:
        """Rows were not."""
        self._rejected.labels(upstream).inc(rows)

    def refused(self, upstream: str, wallets: int) -> None:
        """So many wallets did not have what was wanted."""
        self._refused.labels(upstream).inc(wallets)

    def worked(self, work: str, seconds: float) -> None:
        """The store has done, or not done, a piece of work."""
        self._store.labels(work).observe(seconds)

    def store_is_available(self, told: Callable[[], bool]) -> None:
        """Whom to ask, at each look, whether the store can be had."""
        self._available.set_function(told)

    def stands(self, totals: Totals) -> None:
        """What is in the store now."""
        self._accounts.set(totals.accounts)
        self._balance.set(totals.balance)
        self._held.clear()
        for upstream, held in totals.held.items():
            self._held.labels(upstream).set(held)

    def text(self) -> str:
        """All of them, in Prometheus's text format."""
        return generate_latest(self._registry).decode()
