"""Measure what a run of site.yml costs with more upstreams: the first, one that changes nothing, one that changes one.

    .venv/bin/python bench/deploy.py --sizes 2,10,50

The host is the testkit's VPS: a container with systemd and a Docker engine of its own, and every proxy a real
container on it. Engine, images and certbot are there before anything is timed. Needs root, as the testkit does.
Exit code 1: a figure is not what it must be, or more than the one container was made anew.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from billed.report import checked_out, write
from deployed.figures import compute, document
from deployed.gateway import Gateway
from deployed.testkit import Testkit

_ROOT = Path(__file__).parents[1]
SEED = "seed"


def main() -> int:
    """Measure, print, write; the result is the exit code."""
    parser = argparse.ArgumentParser(description="Measure what a run of site.yml costs with more upstreams.")
    parser.add_argument("--sizes", default="2,10,50", help="numbers of upstreams, ascending")
    parser.add_argument("--repeat", type=int, default=3, help="how often each run but the first is made")
    parser.add_argument("--output", type=Path, default=_ROOT / "figures/deploy.json")
    parser.add_argument("--keep", action="store_true", help="leave the VPS there")
    chosen = parser.parse_args()
    sizes = [int(size) for size in chosen.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="bench-deploy-") as scratch, Testkit(_ROOT, keep=chosen.keep) as testkit:
        gateway = Gateway(_ROOT, testkit, Path(scratch))
        measured, problems = measure(gateway, sizes, chosen.repeat)
    figures, missed = compute(measured, sizes)
    for name, value in figures.items():
        print(f"figure {name} {value}")
    for problem in [*problems, *missed]:
        print(f"error: {problem}", file=sys.stderr)
    write(chosen.output, document(figures, measured, [*problems, *missed], chosen.repeat, checked_out()))
    return 1 if problems or missed else 0


def measure(gateway: Gateway, sizes: Sequence[int], repeat: int) -> tuple[Mapping[int, Any], list[str]]:
    """The runs by number of upstreams, and what was not as it must be."""
    measured: dict[int, Any] = {}
    problems: list[str] = []
    for size in sizes:
        # From another single upstream, so that each size begins with none of its own.
        gateway.write([SEED])
        gateway.run()
        names = [f"u{number:03}" for number in range(size)]
        gateway.write(names)
        runs: dict[str, Any] = {"first": [gateway.run()], "nochange": [], "one_changed": []}
        for turn in range(repeat):
            before = gateway.containers()
            nochange = gateway.run()
            if nochange["changed"] or gateway.containers() != before:
                problems.append(f"{size} upstreams: a run without a change changed {nochange['changed']} things")
            runs["nochange"].append(nochange)
            gateway.change(names[turn % size], turn)
            runs["one_changed"].append(gateway.run())
            after = gateway.containers()
            anew = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            if anew != [f"goproxy-{names[turn % size]}"]:
                problems.append(f"{size} upstreams, one changed: made anew were {', '.join(anew) or 'none'}")
        measured[size] = runs
        seconds = {kind: [run["seconds"] for run in each] for kind, each in runs.items()}
        print(f"{size} upstreams: {seconds}", file=sys.stderr)
    return measured, problems


if __name__ == "__main__":
    sys.exit(main())
