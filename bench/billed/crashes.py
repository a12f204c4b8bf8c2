"""The journal's process is killed at its system calls: what of what it promised is lost, or there twice?"""

from __future__ import annotations

import asyncio

from billed.report import Findings
from tests.crash.sweep import sweep


async def measure(points: int) -> Findings:
    """So many kills.

    Raises:
        NoStrace: there is no strace, which kills.
    """
    findings = Findings()
    found = await asyncio.to_thread(sweep, points)
    findings.count("billing.crash_points", found.points)
    findings.must_be_zero("billing.crash_lost_rows", found.lost)
    findings.must_be_zero("billing.crash_doubled_rows", found.doubled)
    if found.leases_off:
        findings.wrong(f"{found.leases_off} leases are not what was noted last")
    findings.note("billing.crash_points_at", dict(found.at))
    return findings
