"""The targets: what the clients may talk to. All of them run at once, and one at a time has something to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from relayed.gateway import Gateway, running_gateway
from relayed.generators import Generators, Load, Provider, Sample, faults
from relayed.peers import LITELLM_KEY, running_bare, running_haproxy, running_litellm, running_nginx
from relayed.process import CannotMeasure, Process

NAMES = ("provider", "haproxy", "nginx", "bare", "goproxy", "litellm")
CREW = "goproxy-2"
"""The goproxy with two processes, one on each core: measured when it is asked for."""
_LITELLM_FAULTS = 0.01
"""Of its requests: so many may go wrong before its figures are none."""

CORE, OTHER_CORE = 0, 1
"""Where a target runs, and where all the rest does."""


@dataclass
class Target:
    """Something that relays, or the provider itself."""

    name: str
    port: int
    keys: Path
    processes: Mapping[str, Process]
    """What is watched, by name; `target` is what is measured."""
    gateway: Gateway | None = None
    host: str = "127.0.0.1"


@dataclass
class Bench:
    """All that runs, and one measurement of it after the other."""

    generators: Generators
    provider: Provider
    scratch: Path
    cache: Path
    losses: dict[str, int] = field(default_factory=dict)
    """Events that were lost, by target, in all measurements together."""
    ledgers: list[dict[str, int]] = field(default_factory=list)
    """Of each goproxy that has done its part."""
    problems: list[str] = field(default_factory=list)

    def measure(self, target: Target, load: Load, meanwhile: Callable[[], None] = lambda: None) -> Sample:
        """Let the clients have at a target, `meanwhile` doing something else, and count after them."""
        before = self.provider.counts()
        watched = {name: process.pids for name, process in target.processes.items()}
        cpu_before = {name: process.cpu_seconds for name, process in target.processes.items()}
        clients = self.generators.start_clients(target.port, load, target.keys, watched, target.host)
        meanwhile()
        sample = self.generators.result(clients)
        backlog = None if target.gateway is None else target.gateway.backlog()
        after = self.provider.counts()
        sent = {name: after[name] - before[name] for name in ("streams", "jsons", "events", "broken")}
        sample["provider"] = sent
        requests = sent["streams"] + sent["jsons"]
        if target.gateway is not None:
            sample["settled"] = {"after_seconds": target.gateway.settle(requests), "backlog": backlog}
        # From the first request to the last row: what was put off is counted, too, and for all targets alike.
        sample["whole"] = {
            "requests": requests,
            "events": sample["all"]["events"],
            "cpu_seconds": {
                name: round(process.cpu_seconds - cpu_before[name], 2) for name, process in target.processes.items()
            },
        }
        self._check(target.name, sample, load, after)
        return sample

    def close_books(self, gateway: Gateway) -> None:
        """Look into the ledger of a goproxy that has done its part."""
        try:
            self.ledgers.append(gateway.ledger())
        except CannotMeasure as problem:
            self.problems.append(f"the ledger: {problem}")

    def _check(self, name: str, sample: Sample, load: Load, provider: Mapping[str, int]) -> None:
        found = sample["all"]
        lost = max(found["lost_events"], sample["provider"]["events"] - found["events"] if load.is_stream else 0)
        self.losses[name] = self.losses.get(name, 0) + lost
        wrong = faults(sample)
        if name == "litellm":
            # It writes JSON anew, and may lose what it cannot carry; but a time is told of answers, not of refusals.
            if sum(wrong.values()) > _LITELLM_FAULTS * max(1, found["requests"]):
                self.problems.append(
                    f"litellm, {_shape(load)}: {wrong} of {found['requests']} {sample.get('said', '')}"
                )
            return
        size = provider["body_bytes_of_stream" if load.is_stream else "body_bytes_of_json"]
        if not wrong and found["body_bytes"] != found["answers"] * size:
            wrong["body_bytes"] = found["body_bytes"] - found["answers"] * size
        if lost:
            wrong["lost_events"] = lost
        if wrong:
            self.problems.append(f"{name}, {_shape(load)}: {wrong} {sample.get('said', '')}".rstrip())


def _shape(load: Load) -> str:
    return f"{load.connections} {'streams' if load.is_stream else 'JSON'}"


def step_aside() -> None:
    """Leave `CORE` to what is measured: this process, and what it starts elsewhere, are on the other one.

    Raises:
        CannotMeasure: there is no other one.
    """
    if (os.cpu_count() or 1) < 2:
        raise CannotMeasure("this machine has 1 core, and 2 are needed: one for what is measured, one for the rest")
    os.sched_setaffinity(0, {OTHER_CORE})


@contextmanager
def running_bench(scratch: Path, cache: Path) -> Iterator[Bench]:
    """The generators, and the provider."""
    generators = Generators(scratch, OTHER_CORE)
    with generators.provider() as provider:
        yield Bench(generators, provider, scratch, cache)


@contextmanager
def running_targets(bench: Bench, names: Iterable[str]) -> Iterator[dict[str, Target]]:
    """Run those of these names that can run; of the others it is said why they cannot."""
    with ExitStack() as stack:
        targets = {}
        for name in names:
            try:
                targets[name] = stack.enter_context(running_target(bench, name))
            except CannotMeasure as problem:
                if name != "litellm":
                    raise
                bench.problems.append(f"litellm is left out: {problem}")
                print(bench.problems[-1], file=sys.stderr)
        yield targets


@contextmanager
def running_target(bench: Bench, name: str) -> Iterator[Target]:
    """Run one of them, anew.

    Raises:
        CannotMeasure: it cannot run here.
    """
    number = len(list(bench.scratch.glob(f"{name}-[0-9]*")))
    directory, provider = bench.scratch / f"{name}-{number}", bench.provider
    keys = bench.scratch / "keys.txt"
    keys.write_text(f"{LITELLM_KEY}\n")
    own = {"provider": provider.process}
    if name == "provider":
        yield Target(name, provider.port, keys, {"target": provider.process})
        return
    if name in ("goproxy", CREW):
        cores, processes = ((CORE,), 1) if name == "goproxy" else ((CORE, OTHER_CORE), 2)
        with running_gateway(directory, provider, cores, OTHER_CORE, processes=processes) as gateway:
            watched = {"target": gateway.process, "backend": gateway.backend, **own}
            yield Target(name, gateway.port, gateway.keys, watched, gateway)
            bench.close_books(gateway)
        return
    peers: dict[str, Callable[[], AbstractContextManager[tuple[int, Process]]]] = {
        "haproxy": lambda: running_haproxy(directory, provider.port, CORE),
        "nginx": lambda: running_nginx(directory, provider.port, CORE),
        "bare": lambda: running_bare(directory, provider.port, CORE),
        "litellm": lambda: running_litellm(directory, bench.cache, provider.port, CORE),
    }
    with peers[name]() as (port, process):
        yield Target(name, port, keys, {"target": process, **own})
