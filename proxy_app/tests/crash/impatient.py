"""`goproxy serve` that waits for no sync of its journal: what test_sync_before_send.py must see.

python -m tests.crash.impatient serve
"""

from __future__ import annotations

import asyncio
import sys

from goproxy.cli import main
from goproxy.core.journal_record import Opened, Settled, encode
from goproxy.core.ledger import Hold, Row
from goproxy.data_plane.journal import Journal, Told


async def _open(journal: Journal, hold: Hold) -> None:
    journal._put(Opened(hold))


def _settle(journal: Journal, row: Row, told: Told | None = None) -> asyncio.Future[bytes]:
    journal._put(Settled(row))
    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    done.set_result(encode(Settled(row)))
    if told is not None:
        done.add_done_callback(told)
    return done


if __name__ == "__main__":
    Journal.open = _open  # type: ignore[assignment, method-assign]
    Journal.settle = _settle  # type: ignore[assignment, method-assign]
    sys.exit(main())
