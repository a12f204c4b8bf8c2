"""Rows on their way from the journal to the control plane: in batches, each until it is acknowledged."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from goproxy.core.journal_record import row_document
from goproxy.core.journal_state import Unposted
from goproxy.core.lease import spent_by_wallet
from goproxy.core.ledger import ROWS_PER_POST
from goproxy.data_plane.control_client import BackOff, ControlClient, ControlPlaneAway, ControlPlaneRefuses
from goproxy.data_plane.journal import Journal
from goproxy.observe import log

_EVERY = 0.2
"""Seconds that a row waits for others."""

_AT_ONCE = 200
"""Rows that do not wait."""

_SET_ASIDE = 60.0
_SET_ASIDE_LONGEST = 3600.0
"""Seconds until a row that the control plane does not take is tried again, at first and at most: another version may
take it."""

_TELL_AGAIN = 3600.0
"""Seconds between two lines about rows that are still not taken."""

_ABOUT_US = (401, 403, 404, 409)
"""Refusals that are not about the rows."""


@dataclass(frozen=True, slots=True)
class _SetAside:
    """A row that the control plane did not take."""

    reason: str
    pause: float
    until: float


class RowPost:
    """The rows that are on the disk here and not in the control plane yet."""

    def __init__(self, journal: Journal, control: ControlClient, unposted: Mapping[str, Unposted]) -> None:
        self._journal = journal
        self._control = control
        self._unposted = dict(unposted)
        self._bytes = sum(len(row.line) for row in unposted.values())
        self._set_aside: dict[str, _SetAside] = {}
        self._limit = ROWS_PER_POST
        self._has_some = asyncio.Event()
        self._has_many = asyncio.Event()
        self._now = asyncio.get_running_loop().time
        self._told_at = self._now()
        """When it was last said that rows are still not taken."""
        self._back_off = BackOff("rows")
        self.posting = asyncio.Lock()
        """Held while rows are on their way."""
        if unposted:
            self._has_some.set()

    def __len__(self) -> int:
        return len(self._unposted)

    @property
    def oldest(self) -> str | None:
        """When the row was settled that has waited for longest."""
        first = next(iter(self._unposted.values()), None)
        return None if first is None else str(json.loads(row_document(first.line))["settled_at"])

    @property
    def postable(self) -> int:
        """Rows but those that the control plane rejected a moment ago."""
        return len(self._unposted) - len(self._set_aside)

    @property
    def bytes(self) -> int:
        """Memory that the rows take, roughly."""
        return self._bytes

    @property
    def problem(self) -> str | None:
        """Why the control plane gives no answer at the moment."""
        return self._back_off.problem

    def spent(self) -> Counter[str]:
        """What these rows cost, in nano-dollars, by wallet."""
        return spent_by_wallet((row.wallets, row.cost) for row in self._unposted.values())

    async def post_all(self) -> None:
        """Post the rows that are here now, but for those that the control plane does not take.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses: some are not posted.
        """
        here = set(self._unposted)
        while here.intersection(self._unposted.keys() - self._set_aside.keys()):
            await self.post()

    def add(self, id: str, row: Unposted) -> None:  # noqa: A002 - the request's id, as in a row
        """A row that is on the disk now."""
        self._unposted[id] = row
        self._bytes += len(row.line)
        self._has_some.set()
        if self._is_behind:
            self._has_many.set()

    @property
    def _is_behind(self) -> bool:
        """Whether there are so many that they do not wait for more."""
        return self.postable >= _AT_ONCE

    async def run(self) -> None:
        """Post rows for ever."""
        while True:
            await self._has_some.wait()
            if not self._is_behind:
                self._has_many.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY):
                        await self._has_many.wait()
            try:
                # What came meanwhile waits for others again: a call costs much more than a row of it. A batch that was
                # refused does not.
                while await self.post() and (self._is_behind or self._limit < ROWS_PER_POST):
                    pass
            except (ControlPlaneAway, ControlPlaneRefuses) as error:
                await asyncio.sleep(self._back_off.failed(error))

    async def post(self) -> bool:
        """Post one batch; whether there are more.

        Raises:
            ControlPlaneAway, ControlPlaneRefuses: the rows stay, and are posted again.
        """
        async with self.posting:
            batch = self._batch()
            if not batch:
                return False
            documents = [row_document(self._unposted[id_].line) for id_ in batch]
            try:
                answer = await self._control.post_rows(self._journal.instance, documents)
            except ControlPlaneRefuses as refusal:
                if refusal.status in _ABOUT_US:
                    raise
                self._back_off.succeeded()
                # One row of the batch can be what is refused: the halves of it are tried, down to that row.
                self._limit = max(1, len(batch) // 2)
                if len(batch) == 1:
                    self._put_aside(batch[0], str(refusal))
                return True
            known = set(answer.accepted)
            accepted = [id_ for id_ in batch if id_ in known]
            rejected = {id_: answer.rejected[id_] for id_ in batch if id_ in answer.rejected}
            if not accepted and not rejected:
                raise ControlPlaneAway("it says nothing of the rows that it was sent")
            self._back_off.succeeded()
            for id_ in accepted:
                self._bytes -= len(self._unposted.pop(id_).line)
                self._set_aside.pop(id_, None)
            if accepted:
                self._journal.posted(accepted)
            for id_, reason in rejected.items():
                self._put_aside(id_, reason)
            self._limit = min(2 * self._limit, ROWS_PER_POST)
            return self.postable > 0

    def _batch(self) -> list[str]:
        now = self._now()
        batch = []
        for id_ in self._unposted:
            if id_ not in self._set_aside or self._set_aside[id_].until <= now:
                batch.append(id_)
                if len(batch) == self._limit:
                    break
        if not self._unposted:
            self._has_some.clear()
        return batch

    def _put_aside(self, id_: str, reason: str) -> None:
        now, before = self._now(), self._set_aside.get(id_)
        pause = _SET_ASIDE if before is None else min(2 * before.pause, _SET_ASIDE_LONGEST)
        self._set_aside[id_] = _SetAside(reason, pause, now + pause)
        if before is None or before.reason != reason:
            text = "control plane does not take a row; it is kept"
            log(text, level=logging.ERROR, request_id=id_, reason=reason[:200])
        elif now - self._told_at >= _TELL_AGAIN:
            self._told_at = now
            log("control plane still does not take rows", level=logging.ERROR, rows=len(self._set_aside))
