"""What keeps the ledger honest and safe: rerate, reconcile, back up, restore. Operations of the admin API."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from decimal import Decimal
from functools import partial
from typing import IO

from aiohttp import web
from sqlalchemy import RowMapping

from goproxy.control_plane import names, request_reading, schemas
from goproxy.control_plane.answers import NotServed
from goproxy.control_plane.operations import Call
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.store import backup, rows
from goproxy.core import ledger
from goproxy.core.reconcile import Booked, ExportLine, InvalidExport, read_export, reconcile
from goproxy.core.usage import KINDS, Usage
from goproxy.observe import log

GZIP = "application/gzip"

_EXPORT_LIMIT = 64 * 1024 * 1024
"""Bytes of a provider's export."""

_RECONCILED_ROWS = 200_000
"""Rows that are held against an export at once: they are in memory."""

_BACKUP_LIMIT = 64 * 1024**3
_PIECE = 256 * 1024
_SHOWN = 100
"""Differences that a rerating tells."""

_LISTED = 1000
"""The same of a reconciliation, in each of its lists: nobody reads more, and the event loop would write it out."""

_AT_ONCE = 500
"""Rows whose corrections are written in one transaction."""


class Upkeep:
    """The operations, on one control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._store = plane.database

    async def rerate(self, call: Call) -> schemas.Rerated:
        """Price rows again by the price book as it stands now; tell the differences, or apply them.

        Each row keeps its cost as it was settled, beside an adjustment. The difference goes to its wallets, each with
        a row of the ledger of its own. Applied twice, the second time finds nothing. The multiplier `as_billed` is the
        row's own, or that of its last correction; a row that was `unpriced` had none, and gets today's.
        """
        asked: schemas.RerateAsked = call.body
        chosen = await names.resolved(self._plane, asked.chosen)

        def rated(row: ledger.Row) -> ledger.Row | None:
            return self._rated(row, asked.multiplier)

        told = schemas.Rerated(
            rows=0, differing=0, unpriced=0, difference_nanodollars=0, applied=asked.apply, differences=[]
        )
        async for records in self._store.read_in_steps("rerate", lambda s, after: rows.step(s, chosen, after)):
            corrections, unpriced = await asyncio.to_thread(rows.corrections_of, records, rated)
            if asked.apply:
                corrections = await self._apply(corrections, rated)
            corrections = [each for each in corrections if each.difference]
            told.rows += len(records)
            told.unpriced += unpriced
            told.differing += len(corrections)
            told.difference_nanodollars += sum(each.difference for each in corrections)
            told.differences += [_rerated(each) for each in corrections[: _SHOWN - len(told.differences)]]
        if told.rows == 0:
            await names.check_nothing_found(self._plane, chosen)
        return told

    async def _apply(self, corrections: Sequence[rows.Correction], rated: rows.Rate) -> list[rows.Correction]:
        """Write corrections down, some at a time; those that it still came to."""
        applied: list[rows.Correction] = []
        for begin in range(0, len(corrections), _AT_ONCE):
            ids = [each.row.id for each in corrections[begin : begin + _AT_ONCE]]
            applied += await self._store.run("apply rerate", partial(rows.correct, ids=ids, rated=rated))
        return applied

    async def reconcile(self, call: Call) -> schemas.Reconciled:
        """Hold the rows of an upstream against the provider's own record, by request id and kind of token.

        The body is the provider's export: CSV with a header line, or JSON, a list of objects; a column `request_id`
        (or `upstream_request_id`, or `id`), and columns that count tokens.
        """
        asked: schemas.ReconcileAsked = call.query
        await names.check_choice(self._plane, upstream=asked.upstream)
        try:
            export = await asyncio.to_thread(read_export, await request_reading.body_of(call.request, _EXPORT_LIMIT))
        except InvalidExport as problem:
            raise NotServed(400, f"the export: {problem}") from None
        chosen = rows.Chosen(upstream=asked.upstream, since=asked.since, until=asked.until)
        found: list[Booked] = []
        async for records in self._store.read_in_steps("reconcile", lambda s, after: rows.booked(s, chosen, after)):
            found += map(_booked, records)
            if len(found) > _RECONCILED_ROWS:
                raise NotServed(400, f"these are more than {_RECONCILED_ROWS} rows: choose fewer days")
        return await asyncio.to_thread(_reconciled, found, export)

    async def make_backup(self, call: Call) -> web.StreamResponse:
        """A copy of the whole store, as gzipped lines of JSON.

        It is of one moment, and everything goes on meanwhile. Of SQLite a copy is made first, beside it: the disk must
        have room for that.
        """
        with self._spool() as file:
            with _room():
                await self._store.at_one_moment("back up", lambda store: backup.dump(store, file))
                file.flush()
            answer = web.StreamResponse(headers={"Content-Type": GZIP, "Content-Length": str(file.tell())})
            await answer.prepare(call.request)
            file.seek(0)
            while piece := await asyncio.to_thread(file.read, _PIECE):
                await answer.write(piece)
            await answer.write_eof()
        return answer

    async def restore_backup(self, call: Call) -> schemas.Restored:
        """Put a backup in the place of what is stored. What the inventory declares is applied to it at once.

        Refused when there is something stored already, unless `replace` is true. Once the whole backup has come, it is
        restored whether somebody waits for the answer or not.
        """
        asked: schemas.RestoreAsked = call.query
        with ExitStack() as spooled:
            file = spooled.enter_context(self._spool())
            async for piece in request_reading.pieces_of_body(call.request, _BACKUP_LIMIT):
                with _room():
                    await asyncio.to_thread(file.write, piece)
            with _room():
                file.flush()
            # The file goes with the work: closed by a client that leaves, it would be a damaged backup.
            return await self._plane.see_through(self._restore(file, spooled.pop_all(), replace=asked.replace))

    async def _restore(self, file: IO[bytes], spooled: ExitStack, *, replace: bool) -> schemas.Restored:
        with spooled:
            file.seek(0)
            records = await asyncio.to_thread(backup.check, file)
            await self._plane.restore(lambda store: backup.restore(store, file, replace=replace))
        log("restored a backup", records=records)
        return schemas.Restored(records=records)

    def _rated(self, row: ledger.Row, multiplier: str) -> ledger.Row | None:
        config = self._plane.catalogue.config_of(row.upstream)
        model = None if config is None else config.models_by_name.get(row.model)
        if model is None:
            return None
        if multiplier == "as_billed" and "unpriced" not in row.flags:  # its 1 is no multiplier that anyone gave
            return ledger.rerate(row, model.prices)
        if multiplier in ("as_billed", "current"):
            return ledger.rerate(row, model.prices, model.billing_multiplier)
        return ledger.rerate(row, model.prices, Decimal(multiplier))

    @contextmanager
    def _spool(self) -> Iterator[IO[bytes]]:
        """A file for what is too much for the memory: beside the database, or where TMPDIR says."""
        with _room():
            file = tempfile.TemporaryFile(dir=self._store.directory)  # noqa: SIM115 - closed below
        try:
            yield file
        finally:
            with suppress(OSError):  # what could not be written is not missed any more
                file.close()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotServed(503, f"the copy cannot be written here: {error.strerror}") from None


def _booked(record: RowMapping) -> Booked:
    usage = Usage(**{kind: record[kind] for kind in KINDS})
    return Booked(record["id"], record["upstream_request_id"], usage)


def _reconciled(found: Sequence[Booked], export: Sequence[ExportLine]) -> schemas.Reconciled:
    whole = reconcile(found, export)
    listed = {name: getattr(whole, name)[:_LISTED] for name in schemas.LeftOut.model_fields}
    left_out = {name: len(getattr(whole, name)) - len(shown) for name, shown in listed.items()}
    return schemas.Reconciled.model_validate(asdict(replace(whole, **listed)) | {"left_out": left_out})


def _rerated(correction: rows.Correction) -> schemas.RowRerated:
    row = correction.row
    return schemas.RowRerated(
        id=row.id,
        account=row.account,
        before_nanodollars=correction.before,
        after_nanodollars=row.cost_nanodollars,
    )
