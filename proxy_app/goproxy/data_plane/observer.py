"""What an operator sees of the requests of one upstream: a log line for each, and metrics for Prometheus.

No label is a key or an account. Prometheus keeps floating-point numbers: amounts are shown here to be watched, and are
computed elsewhere.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from goproxy.core.ledger import Row
from goproxy.core.outcome import Outcome
from goproxy.core.protocols import PROTOCOLS
from goproxy.data_plane.bodies import Bodies
from goproxy.data_plane.books import Books
from goproxy.data_plane.scoreboard import Place
from goproxy.data_plane.tally import OwnTally, Tally
from goproxy.observe import RequestRecord, log, log_fields
from goproxy.timestamps import seconds_since

_FIRST_BYTE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Buckets:
    """A histogram that is cheap enough to count every piece of an answer."""

    def __init__(self, tally: Tally, name: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.bounds = bounds
        self._numbers = tally.numbers
        self._indexes = [tally.index(f"{name}\n{number}") for number in range(len(bounds) + 1)]
        self._sum = tally.index(f"{name}\nsum")

    def observe(self, value: float) -> None:
        """Count one."""
        self.observe_all((value,))

    def observe_all(self, values: Iterable[float]) -> None:
        """Count each."""
        numbers, indexes, bounds = self._numbers, self._indexes, self.bounds
        total = 0.0
        for value in values:
            numbers[indexes[bisect_left(bounds, value)]] += 1
            total += value
        numbers[self._sum] += total

    def family(self, text: str, upstream: str, counted: Mapping[str, float]) -> HistogramMetricFamily:
        """For Prometheus, whose buckets hold all that is below them."""
        counts = [counted[f"{self.name}\n{number}"] for number in range(len(self.bounds) + 1)]
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        family = HistogramMetricFamily(f"goproxy_{self.name}", text, labels=["upstream"])
        family.add_metric([upstream], list(zip(bounds, accumulate(counts), strict=True)), counted[f"{self.name}\nsum"])
        return family


_TOLD_EVERY = 60.0
"""Seconds between two warnings of the same."""

_COUNTERS = {
    "requests": ("Requests that ended.", "protocol", "status", "outcome"),
    "rows": ("Paid requests, by how they were settled.", "settlement"),
    "tokens": ("Tokens that were charged, by kind of price.", "kind"),
    "web_searches": ("Searches of the web that providers made for paid requests.",),
    "cost_nanodollars": ("What was charged.",),
}
"""What they tell, and their labels."""

_FROM_THE_START = ((200, Outcome.INTERNAL_ERROR), (500, Outcome.INTERNAL_ERROR), (503, Outcome.REFUSED))
"""Statuses and outcomes that alarms are on: Prometheus sees no increase from nothing to the first one."""

_GAUGES = {
    "requests_in_flight": "Requests that are served, drained or settled.",
    "streams_in_flight": "Those of them that asked for a stream.",
    "body_bytes": "Of requests' bodies that arrive, wait or are sent.",
    "holds": "Requests that money is held for.",
    "held_nanodollars": "What is held for them.",
    "lease_free_nanodollars": "What is leased and not held.",
    "journal_syncs": "Times that the journal was synced.",
    "journal_unposted_rows": "Rows that the backend does not have.",
    "journal_unposted_age_seconds": "Since the oldest row was settled that the backend does not have.",
    "journal_unsettled_rows": "Rows that the disk does not have.",
    "journal_unsettled_age_seconds": "Since the oldest row was settled that the disk does not have.",
    "journal_damaged": "Damaged places in the journal: records that could not be read, and segments without their "
    "head.",
    "keys_age_seconds": "Since the backend told the keys.",
}

_LEFT = "journal_left_rows"
"""What others left whom this process followed: all look at the same journals. Told with the unposted rows."""

_ALIKE = frozenset({"journal_unposted_age_seconds", "journal_unsettled_age_seconds", "keys_age_seconds", _LEFT})
"""Of several processes it is the highest that is told, and not the sum."""


class Observer(Collector):
    """Counts and logs the requests of one upstream: those of this process, and tells those of all."""

    def __init__(self, upstream: str, books: Books, bodies: Bodies, place: Place | None = None) -> None:
        self._upstream = upstream
        self._books = books
        self._bodies = bodies
        self._place = place
        self._open: dict[int, RequestRecord] = {}
        self.begun = 0
        """Requests of clients that came to this process."""
        self._counts: Tally = OwnTally() if place is None else place.counts
        self._index = _Indexes(self._counts)
        self._first_byte = Buckets(self._counts, "first_byte_seconds", _FIRST_BYTE_SECONDS)
        self.gaps = Buckets(self._counts, "event_gap_seconds", _GAP_SECONDS)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._former_syncs = self._counts.numbers[self._counts.index("journal_syncs")]
        """Those of the processes that had this place before: their sum must not fall."""

        self._left: dict[Path, tuple[int, str | None]] = {}
        """What the backend does not take of those who are no more: rows, and when the first of them was settled."""
        self._adopted_damage = 0
        self._undecoded_told_at = -math.inf
        for protocol in PROTOCOLS:
            for status, outcome in _FROM_THE_START:
                self._counts.numbers[self._index["requests", protocol, status, outcome]] += 0
        self._count_interrupted(books.interrupted)

    def adopted(self, books: Books) -> None:
        """Count what is found in the journal of an instance that is no more."""
        self._count_interrupted(books.interrupted)
        self._adopted_damage += books.standing.journal_damaged

    def left(self, path: Path, rows: int, since: str | None) -> None:
        """Tell of rows that are left in such a journal."""
        self._left[path] = rows, since

    def _count_interrupted(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._counts.numbers[self._index["requests", row.protocol, row.status, row.outcome]] += 1
            self._settled(row)

    def begin(self, record: RequestRecord) -> None:
        """A request came."""
        self._open[id(record)] = record
        self.begun += 1

    @property
    def in_flight(self) -> int:
        """Requests of clients that are served, drained or settled."""
        return len(self._open)

    def end(self, record: RequestRecord, row: Row | None = None) -> None:
        """It is over, and settled if it was paid for: count it, and write its line."""
        del self._open[id(record)]
        self._counts.numbers[self._index["requests", record.protocol, record.status, record.outcome]] += 1
        if record.first_byte_ms is not None:
            self._first_byte.observe(record.first_byte_ms / 1000)
        line = {
            "request_id": record.request_id,
            "upstream": self._upstream,
            "route": record.route,
            "protocol": record.protocol,
            "account": record.account,
            "model": record.model,
            "stream": record.stream,
            "status": record.status,
            "outcome": record.outcome,
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "first_byte_ms": record.first_byte_ms,
            "ms": record.age_ms(),
            "upstream_request_id": record.upstream_request_id,
        }
        if row is not None:
            line |= self._settled(row)
        log_fields("request", line, is_patient=True)

    def metrics(self) -> str:
        """All metrics, in Prometheus's text format."""
        return generate_latest(self._registry).decode()

    def gauges(self) -> dict[str, float]:
        """What is to be told of this process at this moment, by name."""
        standing = self._books.standing
        syncs = self._former_syncs + standing.journal_syncs
        self._counts.numbers[self._counts.index("journal_syncs")] = syncs
        return {
            "requests_in_flight": self.in_flight,
            "streams_in_flight": sum(record.stream for record in self._open.values()),
            "body_bytes": self._bodies.bytes,
            "holds": standing.open_requests,
            "held_nanodollars": standing.held,
            "lease_free_nanodollars": standing.free,
            "journal_unposted_rows": standing.unposted_rows,
            _LEFT: sum(rows for rows, _ in self._left.values()),
            "journal_unsettled_rows": standing.unsettled_rows,
            "journal_damaged": standing.journal_damaged + self._adopted_damage,
            "journal_unposted_age_seconds": max(
                [standing.unposted_age, *(seconds_since(since) for _, since in self._left.values() if since)]
            ),
            "journal_unsettled_age_seconds": standing.unsettled_age,
            "keys_age_seconds": standing.keys_age,
        }

    def collect(self) -> Iterable[Metric]:
        """For Prometheus: all processes together."""
        gauges = self.gauges()
        counted = dict(self._counts.items())
        for other in () if self._place is None else self._place.others:
            for name, value in other.counts.items():
                counted[name] = counted.get(name, 0.0) + value
            for name, value in other.gauges.items():
                gauges[name] = max(gauges[name], value) if name in _ALIKE else gauges[name] + value
        gauges["journal_syncs"] = counted["journal_syncs"]
        gauges["journal_unposted_rows"] += gauges.pop(_LEFT)
        for name, (text, *labels) in _COUNTERS.items():
            counter = CounterMetricFamily(f"goproxy_{name}", text, labels=["upstream", *labels])
            for counted_name, value in counted.items():
                family, *contents = counted_name.split("\n")
                if family == name:
                    counter.add_metric([self._upstream, *contents], value)
            yield counter
        yield self._first_byte.family(
            "From a request's arrival to the first byte of its answer.", self._upstream, counted
        )
        yield self.gaps.family("Between two pieces of an answer.", self._upstream, counted)
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"goproxy_{name}", text, labels=["upstream"])
            gauge.add_metric([self._upstream], gauges[name])
            yield gauge

    def _settled(self, row: Row) -> dict[str, Any]:
        numbers, index, usage = self._counts.numbers, self._index, row.usage
        numbers[index["rows", row.settlement]] += 1
        numbers[index[("cost_nanodollars",)]] += row.cost_nanodollars
        tokens = {kind: count for kind, count in vars(usage).items() if count}
        searches = tokens.pop("web_search", 0)
        for kind, count in tokens.items():
            numbers[index["tokens", kind]] += count
        if searches:
            numbers[index[("web_searches",)]] += searches
        if "undecoded_body" in row.flags:
            self._tell_undecoded(row)
        told = {
            "settlement": row.settlement,
            "cost_nanodollars": row.cost_nanodollars,
            "tokens": tokens,
            "flags": row.flags,
        }
        if searches:
            told["web_searches"] = searches
        return told

    def _tell_undecoded(self, row: Row) -> None:
        """What an operator must do something about; each request's own line has the flag."""
        now = time.monotonic()
        if now - self._undecoded_told_at >= _TOLD_EVERY:
            self._undecoded_told_at = now
            log("answer cannot be decoded", level=logging.WARNING, request_id=row.id, upstream=self._upstream)


class _Indexes(dict[tuple[str | int, ...], int]):
    """Where in a tally the number of a metric and its labels is."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def __missing__(self, name_and_labels: tuple[str | int, ...]) -> int:
        index = self[name_and_labels] = self._tally.index("\n".join(map(str, name_and_labels)))
        return index
