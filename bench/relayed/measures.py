"""The measures: what is asked of each target, in rounds, and in each round in turns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from relayed.chain import running_chains
from relayed.generators import Load
from relayed.process import Process
from relayed.targets import Bench, Target, running_target

EVENTS = 66
"""Of a stream."""

CONNECTIONS = (1, 16, 64, 256)
PACES_MS = {100: 20.0, 300: 20.0, 1000: 66.0, 2000: 132.0}
"""By number of streams. From 300 on the events per second are the same, and the streams more and slower: 1,000 at
20 ms would be 50,000 events a second, more than one core takes of some of what is compared here."""

_SETTLED = 3.0
_AFTER_A_WHILE = 120.0
"""Seconds after a load until what is left of it is looked at: longer than the goproxy waits for more (recycling.py)."""

_LOOK_EVERY = 0.25
_LITELLM_MOST = 64
"""Connections. With more it answers no faster, and the measuring takes the longer."""


@dataclass(frozen=True)
class Size:
    """How long a run takes its time."""

    rounds: int
    closed_seconds: float
    paced_seconds: float
    first_event_seconds: float


SIZES = {
    "quick": Size(rounds=1, closed_seconds=2, paced_seconds=3, first_event_seconds=5),
    "full": Size(rounds=3, closed_seconds=3, paced_seconds=6, first_event_seconds=15),
}

Row = dict[str, Any]
Measure = Callable[[Bench, Mapping[str, Target], Size, Sequence[int]], list[Row]]


def throughput(bench: Bench, targets: Mapping[str, Target], size: Size, connections: Sequence[int]) -> list[Row]:
    """As much as goes through: each connection asks again as soon as it has its answer."""
    rows = []
    for kind in ("stream", "json"):
        for count in connections or CONNECTIONS:
            for turn, target in _in_turns(targets, size.rounds):
                if target.name == "litellm" and count > _LITELLM_MOST:
                    continue
                load = Load(count, size.closed_seconds, warmup=1, is_stream=kind == "stream")
                sample = bench.measure(target, load)
                rows.append({"target": target.name, "kind": kind, "connections": count, "round": turn, **sample})
                _tell(f"throughput {kind} {count}", target, f"{sample['answers'] / sample['seconds']:.0f}/s", sample)
    return rows


def paced(bench: Bench, targets: Mapping[str, Target], size: Size, connections: Sequence[int]) -> list[Row]:
    """So many streams at once, at the speed of a model: what does an event cost?"""
    rows = []
    for count in connections or PACES_MS:
        pace = PACES_MS.get(count, 20.0)
        for turn, target in _in_turns(_relays(targets), size.rounds):
            sample = bench.measure(target, paced_load(count, pace, size.paced_seconds))
            rows.append({"target": target.name, "streams": count, "pace_ms": pace, "round": turn, **sample})
            _tell(f"paced {count}", target, f"{_cost(sample, sample['events']):.2f} us/event", sample)
    return rows


def first_event(bench: Bench, targets: Mapping[str, Target], size: Size, connections: Sequence[int]) -> list[Row]:
    """How late the first event comes, and how regularly those after it."""
    rows = []
    for count in connections or (64,):
        for turn, target in _in_turns(targets, size.rounds):
            sample = bench.measure(target, paced_load(count, 20.0, size.first_event_seconds))
            rows.append({"target": target.name, "streams": count, "pace_ms": 20.0, "round": turn, **sample})
            _tell(f"first event {count}", target, f"{sample['first_us']} us", sample)
    return rows


def memory(bench: Bench, targets: Mapping[str, Target], size: Size, connections: Sequence[int]) -> list[Row]:
    """What each takes in the beginning, with 2,000 streams, and a while after; each in a process of its own."""
    rows = []
    for count in connections or (2000,):
        load = paced_load(count, PACES_MS.get(count, 132.0), size.paced_seconds)
        with ExitStack() as stack:
            loaded = []
            for name in _relays(targets):
                target = stack.enter_context(running_target(bench, name))
                process = target.processes["target"]
                time.sleep(_SETTLED)
                idle = process.rss_kib
                most = _Most(process)
                sample = bench.measure(target, load, most.watch_until(load.ramp + load.seconds))
                loaded.append((target, sample, {"idle_kib": idle, "loaded_kib": most.rss_kib}))
            time.sleep(_AFTER_A_WHILE)
            for target, sample, row in loaded:
                row["after_kib"] = target.processes["target"].rss_kib
                rows.append({"target": target.name, "streams": count, "pace_ms": load.pace_ms, **row, **sample})
                _tell(f"memory {count}", target, f"{row}", sample)
    if "litellm" in targets:
        rows.append({"target": "litellm", "streams": 0, "idle_kib": targets["litellm"].processes["target"].rss_kib})
    return rows


def chain(bench: Bench, _: Mapping[str, Target], size: Size, connections: Sequence[int]) -> list[Row]:
    """TLS at the edge, TLS to the provider: what goes through all of it, what an event costs, how late the first is."""
    rows = []
    (count,) = connections or (64,)
    loads = {
        "stream": Load(count, size.closed_seconds, warmup=1),
        "json": Load(count, size.closed_seconds, warmup=1, is_stream=False),
        "first_event": paced_load(64, 20.0, size.first_event_seconds),
        "paced": paced_load(300, PACES_MS[300], size.paced_seconds),
    }
    with running_chains(bench) as chains:
        for kind, load in loads.items():
            for turn, target in _in_turns(chains, size.rounds):
                sample = bench.measure(target, load)
                rows.append({"target": target.name, "kind": kind, "round": turn, **sample})
                _tell(f"chain {kind}", target, f"{sample['answers'] / sample['seconds']:.0f}/s", sample)
    return rows


MEASURES: dict[str, Measure] = {
    "memory": memory,  # first: what is idle has not been used yet
    "throughput": throughput,
    "paced": paced,
    "first_event": first_event,
    "chain": chain,
}


class _Most:
    """The most memory that a process had while it was looked at."""

    def __init__(self, process: Process) -> None:
        self.rss_kib = 0
        self._process = process

    def watch_until(self, seconds: float) -> Callable[[], None]:
        """To be called when the load begins: look for so long."""

        def watch() -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                self.rss_kib = max(self.rss_kib, self._process.rss_kib)
                time.sleep(_LOOK_EVERY)

        return watch


def paced_load(streams: int, pace_ms: float, seconds: float) -> Load:
    """So many streams, each replaced as it ends, once all have begun."""
    length = EVENTS * pace_ms / 1000
    return Load(streams, seconds, warmup=length + 1, pace_ms=pace_ms, ramp=length)


def _in_turns(targets: Mapping[str, Target], rounds: int) -> Iterable[tuple[int, Target]]:
    """In each round another one begins. LiteLLM is so far from the others that one round says it."""
    every = list(targets.values())
    for turn in range(rounds):
        shift = turn % len(every) if every else 0
        for target in every[shift:] + every[:shift]:
            if target.name != "litellm" or turn == 0:
                yield turn, target


def _relays(targets: Mapping[str, Target]) -> dict[str, Target]:
    """What relays, and can carry the load."""
    return {name: target for name, target in targets.items() if name not in ("provider", "litellm")}


def _cost(sample: Row, number: int) -> float:
    cpu: float = sample["cpu_seconds"]["target"]
    return 1e6 * cpu / max(1, number)


def _settled(sample: Row) -> str:
    if "settled" not in sample:
        return ""
    cost = _cost(sample["whole"], sample["whole"]["requests"])
    return f", {cost:.1f} us with posting, which took {sample['settled']['after_seconds']} s more"


def _tell(what: str, target: Target, found: str, sample: Row) -> None:
    busy = " ".join(f"{100 * share:.0f}%" for share in sample["cores_busy"])
    each = f"{_cost(sample, sample['answers']):.1f} us CPU/request"
    print(f"{what} {target.name}: {found}, {each}, cores busy: {busy}{_settled(sample)}", file=sys.stderr)
