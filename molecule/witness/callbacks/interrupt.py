"""Kills the run of ansible-playbook that it is loaded into, with all its children, at the task that it is told.

`INTERRUPT_AT` is the number of a task, from 1 on, or a part of its name; the run is killed as the task begins, or
`INTERRUPT_SECONDS` later. Without it, the run goes on. What happened is written into `INTERRUPT_TASKS`, a line each:
`began NAME` for each task, and `acted NUMBER` for one that may have left things otherwise than it found them: it says
so itself, or it ran a command.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

_COMMANDS = {"command", "raw", "script", "shell"}  # what they say of changes is what `changed_when` says


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Counts tasks until it is time."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "interrupt"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._at = os.environ.get("INTERRUPT_AT", "")
        self._seconds = float(os.environ.get("INTERRUPT_SECONDS", "0"))
        self._tasks = Path(os.environ["INTERRUPT_TASKS"])
        self._begun = 0

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 - Ansible's
        self._begin(str(task.get_name()).strip())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._begin(str(task.get_name()).strip())

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.is_changed() or result.task.action.rpartition(".")[2] in _COMMANDS:
            self._note(f"acted {self._begun}")

    def _note(self, line: str) -> None:
        with self._tasks.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def _begin(self, name: str) -> None:
        self._begun += 1
        self._note(f"began {name}")
        if self._at and (self._at == str(self._begun) or (not self._at.isdigit() and self._at in name)):
            if self._seconds == 0:
                _kill()
            threading.Timer(self._seconds, _kill).start()


def _kill() -> None:
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = entry.read_text(errors="replace").rpartition(")")[2].split()[1]
        except OSError:  # it has just ended
            continue
        children[int(parent)].append(int(entry.parent.name))
    family = [os.getpid()]
    for member in family:
        family += children[member]
    for member in reversed(family):
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue
