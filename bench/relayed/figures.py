"""The figures of a run: ratios to what is measured beside it, and what they must be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from relayed.results import Results

Row = Mapping[str, Any]

MUST: dict[str, tuple[str, float]] = {
    "relay.streams_per_s_vs_nginx": ("at least", 0.45),
    "relay.json_per_s_vs_nginx": ("at least", 0.45),
    "relay.streams_per_s_vs_litellm": ("at least", 150),
    "relay.cpu_per_event_vs_nginx_300": ("at most", 1.2),
    "relay.cpu_per_event_vs_nginx_1000": ("at most", 1.2),
    "relay.first_event_added_ms_p50": ("at most", 1),
    "relay.first_event_added_ms_p99": ("at most", 5),
    "relay.lost_events": ("at most", 0),
    "relay.rss_idle_mb": ("at most", 64),
    "relay.kib_per_stream_2000": ("at most", 24),
    "relay.rss_after_load_ratio": ("at most", 1.1),
    "deploy.nochange_50_vs_2": ("at most", 1.5),
    "deploy.one_changed_50_vs_nochange_50": ("at most", 1.5),
}
"""What the project asks of itself."""

LATER = (
    "relay.cpu_per_stream_vs_nginx",
    "relay.streams_backlog_share",
    "relay.cpu_per_json_vs_nginx",
    "relay.json_backlog_share",
)
"""Figures that older results do not have; of those it is said."""

_PEERS = ("nginx", "haproxy", "bare")
"""What the goproxy is compared with in everything. LiteLLM cannot carry paced streams."""


def per_second(rows: Iterable[Row]) -> float | None:
    """Answers per second: the median of the rounds."""
    return _median(rows, lambda row: row["answers"] / row["seconds"])


def cpu_per_answer_us(rows: Iterable[Row], name: str = "target") -> float | None:
    """CPU time of a process for each answer: the median of the rounds. The goproxy's is until its rows are posted."""

    def cost(row: Row) -> float:
        if whole := row.get("whole"):
            return _each_us(whole["cpu_seconds"][name], whole["requests"])
        settled = row.get("settled") if name == "target" else None  # of older results
        if settled:
            return _each_us(settled["cpu_seconds"], settled["requests"])
        return _each_us(row["cpu_seconds"][name], row["answers"])

    return _median([row for row in rows if row["answers"]], cost)


def cpu_per_event_us(rows: Iterable[Row], name: str = "target") -> float | None:
    """CPU time of a process for each event, the request's own part shared out among them.

    The goproxy's is until its rows are posted, but in results that are so old that they have no `whole`.
    """

    def cost(row: Row) -> float:
        of = row.get("whole", row)
        return _each_us(of["cpu_seconds"][name], of["events"])

    return _median(rows, cost)


def backlog_share(rows: Iterable[Row]) -> float | None:
    """Of the requests of a go of the goproxy, how many had no row in the ledger when the clients were done."""
    rows = [row for row in rows if row.get("settled", {}).get("backlog") is not None]
    return _median(rows, lambda row: row["settled"]["backlog"] / max(1, row["whole"]["requests"]))


