"""What an operator sees of the requests of one upstream: a log line for each, and metrics for Prometheus.

No label is a key or an account. Prometheus keeps floating-point numbers: amounts are shown here to be watched, and are
computed elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from goproxy.core.ledger import Row
from goproxy.core.pricing import KINDS
from goproxy.data_plane.books import Books
from goproxy.observe import RequestRecord, log

_FIRST_BYTE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Gaps(Collector):
    """The time between two pieces of an answer: a histogram that is cheap enough to see every piece."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._counts = [0] * (len(_GAP_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_GAP_SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """For Prometheus, whose buckets hold all that is below them."""
        bounds = [*map(floatToGoString, _GAP_SECONDS), "+Inf"]
        family = HistogramMetricFamily(
            "goproxy_event_gap_seconds", "Between two pieces of an answer.", labels=["upstream"]
        )
        family.add_metric([self._upstream], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        yield family


class Observer:
    """Counts and logs the requests of one upstream."""

    def __init__(self, upstream: str, books: Books) -> None:
        self._upstream = upstream
        self._open: dict[int, RequestRecord] = {}
        self._children: dict[tuple[int, tuple[str, ...]], Counter] = {}
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"goproxy_{name}", text, ["upstream", *labels], registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            metric = Histogram(f"goproxy_{name}", text, ["upstream"], buckets=buckets, registry=registry)
            return metric.labels(upstream)

        def gauge(name: str, text: str, value: object) -> None:
            Gauge(f"goproxy_{name}", text, ["upstream"], registry=registry).labels(upstream).set_function(value)  # type: ignore[arg-type]

        self._requests = counter("requests", "Requests that ended.", "protocol", "status", "outcome")
        self._rows = counter("rows", "Paid requests, by how they were settled.", "settlement")
        self._tokens = counter("tokens", "Tokens that were charged, by kind of price.", "kind")
        self._cost = counter("cost_nanodollars", "What was charged.")
        self._first_byte = histogram(
            "first_byte_seconds", "From a request's arrival to the first byte of its answer.", _FIRST_BYTE_SECONDS
        )
        self.gaps = Gaps(upstream)
        registry.register(self.gaps)
        gauge("requests_in_flight", "Requests that are served, drained or settled.", lambda: len(self._open))
        gauge("streams_in_flight", "Those of them that asked for a stream.", self._streams)
        gauge("holds", "Requests that money is held for.", lambda: books.standing.open_requests)
        gauge("held_nanodollars", "What is held for them.", lambda: books.standing.held)
        gauge("lease_free_nanodollars", "What is leased and not held.", lambda: books.standing.free)
        gauge("journal_syncs", "Times that the journal was synced.", lambda: books.standing.journal_syncs)
        gauge("journal_unposted_rows", "Rows that the backend does not have.", lambda: books.standing.unposted_rows)
        gauge("journal_unsettled_rows", "Rows that the disk does not have.", lambda: books.standing.unsettled_rows)
        gauge("journal_damaged", "Records that could not be read.", lambda: books.standing.journal_damaged)
        gauge("keys_age_seconds", "Since the backend told the keys.", lambda: books.standing.keys_age)

        for row in books.interrupted:
            self._child(self._requests, row.protocol, str(row.status), row.outcome).inc()
            self._settled(row)

    def begin(self, record: RequestRecord) -> None:
        """A request came."""
        self._open[id(record)] = record

    def end(self, record: RequestRecord, row: Row | None = None) -> None:
        """It is over, and settled if it was paid for: count it, and write its line."""
        del self._open[id(record)]
        self._child(self._requests, record.protocol, str(record.status), record.outcome).inc()
        if record.first_byte_ms is not None:
            self._first_byte.observe(record.first_byte_ms / 1000)
        log(
            "request",
            request_id=record.request_id,
            upstream=self._upstream,
            route=record.route,
            protocol=record.protocol,
            account=record.account,
            model=record.model,
            stream=record.stream,
            status=record.status,
            outcome=record.outcome,
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
            first_byte_ms=record.first_byte_ms,
            ms=record.age_ms(),
            upstream_request_id=record.upstream_request_id,
            **(self._settled(row) if row is not None else {}),
        )

    def metrics(self) -> str:
        """All metrics, in Prometheus's text format."""
        return generate_latest(self._registry).decode()

    def _settled(self, row: Row) -> dict[str, Any]:
        self._child(self._rows, row.settlement).inc()
        self._child(self._cost).inc(row.cost_nanodollars)
        tokens = {kind: count for kind, count in row.usage.to_json().items() if kind in KINDS and count}
        for kind, count in tokens.items():
            self._child(self._tokens, kind).inc(count)
        return {
            "settlement": row.settlement,
            "cost_nanodollars": row.cost_nanodollars,
            "tokens": tokens,
            "flags": row.flags,
        }

    def _child(self, counter: Counter, *labels: str) -> Counter:
        """The counter with these labels; to find it anew each time is most of what counting costs."""
        key = (id(counter), labels)
        if key not in self._children:
            self._children[key] = counter.labels(self._upstream, *labels)
        return self._children[key]

    def _streams(self) -> int:
        return sum(record.stream for record in self._open.values())
