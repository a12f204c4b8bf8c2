"""Runs of Ansible that are killed in their middle, and whether the next one makes up for it.

What changes from one to the next is one upstream more or less, the configuration of another, a secret of the third, and
the image of all: there is something to do, and to interrupt, in every role.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .playbook import Operator, Run
from .third import THIRD_FILE

_CALLBACKS = Path(__file__).parent / "callbacks"
_KEYS = ("-next", "")  # the ends of the keys that the simulated provider takes


_WITHIN = 0.4
"""Seconds after a task's beginning, at which every other task is killed: most are in the middle of their work then."""


@dataclass(frozen=True)
class Task:
    """One that a run began."""

    number: int
    name: str
    acted: bool
    """Whether it may have left anything otherwise than it found it."""


@dataclass(frozen=True)
class Point:
    """Where a run is killed: as a task begins, or so many seconds later."""

    task: int | str
    """Its number, or a part of its name."""
    seconds: float = 0

    def __str__(self) -> str:
        return f"task {self.task}" + (f" + {self.seconds} s" if self.seconds else "")


@dataclass(frozen=True)
class Aftermath:
    """What became of a run that was killed."""

    point: Point
    killed_in: str
    """The task that began last; empty when the run ended before the point."""
    problems: Sequence[str]


@dataclass
class Interruptions:
    """An operator who changes the same things forth and back, and is interrupted at it."""

    operator: Operator
    scratch: Path
    _turn: itertools.count[int] = field(default_factory=itertools.count)

    def change(self) -> None:
        """Write the next state of all that changes into inventory and project."""
        turn, upstreams = next(self._turn), self.operator.upstreams
        if turn % 2:
            (upstreams / "third.yml").unlink()
        else:
            (upstreams / "third.yml").write_text(THIRD_FILE)
        _set(upstreams / "openhands.yml", "max_body_mib", str(31 - turn % 2))
        _set(upstreams / "ohmygpt.yml", "api_key", f'"{{{{ vault_ohmygpt_api_key }}}}{_KEYS[turn % 2]}"')
        with (self.operator.project / "proxy_app/goproxy/__init__.py").open("a") as source:
            source.write(f"# The next release: {uuid.uuid4()}.\n")

    def tasks(self) -> Sequence[Task]:
        """Change all, and give the tasks of the run that brings it there."""
        self.change()
        run, tasks = self._run({})
        assert run.code == 0, run.output
        return tasks

    def aftermath(self, point: Point) -> Aftermath:
        """Change all, kill the run at a point, run again, and once more."""
        self.change()
        times = {"INTERRUPT_AT": str(point.task), "INTERRUPT_SECONDS": str(point.seconds)}
        killed, tasks = self._run(times)
        problems = [] if killed.code in (-9, 0) else [f"the run that was to be killed failed:\n{killed.output}"]
        again = self.operator.run("site.yml")
        if again.code != 0:
            problems.append(f"the run after it failed:\n{again.output}")
        third = self.operator.run("site.yml")
        if third.code != 0 or third.changed:
            problems.append(f"the run after that is not without changes:\n{third.output}")
        return Aftermath(point, tasks[-1].name if killed.code == -9 else "", problems)

    def _run(self, environment: Mapping[str, str]) -> tuple[Run, Sequence[Task]]:
        noted = self.scratch / "tasks"
        noted.unlink(missing_ok=True)
        run = self.operator.run(
            "site.yml",
            environment={
                "ANSIBLE_CALLBACK_PLUGINS": str(_CALLBACKS),
                "ANSIBLE_CALLBACKS_ENABLED": "interrupt",
                "INTERRUPT_TASKS": str(noted),
                **environment,
            },
        )
        return run, _tasks(noted.read_text().splitlines())


def points(runs: Sequence[Sequence[Task]], size: float) -> Iterator[Point | None]:
    """Where to kill each next run, which are such as `runs`, in turns; None: nowhere, for the other one's sake.

    All tasks that act, each in one of the runs that have it, or so many of them, with equal distances.
    """
    numbers = [acting(run) for run in runs]
    names = list(dict.fromkeys(itertools.chain(*numbers)))
    number = min(len(names), max(2, round(len(names) * size)))
    left = {names[place * len(names) // number] for place in range(number)}
    seconds = itertools.cycle((0, _WITHIN))
    for tasks in itertools.cycle(numbers):
        if not left:
            return
        name = next((name for name in tasks if name in left), None)
        left -= {name}
        yield None if name is None else Point(tasks[name], next(seconds))


def acting(run: Sequence[Task]) -> Mapping[str, int]:
    """The numbers of the tasks that did something, by a name that is the same in the other run."""
    times = Counter[str]()
    numbers = {}
    for task in run:
        times[task.name] += 1
        if task.acted:
            numbers[f"{task.name} ({times[task.name]})"] = task.number
    return numbers


def _tasks(lines: Sequence[str]) -> Sequence[Task]:
    """From what callbacks/interrupt.py wrote."""
    told = [line.split(" ", 1) for line in lines]
    acted = {int(number) for event, number in told if event == "acted"}
    names = [name for event, name in told if event == "began"]
    return [Task(number, name, number in acted) for number, name in enumerate(names, 1)]


def _set(path: Path, key: str, value: str) -> None:
    """Give an upstream's file another value of a key."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"  {key}:")]
    lines.insert(
        lines.index(next(line for line in lines if line.startswith("  multiplier_band:"))), f"  {key}: {value}"
    )
    path.write_text("\n".join(lines) + "\n")
