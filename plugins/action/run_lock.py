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
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_LOOK_EVERY = 0.2
_ASK_EVERY = 1.0
_LOST = 3


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
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                Display().verbosity = 0  # what it would say went through this run
                self._watch(main, identity, file, lease)
        finally:
            os._exit(0)

    def _watch(self, main: int, identity: str, file: str, lease: int) -> None:
        mine, lock = f"grep -qsF {shlex.quote(identity)} {shlex.quote(file)}", shlex.quote(file)
        began, renew_at = started(main), time.monotonic() + lease / 3
        while is_alive(main, began):
            time.sleep(_LOOK_EVERY)
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + lease / 3
                if self._tell(f"if {mine}; then touch {lock}; else exit {_LOST}; fi") == _LOST:
                    stop(main, file)
                    return
        self._tell(f"if {mine}; then rm -f {lock}; fi")

    def _tell(self, command: str) -> int:
        try:
            return int(self._low_level_execute_command(command)["rc"])
        except Exception:  # noqa: BLE001 - whatever the way to the host has: it is tried again, or the lease ends
            return -1


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


def stop(main: int, file: str) -> None:
    """End a run that slept for longer than its lease, so that another one may have begun; say so where it speaks."""
    with contextlib.suppress(OSError), open(f"/proc/{main}/fd/2", "w", encoding="utf-8") as terminal:
        terminal.write(f"The lock {file} of the host is no longer this run's, which stops here. Run it again.\n")
    os.kill(main, signal.SIGINT)


def words(holder: Mapping[str, Any]) -> str:
    """Who that is."""
    return f"{holder['purpose']} by {holder['who']}, since {holder['since']}"


def refusal(holder: Mapping[str, Any], heard: float, lease: int) -> str:
    """Why not, and what to do."""
    return (
        f"Another run changes this host: {words(holder)}; it was last heard of {max(heard, 0):.0f} s ago. This run has "
        f"touched nothing. Run it again when that one has ended. (One that was killed lets go within {lease} s.)"
    )
