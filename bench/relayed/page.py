"""docs/performance.md: what stands between its markers, and its pictures, made from figures/relay.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from relayed.chart import Chart, shown
from relayed.figures import (
    LATER,
    MUST,
    backlog_share,
    cpu_per_answer_us,
    cpu_per_event_us,
    is_missed,
    per_second,
    quantile_ms,
    select,
)
from relayed.machine import QUIET

BEGIN, END = "<!-- results: begin (made from figures/relay.json by bench/performance.py) -->", "<!-- results: end -->"

_NAMES = {
    "provider": "the provider alone",
    "haproxy": "HAProxy, one thread",
    "nginx": "nginx, one worker",
    "bare": "bytes passed on in Python, no more",
    "goproxy": "**goproxy**, one process",
    "goproxy-2": "goproxy, two processes on both cores",
    "litellm": "LiteLLM, one worker",
}
_ORDER = tuple(_NAMES)
_NOTHING = "There are no results yet: `make bench` makes them.\n"

Row = Mapping[str, Any]
Document = Mapping[str, Any]


def results(document: Document | None) -> str:
    """What stands between the markers."""
    if document is None:
        return _NOTHING
    sections = (_machine, _figures, _throughput, _events, _first_event, _memory, _chain, _correct)
    return "\n".join(line for section in sections for line in section(document))


def pictures(document: Document | None) -> dict[str, str]:
    """The pictures, by file name."""
    if document is None:
        return {}
    measured = document["measured"]
    charts = {
        "throughput": Chart(
            "Streams per second, by number of connections",
            "66 events each, on one core; higher is better",
            _by_number(select(measured["throughput"], kind="stream"), "connections", per_second, " connections"),
        ),
        "events": Chart(
            "CPU time of an event, by number of streams",
            "microseconds; lower is better",
            _by_number(measured["paced"], "streams", cpu_per_event_us, " streams"),
        ),
        "first-event": Chart(
            "Time to the first event, 64 streams",
            "milliseconds; lower is better",
            {
                which: {
                    name: quantile_ms(rows, "first_us", which) or 0
                    for name in _ORDER
                    if name != "litellm" and (rows := select(measured["first_event"], target=name))
                }
                for which in ("p50", "p90", "p99")
            },
        ),
    }
    return {f"performance-{name}.svg": chart.svg() for name, chart in charts.items()}


def page(text: str, document: Document | None) -> str:
    """The page with these results between its markers.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the markers are missing: {BEGIN} and {END}, each on a line of its own")
    return f"{before}{BEGIN}\n\n{results(document).strip()}\n\n{END}{after}"


def wanted(folder: Path, document: Document | None) -> dict[Path, str]:
    """What the files in docs/ must hold.

    Raises:
        ValueError: the page has no markers.
    """
    path = folder / "performance.md"
    files = {path: page(path.read_text(), document)}
    return files | {folder / name: picture for name, picture in pictures(document).items()}


def _machine(document: Document) -> Iterable[str]:
    machine, versions = document["machine"], document["versions"]
    packages = {"Python": machine["python"], **machine["packages"]}
    of = ", ".join(f"{name} {version}" for name, version in {**packages, **versions}.items() if version)
    sync = machine["fdatasync_us"]
    yield (
        f"Measured {document['date'][:10]} at commit `{(document['commit'] or 'unknown')[:12]}` on {machine['cores']} "
        f"cores of {machine['processor']}, Linux {machine['kernel']}; {of}. A sync of the journal's disk "
        f"({machine['file_system']}) takes {sync['p50']:.0f} µs (p50), {sync['p99']:.0f} µs (p99)."
    )
    if (load := machine.get("load_before")) is not None:
        quiet = (
            "" if load <= QUIET else f", and up to {QUIET} is quiet: **something else was at work, do not trust these**"
        )
        yield f"The load average before was {load}{quiet}."
    yield ""


def _figures(document: Document) -> Iterable[str]:
    yield "| figure | measured | asked for |"
    yield "|---|---:|---|"
    figures = document["figures"]
    for name, value in figures.items():
        missed = ": missed" if is_missed(name, value) else ""
        yield f"| {name} | {_shown(value)} | {_bound(name)}{missed} |"
    for name in dict.fromkeys([*MUST, *LATER]):
        if name not in figures:
            yield f"| {name} | not measured | {_bound(name)} |"
    yield ""
    yield "`relay.first_event_added_ms_*` is what the first event takes more than **through nginx**; the table further"
    yield "down says what it takes more than from the provider alone."
    yield from _elsewhere(document)
    yield ""


