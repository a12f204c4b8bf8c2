"""Takes a host's lock for as long as this run of ansible-playbook lives, and leaves it to nobody who is dead.

No task can give it back, because a play that fails comes to no task, and one that is killed to none at all. So a
process of its own does, the keeper: it watches the run from outside, says to the host that it goes on, and removes the
lock when it is gone. The host's half is the module of the same name.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import os
import shlex
import signal
import socket
import time
import uuid
from collections.abc import Mapping
from multiprocessing import resource_tracker
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_LOOK_EVERY = 0.2
_ASK_EVERY = 1.0
_LOST = 3
_MOST_OPEN = 1 << 16  # the system's own limit may be none


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible carries no type information
    """The action; its reference page is the module of the same name."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                "purpose": {"type": "str", "required": True},
                "file": {"type": "path", "default": "/run/trollllm-gateway.lock"},
                "patience": {"type": "int", "default": 45},
                "lease": {"type": "int", "default": 30},
            }
        )
        if self._task.check_mode:
            return {**result, "changed": False, "skipped": True, "msg": "a run in check mode changes nothing"}
        main = os.getppid()  # this is a worker of it
        asking = who_asks(main, given["purpose"])
        told = self._take(given, asking, task_vars)
        result.update(told)
        if told.get("taken") and not told["renewed"]:
            self._keep(main, asking["id"], given["file"], given["lease"])
        elif "taken" in told and not told["taken"]:
            result.update(failed=True, msg=refusal(told["holder"], told["heard"], given["lease"]))
        return result

    def _take(self, given: Mapping[str, Any], asking: Mapping[str, Any], task_vars: Any) -> dict[str, Any]:
        until, ended, is_told = time.monotonic() + given["patience"], "", False
        while True:
            arguments = {**given, "run": dict(asking), "ended": ended}
            told: dict[str, Any] = self._execute_module("trollllm.gateway.run_lock", arguments, task_vars=task_vars)
            if "taken" not in told or told["taken"]:
                return told
            holder = told["holder"]
            if has_ended(holder):
                ended = holder["id"]
                continue
            if time.monotonic() >= until:
                return told
            if not is_told:
                Display().display(f"  waiting, for {given['patience']} s at most, for another run: {words(holder)}")
                is_told = True
            time.sleep(_ASK_EVERY)

    def _keep(self, main: int, identity: str, file: str, lease: int) -> None:
        """Start the keeper. It is nobody's child, so that nobody waits for it, and has nothing open of this run."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        try:
            os.setsid()
            if os.fork() == 0:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                close_what_is_open()
                Display().verbosity = 0  # what it would say went through this run
                self._watch(main, identity, file, lease)
        finally:
            os._exit(0)

    def _watch(self, main: int, identity: str, file: str, lease: int) -> None:
        mine, lock = f"grep -qsF {shlex.quote(identity)} {shlex.quote(file)}", shlex.quote(file)
        began, renewed, is_told = started(main), time.monotonic(), False
        renew_at = renewed + lease / 3
        while is_alive(main, began):
            time.sleep(_LOOK_EVERY)
            now = time.monotonic()
            if now < renew_at:
                continue
            renew_at = now + lease / 3
            code, reason = self._tell(f"if {mine}; then touch {lock}; else exit {_LOST}; fi")
            if code == 0:
                renewed, is_told = time.monotonic(), False
            elif code == _LOST:
                say(main, f"The lock {file} of the host is no longer this run's, which stops here. Run it again.")
                os.kill(main, signal.SIGINT)  # it slept for longer than its lease: another one may have begun
                return
            elif time.monotonic() - renewed > lease and not is_told:
                say(
                    main,
                    f"The lock {file} of the host has not been renewed for {lease} s, so that another run may begin "
                    f"there: {reason}",
                )
                is_told = True
        self._tell(f"if {mine}; then rm -f {lock}; fi")

    def _tell(self, command: str) -> tuple[int, str]:
        """The exit code on the host, and what was said; -1 where there is no way to the host."""
        try:
            ended = self._low_level_execute_command(command)
            return int(ended["rc"]), str(ended["stderr"]).strip()
        except Exception as problem:  # noqa: BLE001 - whatever the way has: it is tried again, or the lease ends
            return -1, str(problem)


def close_what_is_open() -> None:
    """Close what belongs to the run, except what multiprocessing's resource tracker is told.

    ansible-core hands a password to ssh in shared memory, which Python 3.12 and older announce there.
    """
    tracker = getattr(resource_tracker._resource_tracker, "_fd", None) or 2
    os.closerange(3, tracker)
    os.closerange(tracker + 1, _MOST_OPEN)


def who_asks(main: int, purpose: str) -> dict[str, Any]:
    """This run, as the next one is told."""
    place, began = where(), started(main)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{place or uuid.uuid4()} {socket.gethostname()} {main} {began}")),
        "who": f"{_user()} on {socket.gethostname()} (process {main})",
        "purpose": purpose,
        "since": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
        "place": place,
        "pid": main,
        "started": began,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.getuid())


def where() -> str:
    """Where process ids mean what they mean here: this boot of a kernel, this namespace. Empty where nobody knows."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def started(pid: int) -> str:
    """When a process started, in the kernel's own count; empty when it is gone, or nobody knows."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def is_alive(pid: int, began: str) -> bool:
    """Whether the process that started then goes on."""
    if began:
        return started(pid) == began
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def has_ended(holder: Mapping[str, Any]) -> bool:
    """Whether a run is known to be over: it was one of this very machine, and is no more."""
    place, began = holder.get("place"), holder.get("started")
    return bool(place and began) and place == where() and started(int(holder.get("pid") or 0)) != began


def say(main: int, text: str) -> None:
    """Say it where the run speaks."""
    with contextlib.suppress(OSError), open(f"/proc/{main}/fd/2", "a", encoding="utf-8") as terminal:
        terminal.write(f"{text}\n")


def words(holder: Mapping[str, Any]) -> str:
    """Who that is."""
    return f"{holder['purpose']} by {holder['who']}, since {holder['since']}"


def refusal(holder: Mapping[str, Any], heard: float, lease: int) -> str:
    """Why not, and what to do."""
    return (
        f"Another run changes this host: {words(holder)}; it was last heard of {max(heard, 0):.0f} s ago. This run has "
        f"touched nothing. Run it again when that one has ended. (One that was killed lets go within {lease} s.)"
    )