def quantile_ms(rows: Iterable[Row], of: str, which: str) -> float | None:
    """A quantile of what the clients timed: the median of the rounds."""
    return _median(rows, lambda row: row[of][which] / 1000)


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows that are of this."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def compute(results: Results, deploy: Path, *, is_whole: bool = False) -> tuple[dict[str, float], list[str]]:
    """The figures that these results allow, and what is not as it must be.

    `is_whole`: all was to be measured, so that what is asked for and was not measured is missed, too.
    """
    figures: dict[str, float | None] = {}
    throughput = results.measured.get("throughput", [])
    for kind in ("stream", "json"):
        rate = {
            name: per_second(select(throughput, kind=kind, connections=64, target=name))
            for name in ("goproxy", *_PEERS, "litellm")
        }
        for peer in (*_PEERS, "litellm"):
            name = f"relay.{'streams' if kind == 'stream' else 'json'}_per_s_vs_{peer}"
            figures[name] = _ratio(rate["goproxy"], rate[peer], 3)
        figures |= _with_posting(throughput, kind)
    paced = results.measured.get("paced", [])
    for streams in (100, 300, 1000, 2000):
        cost = {name: cpu_per_event_us(select(paced, streams=streams, target=name)) for name in ("goproxy", *_PEERS)}
        for peer in _PEERS:
            figures[f"relay.cpu_per_event_vs_{peer}_{streams}"] = _ratio(cost["goproxy"], cost[peer], 3)
    first = select(results.measured.get("first_event", []), streams=64)
    for which in ("p50", "p99"):
        own, other = (quantile_ms(select(first, target=name), "first_us", which) for name in ("goproxy", "nginx"))
        added = None if own is None or other is None else round(own - other, 3)
        figures[f"relay.first_event_added_ms_{which}"] = added
    if "goproxy" in results.losses:
        figures["relay.lost_events"] = results.losses["goproxy"]
    for row in select(results.measured.get("memory", []), target="goproxy", streams=2000):
        figures["relay.rss_idle_mb"] = round(row["idle_kib"] * 1024 / 1e6, 1)
        figures["relay.kib_per_stream_2000"] = round((row["loaded_kib"] - row["idle_kib"]) / 2000, 1)
        figures["relay.rss_after_load_ratio"] = _ratio(row["after_kib"], row["idle_kib"], 3)
    if deploy.exists():
        taken = json.loads(deploy.read_text())["figures"]
        figures |= {name: taken[name] for name in MUST if name.startswith("deploy.") and name in taken}
    found = {name: value for name, value in figures.items() if value is not None}
    results.elsewhere = elsewhere(found, deploy)
    return found, [*_missed(found, is_whole=is_whole), *_misbilled(results.ledger)]


def elsewhere(figures: Mapping[str, float], deploy: Path) -> dict[str, dict[str, Any]]:
    """Of which commit the figures are that another run has measured, and when it was."""
    if not deploy.exists():
        return {}
    taken = json.loads(deploy.read_text())
    about = {"commit": taken.get("commit"), "date": taken.get("date")}
    return {name: about for name, value in taken["figures"].items() if figures.get(name) == value}


def is_missed(name: str, value: float) -> bool:
    """Whether a figure is not what the project asks of itself."""
    if name not in MUST:
        return False
    bound, limit = MUST[name]
    return value < limit if bound == "at least" else value > limit


def _with_posting(throughput: Iterable[Row], kind: str) -> dict[str, float | None]:
    """What a window of some seconds does not show: the rows that are posted after it cost CPU, too."""
    throughput = list(throughput)
    one, many = ("stream", "streams") if kind == "stream" else ("json", "json")
    at_64 = {name: select(throughput, kind=kind, connections=64, target=name) for name in ("goproxy", "nginx")}
    cost = {name: cpu_per_answer_us(rows) for name, rows in at_64.items()}
    share = backlog_share(at_64["goproxy"])
    return {
        f"relay.cpu_per_{one}_vs_nginx": _ratio(cost["goproxy"], cost["nginx"], 3),
        f"relay.{many}_backlog_share": None if share is None else round(share, 3),
    }


def _missed(figures: Mapping[str, float], *, is_whole: bool) -> Iterable[str]:
    for name, (bound, limit) in MUST.items():
        if name not in figures:
            if is_whole:
                yield f"{name} was not measured and must be {bound} {limit}"
        elif is_missed(name, figures[name]):
            yield f"{name} is {figures[name]} and must be {bound} {limit}"


def _misbilled(ledger: Mapping[str, int]) -> Iterable[str]:
    if not ledger:
        return
    if ledger["rows"] != ledger["requests"]:
        yield f"the ledger has {ledger['rows']} rows of {ledger['requests']} requests"
    for name in ("token_difference", "cost_difference_nanodollars"):
        if ledger[name]:
            yield f"the ledger's {name} is {ledger[name]} and must be 0"


def _each_us(cpu_seconds: float, number: int) -> float:
    return 1e6 * cpu_seconds / max(1, number)


def _median(rows: Iterable[Row], value: Callable[[Row], float]) -> float | None:
    values = [value(row) for row in rows]
    return median(values) if values else None


def _ratio(value: float | None, to: float | None, digits: int) -> float | None:
    return None if value is None or not to else round(value / to, digits)