def _bound(name: str) -> str:
    return f"{MUST[name][0]} {_shown(MUST[name][1])}" if name in MUST else ""


def _elsewhere(document: Document) -> Iterable[str]:
    """Figures of `figures/` that this run has not measured itself."""
    taken = [name for name in document["figures"] if name.startswith("deploy.")]
    if not taken:
        return
    of = {
        f"{(about['date'] or '?')[:10]}, commit `{(about['commit'] or 'unknown')[:12]}`"
        for name, about in document.get("elsewhere", {}).items()
        if name in taken
    }
    when = "; ".join(sorted(of)) or "of which commit is not known"
    yield f"`deploy.*` is of another run ({when})."


def _throughput(document: Document) -> Iterable[str]:
    rows = document["measured"]["throughput"]
    numbers = sorted({row["connections"] for row in rows})
    yield "### As much as goes through"
    yield ""
    yield "![Streams per second](performance-throughput.svg)"
    for kind, title in (("stream", "Streams of 66 events, per second"), ("json", "JSON answers, per second")):
        yield ""
        yield f"{title}, by number of connections; then, at 64: CPU time of an answer, and how busy the two cores were:"
        yield ""
        yield _line(["", *map(str, numbers), "µs CPU", "its core", "the other core", "not posted", "posting"])
        yield _rule(len(numbers) + 5)
        for name in _there(rows):
            of = select(rows, kind=kind, target=name)
            at_64 = select(of, connections=64)
            rates = [_cell(per_second(select(of, connections=number))) for number in numbers]
            busy = [_busy(at_64, core) for core in (0, 1)]
            own = _cell(cpu_per_answer_us(at_64))
            yield _line([_NAMES[name], *rates, own, *(busy if name != "provider" else ["", busy[1]]), *_put_off(at_64)])
    yield ""
    yield "Answers per second are of a window of seconds, at whose end the goproxy has not posted all of its rows. *Not"
    yield "posted*: so many of the goproxy's rows the ledger did not have when the clients were done; *posting*: the"
    yield "seconds that it took from then on. *µs CPU* is until the last row is posted: a million divided by it is what"
    yield "the goproxy's core can take per second for ever, as far as the backend keeps up, which has the clients'"
    yield "core."
    if not _has_whole(rows):
        yield "These results are older: the others' µs CPU is of the window, and what was not posted was not measured."
    yield ""


def _events(document: Document) -> Iterable[str]:
    rows = document["measured"]["paced"]
    numbers = sorted({row["streams"] for row in rows})
    yield "### What an event costs"
    yield ""
    yield "![CPU time of an event](performance-events.svg)"
    yield ""
    yield "CPU time of one event in µs, by number of streams, with the request's own cost shared out among its events,"
    if _has_whole(rows):
        yield "from the first request to the last row that is posted:"
    else:
        yield "in the window. **These results are older: what the goproxy posts after the window is left out:**"
    yield ""
    yield _line(["", *(f"{number:,} streams, {_pace(rows, number):.0f} ms" for number in numbers)])
    yield _rule(len(numbers))
    for name in _there(rows):
        costs = (cpu_per_event_us(select(rows, target=name, streams=number)) for number in numbers)
        yield _line([_NAMES[name], *map(_cell, costs)])
    yield ""


def _first_event(document: Document) -> Iterable[str]:
    rows = document["measured"]["first_event"]
    alone = select(rows, target="provider")
    yield "### How late it comes"
    yield ""
    yield "![Time to the first event](performance-first-event.svg)"
    yield ""
    counts = [row["first_us"]["count"] for row in rows if row["target"] != "litellm" and "count" in row["first_us"]]
    yield "64 streams, one event each 20 ms, in ms: from the request to the first event, what that is more than from"
    yield "**the provider alone**, and how much longer than there the gaps between two events are."
    if counts:
        yield f"A round has {min(counts):,} first events or more, too few for a p99.9: the longest stands there."
    yield ""
    yield _line(
        [
            *("", "first: p50", "p99", "longest", "more than the provider: p50", "p99"),
            *("gap, more than the provider's: p50", "p99", "p99.9"),
        ]
    )
    yield _rule(8)
    for name in _there(rows):
        of = select(rows, target=name)
        cells = [_ms(quantile_ms(of, "first_us", which)) for which in ("p50", "p99", "max")]
        for timed, quantiles in (("first_us", ("p50", "p99")), ("gap_us", ("p50", "p99", "p999"))):
            for which in quantiles:
                one, other = quantile_ms(of, timed, which), quantile_ms(alone, timed, which)
                cells.append("" if name == "provider" or one is None or other is None else _ms(one - other))
        yield _line([_NAMES[name], *cells])
    yield ""


