"""What goes out at the end of the event loop's turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from goproxy.data_plane.outbox import Outbox
from tests.conftest import Lines


@dataclass
class ASender:
    is_broken: bool = False
    is_sent: bool = False
    is_aborted: bool = False

    def flush(self) -> None:
        if self.is_broken:
            raise RuntimeError("a canary that no log may have")
        self.is_sent = True

    def abort(self) -> None:
        self.is_aborted = True


async def test_one_that_cannot_be_sent_takes_no_other_with_it(lines: Lines) -> None:
    outbox = Outbox()
    senders = [ASender(), ASender(is_broken=True), ASender()]
    for sender in senders:
        outbox.add(sender)
    await asyncio.sleep(0)
    assert [sender.is_sent for sender in senders] == [True, False, True]
    assert [sender.is_aborted for sender in senders] == [False, True, False]
    (line,) = lines.all("what is to be sent cannot be")
    assert (line["level"], line["exception"]) == ("critical", "RuntimeError")
