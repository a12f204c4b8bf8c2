#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""The host's half of the action run_lock (plugins/action/): takes the lock, or says who has it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: run_lock
short_description: Let one run at a time change a host
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Takes the lock of the host for the rest of the run of ansible-playbook, or waits for it, or fails and says who has
    it.
  - A process beside the run on the controller renews it, and gives it back as soon as the run has ended, however that
    was. Should it be killed as well, or the way to the host be lost, the lock ends by itself after O(lease) seconds; on
    the controller that had it, the next run takes it at once.
  - The same run may take it more than once.
options:
  purpose:
    description: What the run is for, as another one is told.
    type: str
    required: true
  file:
    description: The lock, on a file system that a reboot empties.
    type: path
    default: /run/trollllm-gateway.lock
  patience:
    description: Seconds to wait for another run.
    type: int
    default: 45
  lease:
    description: Seconds after which a lock ends that nobody renews.
    type: int
    default: 30
  run:
    description: Who wants it; set by the action.
    type: dict
  ended:
    description: The identity of a run that has ended, as the action found out.
    type: str
    default: ""
attributes:
  check_mode:
    description: Does nothing in check mode, in which a run changes nothing.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Let no other run in meanwhile
  trollllm.gateway.run_lock:
    purpose: site.yml
"""

RETURN = r"""
holder:
  description: Who has the lock now, with C(who), C(purpose), C(since) and C(place).
  type: dict
  returned: always
taken:
  description: Whether that is the run that asked.
  type: bool
  returned: always
renewed:
  description: Whether the run that asked had it before.
  type: bool
  returned: when it is taken
heard:
  description: Seconds since the holder was last heard of.
  type: float
  returned: when another run has it
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ansible.module_utils.basic import AnsibleModule


@contextmanager
def alone(path: str) -> Iterator[TextIO]:
    """The file, which nobody else reads or writes meanwhile."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                is_there = os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:
                is_there = False
            if is_there:  # else it was given back, and removed, since it was opened
                yield file
                return


def read(file: TextIO) -> dict[str, Any]:
    """Who is noted in it. A file that says nothing, as that of a run that was killed while it wrote, holds nothing."""
    try:
        holder = json.loads(file.read())
        return holder if isinstance(holder, dict) and {"id", "who", "purpose", "since"} <= holder.keys() else {}
    except ValueError:
        return {}


def take(path: str, run: dict[str, Any], lease: int, ended: str) -> dict[str, Any]:
    """Note who asks, unless another run is noted that goes on."""
    with alone(path) as file:
        heard = time.time() - os.fstat(file.fileno()).st_mtime
        holder = read(file)
        if holder and holder["id"] not in (run["id"], ended) and abs(heard) <= lease:
            return {"taken": False, "holder": holder, "heard": round(heard, 1)}
        is_renewed = bool(holder) and holder["id"] == run["id"]
        if not is_renewed:
            file.seek(0)
            file.truncate()
            file.write(json.dumps(run))
            file.flush()
        os.utime(path)
        return {"taken": True, "holder": run, "renewed": is_renewed}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "purpose": {"type": "str", "required": True},
            "file": {"type": "path", "default": "/run/trollllm-gateway.lock"},
            "patience": {"type": "int", "default": 45},
            "lease": {"type": "int", "default": 30},
            "run": {"type": "dict"},
            "ended": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    if not given["run"]:
        module.fail_json(msg="run_lock starts on the controller; run it from a playbook with the collection")
    try:
        told = take(given["file"], given["run"], given["lease"], given["ended"])
    except OSError as problem:
        module.fail_json(msg=f"the lock {given['file']} cannot be taken: {problem}; become root")
        return
    module.exit_json(changed=False, **told)


if __name__ == "__main__":
    main()