def _memory(document: Document) -> Iterable[str]:
    rows = document["measured"]["memory"]
    yield "### Memory"
    yield ""
    yield _line(["resident", "idle", "with 2,000 streams", "of each stream", "two minutes later"])
    yield _rule(4)
    for row in sorted(rows, key=lambda row: _ORDER.index(row["target"])):
        cells = [_mb(row["idle_kib"])]
        if row["streams"]:
            each = (row["loaded_kib"] - row["idle_kib"]) / row["streams"]
            cells += [_mb(row["loaded_kib"]), f"{each:.1f} KiB", _mb(row["after_kib"])]
        yield _line([_NAMES[row["target"]], *cells, *[""] * (4 - len(cells))])
    yield ""


def _chain(document: Document) -> Iterable[str]:
    rows = document["measured"]["chain"]
    yield "### The whole chain, with TLS"
    yield ""
    yield "TLS from the client to the edge, and to the provider; edge and goproxy share one core. Beside it, one nginx"
    yield "that does TLS on both sides and nothing else."
    yield ""
    yield _line(
        [
            "",
            "streams/s",
            "JSON/s",
            "µs CPU of a stream",
            "of an event, 300 streams",
            "first event, 64: p50",
            "p99",
        ]
    )
    yield _rule(6)
    for target in dict.fromkeys(row["target"] for row in rows):
        of = {kind: select(rows, target=target, kind=kind) for kind in ("stream", "json", "paced", "first_event")}
        parts = [name for name in ("edge", "target") if name in of["stream"][0]["cpu_seconds"]]
        yield _line(
            [
                target,
                _cell(per_second(of["stream"])),
                _cell(per_second(of["json"])),
                _sum([cpu_per_answer_us(of["stream"], name) for name in parts]),
                _sum([cpu_per_event_us(of["paced"], name) for name in parts]),
                *(_ms(quantile_ms(of["first_event"], "first_us", which)) + " ms" for which in ("p50", "p99")),
            ]
        )
    yield ""


def _correct(document: Document) -> Iterable[str]:
    ledger = document["ledger"]
    known = sorted(document["losses"], key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    losses = ", ".join(f"{name} {document['losses'][name]}" for name in known)
    yield f"Events lost in all of these measurements: {losses}."
    if ledger:
        yield (
            f"The goproxy's ledger: {ledger['rows']:,} rows of {ledger['requests']:,} requests; the difference to "
            f"what they cost is {ledger['cost_difference_nanodollars']} nano-dollars."
        )


def _has_whole(rows: Iterable[Row]) -> bool:
    """Whether CPU time was counted until the rows were posted, and for all targets alike."""
    return all("whole" in row for row in rows)


def _put_off(rows: Sequence[Row]) -> list[str]:
    """How much of the goproxy's work is not done when the clients are."""
    if not rows or "settled" not in rows[0]:
        return ["", ""]
    share = backlog_share(rows)
    after = median(row["settled"]["after_seconds"] for row in rows)
    return ["not measured" if share is None else f"{100 * share:.0f} %", f"{after:.1f} s"]


def _by_number(
    rows: Iterable[Row], axis: str, value: Callable[[Iterable[Row]], float | None], unit: str
) -> dict[str, dict[str, float]]:
    rows = list(rows)
    return {
        f"{number:,}{unit}": {
            name: found
            for name in _there(rows)
            if (found := value(select(rows, target=name, **{axis: number}))) is not None
        }
        for number in sorted({row[axis] for row in rows})
    }


def _there(rows: Sequence[Row]) -> list[str]:
    return [name for name in _ORDER if select(rows, target=name)]


def _pace(rows: Sequence[Row], streams: int) -> float:
    pace: float = select(rows, streams=streams)[0]["pace_ms"]
    return pace


def _busy(rows: Sequence[Row], core: int) -> str:
    return f"{100 * median(row['cores_busy'][core] for row in rows):.0f} %" if rows else ""


def _sum(found: Iterable[float | None]) -> str:
    values = [value or 0 for value in found]
    return f"{shown(sum(values))} ({' + '.join(map(shown, values))})" if len(values) > 1 else shown(sum(values))


def _shown(value: float) -> str:
    return f"{value:,g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(value: float | None) -> str:
    return "" if value is None else shown(value)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _mb(kib: float) -> str:
    return f"{kib * 1024 / 1e6:.1f} MB"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(numbers: int) -> str:
    return f"|---|{'---:|' * numbers}"
