"""A program that keeps a journal, and says on standard output what it relies on, at the moment when it may.

Every line is one system call, so that the last one tells exactly how far a process came that was killed.

    opening ID          opened ID           it asks for a hold; the hold may be relied on
    refused ID                              there is no hold
    voiding ID                              the hold is not needed
    settling ID COST    settled ID COST     it asks for a row; the row may be relied on
    posted ID COST                          the control plane has the row
    lent TOTAL                              the control plane lends so much in all
    returning TOTAL     returned TOTAL      it asks to note a lower total; the control plane may be told
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from goproxy.core.ledger import Hold
from goproxy.core.usage import Usage
from goproxy.data_plane.journal import Journal, JournalUnwritable
from tests.bookkeeping import a_hold, a_row

SEGMENT_BYTES = 6 * 1024
LEFT_OPEN = 2
"""Requests that a run leaves open when it ends in peace."""


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Life:
    """One run."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name
        self._count = 0

    async def live(self, rounds: int) -> None:
        recovered = await self._journal.start()
        say("started", recovered.instance, recovered.start)
        total = recovered.granted_totals.get("alice", 0)
        for hold, progress in recovered.holds:
            await self._settle(hold, 7 if progress is None else 70 + progress.output)
        for id_, row in recovered.unposted.items():
            self._post(id_, row.cost)
        for turn in range(rounds):
            total += 5000
            say("lent", total)
            lease = self._journal.lease("alice", total)
            holds = [hold for hold in await asyncio.gather(*(self._open() for _ in range(3))) if hold]
            for hold in holds:
                self._journal.progress(hold.id, Usage(output=turn), "")
            if turn % 3 == 0 and holds:
                say("voiding", holds[0].id)
                self._journal.void(holds.pop(0).id)
            if turn < rounds - 1 or len(holds) > LEFT_OPEN:
                await asyncio.gather(*(self._settle(hold, 100 + turn) for hold in holds))
            if turn % 4 == 3:
                await lease
                total -= 3000
                say("returning", total)
                await self._journal.lease("alice", total)
                say("returned", total)
        await self._journal.close()

    async def _open(self) -> Hold | None:
        """Open a request; while the journal cannot be written, try with another one."""
        while True:
            self._count += 1
            hold = a_hold(f"req_{self._name}_{self._count}", 1000)
            say("opening", hold.id)
            try:
                await self._journal.open(hold)
            except JournalUnwritable:
                say("refused", hold.id)
                await asyncio.sleep(0.05)
                continue
            say("opened", hold.id)
            return hold

    async def _settle(self, hold: Hold, cost: int) -> None:
        say("settling", hold.id, cost)
        await self._journal.settle(a_row(hold, cost))
        say("settled", hold.id, cost)
        if not hold.id.endswith("5"):
            self._post(hold.id, cost)

    def _post(self, id_: str, cost: int) -> None:
        say("posted", id_, cost)
        self._journal.posted([id_])


def main() -> None:
    directory, name, rounds = sys.argv[1:]
    asyncio.run(Life(Journal(Path(directory), segment_bytes=SEGMENT_BYTES), name).live(int(rounds)))
    say("ended")


if __name__ == "__main__":
    main()
