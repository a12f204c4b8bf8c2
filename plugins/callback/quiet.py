"""What an operator sees: changes, failures with their reason, reports, and long steps as they go. Nothing else."""

from __future__ import annotations

DOCUMENTATION = """
name: quiet
type: stdout
short_description: Changes, failures and reports only
version_added: "0.1.0"
description:
  - Prints one line for each change, the message of each failure, and what C(ansible.builtin.debug) says.
  - A step that takes longer than O(patience) seconds is named while it runs, with the time that it has taken.
  - With C(-v) and more it prints what the default callback prints.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
options:
  patience:
    description: Seconds after which a running step is named, and named again.
    type: int
    default: 10
    ini:
      - section: callback_quiet
        key: patience
    env:
      - name: GATEWAY_QUIET_PATIENCE
"""

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.plugins.callback.default import CallbackModule as Default

from ansible_collections.trollllm.gateway.plugins.plugin_utils import variable_files

_REASONS = ("msg", "module_stderr", "stderr", "stdout")
_DEBUG = ("ansible.builtin.debug", "debug")
_READ_HERE = {"all", "gateway", "host_vars"}


class CallbackModule(Default):  # type: ignore[misc]  # ansible-core ships no types
    """Ansible's default callback, less what an operator does not act on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "trollllm.gateway.quiet"

    def __init__(self) -> None:
        super().__init__()
        self._running = ""
        self._since = 0.0
        self._done = threading.Event()

    @property
    def _verbose(self) -> bool:
        return bool(self._display.verbosity > 0)

    def _say(self, text: str, color: str | None = None) -> None:
        self._display.display(text, color=color)

    # -- long steps -------------------------------------------------------------------------------------------------

    def v2_playbook_on_start(self, playbook: Any) -> None:
        for problem in broken_files(context.CLIARGS.get("inventory") or (), playbook.get_loader()):
            self._say(problem, C.COLOR_ERROR)
        if self._verbose:
            super().v2_playbook_on_start(playbook)
            return
        threading.Thread(target=self._name_long_steps, daemon=True).start()

    def _name_long_steps(self) -> None:
        patience = int(self.get_option("patience"))
        told = 0.0
        while not self._done.wait(1):
            now = time.monotonic()
            if self._running and now - max(self._since, told) >= patience:
                told = now
                self._say(f"  ... {self._running} ({now - self._since:.0f} s)", C.COLOR_VERBOSE)

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        super()._task_start(task, prefix)
        self._since = time.monotonic()
        self._running = _title(task)

    def _print_task_banner(self, task: Any) -> None:
        if self._verbose:
            super()._print_task_banner(task)
        self._last_task_banner = task._uuid

    # -- plays and their end ----------------------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._verbose:
            super().v2_playbook_on_play_start(play)
            return
        self._play = play
        check = " (check mode: nothing is changed)" if play.check_mode else ""
        self._say(f"\n{play.get_name().strip()}{check}", C.COLOR_HIGHLIGHT)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._done.set()
        if self._verbose:
            super().v2_playbook_on_stats(stats)
            return
        for host in sorted(stats.processed):
            count = stats.summarize(host)
            bad = [f"{count[key]} {key}" for key in ("failures", "unreachable") if count[key]]
            if host == "localhost" and not bad and not count["changed"]:
                continue  # it only asked
            verdict = ", ".join(bad) or "done"
            # `changed=N` as in Ansible's own recap: Molecule's idempotence check reads it.
            self._say(f"\n{host}: {verdict}, changed={count['changed']}", C.COLOR_ERROR if bad else C.COLOR_OK)

    # -- results ----------------------------------------------------------------------------------------------------

    def v2_runner_on_ok(self, result: Any) -> None:
        self._running = ""
        if self._verbose:
            super().v2_runner_on_ok(result)
            return
        self._handle_warnings_and_exception(result)
        if result.task.action in _DEBUG and not (result.task.loop and "results" in result.result):
            self._say(_text(result.result.get("msg", "")))
        elif result.result.get("changed") and not result.task.loop:
            self._changed(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_item_on_ok(result)
        elif result.result.get("changed"):
            self._changed(result, f": {self._get_item_label(result.result)}")

    def _changed(self, result: Any, item: str = "") -> None:
        self._say(f"  changed  {_title(result.task)}{item}{_files(result.result)}", C.COLOR_CHANGED)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._running = ""
        if self._verbose:
            super().v2_runner_on_failed(result, ignore_errors=ignore_errors)
            return
        if ignore_errors or (result.task.loop and "results" in result.result):
            return  # each item has been told
        if _is_rescued(result.task):
            self._say(f"  failed   {_title(result.task)} (what follows deals with it)", C.COLOR_WARN)
            return
        self._failed(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_item_on_failed(result)
        elif not (result.task.ignore_errors or _is_rescued(result.task)):
            self._failed(result, f": {self._get_item_label(result.result)}")

    def _failed(self, result: Any, item: str = "") -> None:
        self._say(f"\n  FAILED   {_title(result.task)}{item} [{result.host.get_name()}]", C.COLOR_ERROR)
        told = result.result
        parts = [told, *told.get("failed_modules", {}).values()]
        lines = [_text(part.get(key)) for part in parts for key in _REASONS if part.get(key)]
        lines = lines or list(_reasons(result.exception)) or [self._dump_results(told)]
        for line in dict.fromkeys("\n".join(lines).rstrip().splitlines()):
            self._say(f"  {line}", C.COLOR_ERROR)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._running = ""
        if self._verbose:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_item_on_skipped(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._running = ""
        if self._verbose:
            super().v2_runner_on_unreachable(result)
            return
        reason = _text(result.result.get("msg", ""))
        self._say(f"\n  UNREACHABLE  {result.host.get_name()}: {reason}", C.COLOR_UNREACHABLE)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._verbose:
            super().v2_playbook_on_include(included_file)

    def v2_runner_retry(self, result: Any) -> None:
        if self._verbose:
            super().v2_runner_retry(result)


def broken_files(sources: Iterable[str], loader: Any) -> Iterator[str]:
    """The variable files of inventories that cannot be read, and where: ansible-core 2.19 fails without naming them."""
    for source in sources:
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        for path in variable_files.found(folder, loader):
            try:
                variable_files.compose(path, loader)
            except variable_files.Unreadable as problem:
                # Those of other groups are not read here, and may have another password.
                place = set(path.relative_to(folder).with_suffix("").parts)
                if not isinstance(problem, variable_files.Locked) or place & _READ_HERE:
                    yield f"{path} {problem}. Nothing was touched."


def _reasons(error: Any) -> Iterator[str]:
    """What went wrong, and of what that came: all that is told of a task whose result is withheld (`no_log`)."""
    while error is not None:
        yield str(error.event.msg)
        error = error.event.chain


def _is_rescued(task: Any) -> bool:
    """Whether the task stands in a block that has a rescue, which says itself what went wrong."""
    block = task._parent
    while block is not None:
        guarded = {part._uuid for part in getattr(block, "block", [])}
        if getattr(block, "rescue", []) and task._uuid in guarded:
            return True
        task, block = block, block._parent
    return False


def _title(task: Any) -> str:
    """The task's name; a role's name stands before it, without the collection's."""
    return str(task.get_name()).strip().removeprefix("trollllm.gateway.")


def _text(message: Any) -> str:
    return "\n".join(map(str, message)) if isinstance(message, list) else str(message or "")


def _files(result: Any) -> str:
    """What a change touched, where the module says so (trollllm.gateway.file_tree does)."""
    touched = [*result.get("changed_files", []), *(f"{name} (removed)" for name in result.get("removed_files", []))]
    if len(touched) > 6:
        return f": {len(touched)} files"
    return f": {', '.join(touched)}" if touched else ""
