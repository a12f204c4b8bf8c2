"""Kills the run of ansible-playbook that it is loaded into, with all its children, at the task that it is told.

`INTERRUPT_AT` is the number of a task, from 1 on, or a part of its name; the run is killed as the task begins, or
`INTERRUPT_SECONDS` later. Without it, the run goes on. The tasks that began are written into `INTERRUPT_TASKS`, a line
each.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase


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

    def _begin(self, name: str) -> None:
        self._begun += 1
        with self._tasks.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
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
