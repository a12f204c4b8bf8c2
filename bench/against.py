"""Measure this checkout's goproxy beside that of a commit, both at once: what disturbs one disturbs the other.

    .venv/bin/python bench/against.py HEAD~1
    .venv/bin/python bench/against.py HEAD~1 --only paced --rounds 8

Two runs of relay.py differ by a tenth for nothing, so that a change of a few per cent shows in neither. Here both share
core 0 at the same time, each with half of the load. Two processes of the same code still differ by one to three per
cent: each round starts both anew, and another one first. The result is the CPU time of an answer (of an event, of paced
streams), this checkout's divided by the commit's: the mean of the rounds, and each of them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import mean

from relayed.gateway import PROXY_APP, running_gateway
from relayed.generators import Load, Sample, faults
from relayed.machine import refuse_memory_disk
from relayed.measures import paced_load
from relayed.process import CannotMeasure
from relayed.targets import CORE, OTHER_CORE, Bench, running_bench, step_aside

_ROOT = Path(__file__).parents[1]
_CACHE = _ROOT / ".cache" / "bench"
_SECONDS = 6.0

LOADS = {
    "stream": Load(32, _SECONDS, warmup=2),
    "json": Load(32, _SECONDS, warmup=2, is_stream=False),
    "paced": paced_load(150, 20.0, _SECONDS),
}


def main() -> int:
    """Measure and print; the result is the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what to measure beside: whatever git understands")
    parser.add_argument("--only", choices=LOADS, action="append", help="what to measure; may be given several times")
    parser.add_argument("--rounds", type=int, default=4, help="how often: 4 if it is not told")
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds}: expected 1 or more")
    _CACHE.mkdir(parents=True, exist_ok=True)
    try:
        step_aside()
        with tempfile.TemporaryDirectory(prefix="run-", dir=_CACHE) as directory:
            scratch = Path(directory)
            refuse_memory_disk(scratch)
            there = unpacked(chosen.commit, scratch)
            with running_bench(scratch, _CACHE) as bench:
                for kind in chosen.only or LOADS:
                    ratios = [_ratio(bench, there, LOADS[kind], begins=bool(turn % 2)) for turn in range(chosen.rounds)]
                    each = " ".join(f"{ratio:.3f}" for ratio in ratios)
                    print(f"{kind}: {mean(ratios):.3f} of the CPU time at {chosen.commit} ({each})", flush=True)
    except CannotMeasure as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def unpacked(commit: str, directory: Path) -> Path:
    """The goproxy of a commit.

    Raises:
        CannotMeasure: there is no such commit.
    """
    archive = directory / "commit.tar"
    command = ["git", "-C", str(_ROOT), "archive", f"--output={archive}", commit, PROXY_APP.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotMeasure("there is no git, which knows the other commit") from None
    if done.returncode:
        raise CannotMeasure(f"{commit!r} is no commit of this repository that has a goproxy: {done.stderr.strip()}")
    shutil.unpack_archive(archive, directory / "commit")
    return directory / "commit" / PROXY_APP.name


def _ratio(bench: Bench, there: Path, load: Load, *, begins: bool) -> float:
    """One round. `begins`: this checkout's is started first."""
    with ExitStack() as stack:
        gateways = []
        for app in (PROXY_APP, there) if begins else (there, PROXY_APP):
            directory = Path(tempfile.mkdtemp(dir=bench.scratch)) / "goproxy"
            running = running_gateway(directory, bench.provider, CORE, OTHER_CORE, proxy_app=app)
            gateways.append(stack.enter_context(running))
        clients = [
            bench.generators.start_clients(gateway.port, load, gateway.keys, {"target": gateway.process.pids})
            for gateway in gateways
        ]
        first, second = (_cost(bench.generators.result(each), load) for each in clients)
    return first / second if begins else second / first


def _cost(sample: Sample, load: Load) -> float:
    """CPU time of one event of paced streams, of one answer else.

    Raises:
        CannotMeasure: not all answers were what they should be.
    """
    wrong, lost = faults(sample), sample["all"]["lost_events"]
    number, seconds = sample["events" if load.pace_ms else "answers"], sample["cpu_seconds"]["target"]
    if wrong or lost or not number or seconds <= 0:
        raise CannotMeasure(f"{number} answers or events in {seconds} s of CPU time, {lost} lost; wrong: {wrong}")
    return float(seconds / number)


if __name__ == "__main__":
    sys.exit(main())
