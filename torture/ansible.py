"""A run of site.yml killed at each task that does something: the next one makes up for it, and leaves nothing to do.

A task that only looks leaves things as the one before it did, so a run that is killed there is no other case.
Each time there is something to do in every role (molecule/witness/interruption.py). Streams are open and requests come
all the while, to both upstreams that stay; what any of them noticed is counted. A sample of this, and two runs at once,
are in the Molecule scenario `rollout`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from torture.rollout import a_gateway

sys.path.insert(0, str(Path(__file__).parents[1] / "molecule"))

from witness.crowd import Noticed
from witness.interruption import Interruptions, acting, points

_STREAMS = 4
_GAP = 0.5


def measure(size: float, scratch: Path) -> Mapping[str, int | float]:
    """Do it on a host that is made for it, and removed."""
    with a_gateway(scratch) as gateway:
        interruptions = Interruptions(gateway.operator, scratch)
        runs = [interruptions.tasks(), interruptions.tasks()]  # an upstream comes; it goes
        total, killed, not_converged = Noticed(), 0, 0
        for point in points(runs, size):
            if point is None:
                interruptions.tasks()
                continue
            crowd = gateway.crowd(_STREAMS, _GAP)
            after, noticed = crowd.across(lambda point=point: interruptions.aftermath(point), gateway.is_leaving)  # type: ignore[misc]
            told = "; ".join((*after.problems, *noticed.problems)) or "nobody noticed"
            print(f"{point}, in {after.killed_in or 'no task'}: {told}", file=sys.stderr)
            total += noticed
            killed += bool(after.killed_in)
            not_converged += bool(after.problems)
    return {
        "ansible.tasks": max(map(len, runs)),
        "ansible.acting_tasks": len(set().union(*map(acting, runs))),
        "ansible.kill_points": killed,
        "ansible.not_converged": not_converged,
        "ansible.requests": total.answers.total(),
        "ansible.cut_streams": total.cut_streams,
        "ansible.failed_requests": sum(number for status, number in total.answers.items() if status != "200"),
    }
