"""Journal and store are killed at their system calls: what of what they promised is lost, or there twice?"""

from __future__ import annotations

import asyncio

from billed.report import Findings
from tests.crash.store_sweep import store_sweep
from tests.crash.sweep import sweep


async def measure(points: int) -> Findings:
    """So many kills of the journal, and a third as many of the store, whose lives are longer.

    Raises:
        NoStrace: there is no strace, which kills.
    """
    findings = Findings()
    journal = await asyncio.to_thread(sweep, points)
    store = await asyncio.to_thread(store_sweep, max(1, points // 3))
    findings.count("billing.crash_points", journal.points + store.points)
    findings.must_be_zero("billing.crash_lost_rows", journal.lost + len(store.lost))
    findings.must_be_zero("billing.crash_doubled_rows", journal.doubled + len(store.doubled))
    if journal.leases_off:
        findings.wrong(f"{journal.leases_off} leases are not what was noted last")
    if store.unbalanced:
        findings.wrong(f"the store does not add up: {store.unbalanced[0]}")
    findings.note("billing.crash_points_at", {"journal": dict(journal.at), "store": dict(store.at)})
    return findings
