"""Measure the relay beside nginx, HAProxy, LiteLLM and the provider alone, and print one line for each figure.

    make bench                                       all of it, about half an hour; writes figures/relay.json
    make bench SIZE=quick ONLY=throughput            less of it; writes nothing
    .venv/bin/python bench/relay.py --only throughput --targets nginx,goproxy --connections 64 --seconds 5
    .venv/bin/python bench/relay.py --only paced --targets goproxy --connections 300 --seconds 10
    .venv/bin/python bench/relay.py --only throughput --targets goproxy,goproxy-2 --connections 64 --seconds 5
    .venv/bin/python bench/relay.py --hold goproxy   runs one target until Enter, and shows how to put load on it

What is measured runs on core 0, provider and clients (and the goproxy's backend) on core 1. The goproxy runs as an
operator runs it: keys, holds, a synced journal and its ledger, which is checked afterwards. Only when it is asked for:
goproxy-2, two processes of which each may use both cores, so that all the rest takes from what it could do. Exit code
1: a figure is not what it must be, or of a whole run is missing, an event was lost, the ledger is wrong, or a target
was left out.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from billed.report import checked_out
from performance import main as write_page
from relayed.figures import compute
from relayed.machine import QUIET, describe, refuse_memory_disk
from relayed.measures import MEASURES, SIZES
from relayed.peers import versions
from relayed.process import CannotMeasure
from relayed.results import Results
from relayed.targets import CREW, NAMES, OTHER_CORE, running_bench, running_target, running_targets, step_aside

_ROOT = Path(__file__).parents[1]
_CACHE = _ROOT / ".cache" / "bench"
_OPEN_FILES = 10_000


def main() -> int:
    """Measure, print, write; the result is the exit code."""
    chosen = _arguments()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files != resource.RLIM_INFINITY and most_files < _OPEN_FILES:
        print(f"{most_files} files may be open at once, and {_OPEN_FILES} are needed: see ulimit -Hn", file=sys.stderr)
        return 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    _CACHE.mkdir(parents=True, exist_ok=True)
    try:
        step_aside()
        with tempfile.TemporaryDirectory(prefix="run-", dir=chosen.scratch) as scratch:
            refuse_memory_disk(Path(scratch))
            return _hold(Path(scratch), chosen) if chosen.hold else _measure(Path(scratch), chosen)
    except CannotMeasure as problem:
        print(problem, file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full", help="how long it takes its time")
    parser.add_argument("--only", type=_names(*MEASURES), help=f"of {','.join(MEASURES)}")
    parser.add_argument("--targets", type=_names(*NAMES, CREW), help=f"of {','.join(NAMES)}; or {CREW}")
    parser.add_argument("--connections", type=_numbers, default=(), help="other numbers than usual: 1,64")
    parser.add_argument("--seconds", type=float, help="how long each measurement takes, without its warm-up")
    parser.add_argument("--rounds", type=int, help="how often each is made")
    parser.add_argument("--hold", choices=(*NAMES, CREW), help="run this one until Enter; measure nothing")
    parser.add_argument("--scratch", type=Path, default=_CACHE, help="where journal and ledger are: a real disk")
    parser.add_argument("--output", type=Path, help="default: figures/relay.json, if all of it was measured in full")
    return parser.parse_args()


def _names(*known: str) -> Any:
    def read(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not known; there are {', '.join(known)}")
        return text.split(",")

    return read


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers such as 1,64") from None
    if min(numbers) < 1 or max(numbers) > 8192:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers from 1 to 8192")
    return numbers


def _measure(scratch: Path, chosen: argparse.Namespace) -> int:
    size = SIZES[chosen.size]
    if chosen.seconds:
        size = replace(
            size,
            closed_seconds=chosen.seconds,
            paced_seconds=chosen.seconds,
            first_event_seconds=chosen.seconds,
        )
    if chosen.rounds:
        size = replace(size, rounds=chosen.rounds)
    results = Results(size=chosen.size, machine=describe(scratch), commit=checked_out())
    if results.machine["load_before"] > QUIET:
        load = results.machine["load_before"]
        print(f"the machine is not quiet (load average {load}): do not trust what follows", file=sys.stderr)
    with running_bench(scratch, _CACHE) as bench, running_targets(bench, chosen.targets or NAMES) as targets:
        results.versions = versions(_CACHE)
        for name in chosen.only or MEASURES:
            began = time.monotonic()
            results.measured[name] = []
            try:
                results.measured[name] = MEASURES[name](bench, targets, size, chosen.connections)
            except CannotMeasure as reason:  # the others' results are not worth less
                bench.problems.append(f"{name}: {reason}")
            results.seconds[name] = round(time.monotonic() - began, 1)
    results.losses, results.problems = bench.losses, bench.problems
    results.ledger = {name: sum(ledger[name] for ledger in bench.ledgers) for name in (bench.ledgers or [{}])[0]}
    is_whole = not _cut_short(chosen)
    results.figures, results.missed = compute(results, _ROOT / "figures" / "deploy.json", is_whole=is_whole)
    for name, value in results.figures.items():
        print(f"figure {name} {value}")
    for problem in [*results.problems, *results.missed]:
        print(f"error: {problem}", file=sys.stderr)
    results.write(chosen.output or (_ROOT / "figures" / "relay.json" if is_whole else _CACHE / "last.json"))
    if is_whole and not chosen.output:
        write_page([])
    return 1 if results.problems or results.missed else 0


def _cut_short(chosen: argparse.Namespace) -> bool:
    """Whether it is less than all of it, in full: that is not what is published."""
    less = (chosen.only, chosen.targets, chosen.connections, chosen.seconds, chosen.rounds)
    return chosen.size != "full" or any(less)


def _hold(scratch: Path, chosen: argparse.Namespace) -> int:
    with running_bench(scratch, _CACHE) as bench, running_target(bench, chosen.hold) as target:
        pids = ", ".join(f"{name} {process.pids}" for name, process in target.processes.items())
        print(f"{target.name} listens on 127.0.0.1:{target.port}; processes: {pids}")
        print(f"load: taskset -c {OTHER_CORE} {scratch}/client --port {target.port} --keys {target.keys} "
              "--connections 64 --warmup-ms 1000 --ms 10000 [--json] [--pace-us 20000 --ramp-ms 1320]")  # fmt: skip
        input("Enter ends it. ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
