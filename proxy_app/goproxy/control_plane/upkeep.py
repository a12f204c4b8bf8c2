"""What keeps the ledger honest and safe: rerate, reconcile, back up, restore. Operations of the admin API."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from decimal import Decimal
from typing import IO

from aiohttp import web
from sqlalchemy import Connection

from goproxy.control_plane import asking, documents
from goproxy.control_plane.answers import Refusal
from goproxy.control_plane.operations import Call
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.store import backup, rows
from goproxy.core import ledger
from goproxy.core.reconcile import InvalidExport, read_export, reconcile

GZIP = "application/gzip"

_EXPORT_LIMIT = 64 * 1024 * 1024
"""Bytes of a provider's export."""

_RECONCILED_ROWS = 200_000
"""Rows that are held against an export at once: they are in memory."""

_BACKUP_LIMIT = 64 * 1024**3
_PIECE = 256 * 1024
_SHOWN = 100


class Upkeep:
    """The operations, on one control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._store = plane.database

    async def rerate(self, call: Call) -> documents.Rerated:
        """Price rows again by the price book as it stands now; tell the differences, or apply them.

        Each row keeps its cost as it was settled, beside an adjustment. The difference goes to its wallets, each with
        a row of the ledger of its own. Applied twice, the second time finds nothing.
        """
        asked: documents.RerateAsked = call.body

        def rated(row: ledger.Row) -> ledger.Row | None:
            return self._rated(row, asked.multiplier)

        def page(store: Connection) -> rows.Repriced:
            return rows.rerate(store, asked.chosen, end, rated, apply=asked.apply)

        found = documents.Rerated(
            rows=0, differing=0, unpriced=0, difference_nanodollars=0, applied=asked.apply, differences=[]
        )
        end: rows.Cursor | None = None
        while True:
            priced = await self._store.run("rerate", page)
            found.rows += priced.rows
            found.unpriced += priced.unpriced
            found.differing += len(priced.corrections)
            found.difference_nanodollars += sum(each.difference for each in priced.corrections)
            found.differences += [_rerated(each) for each in priced.corrections[: _SHOWN - len(found.differences)]]
            end = priced.end
            if end is None:
                return found

    async def reconcile(self, call: Call) -> documents.Reconciled:
        """Hold the rows of an upstream against the provider's own record, by request id and kind of token.

        The body is the provider's export: CSV with a header line, or JSON, a list of objects; a column `request_id`,
        and columns that count tokens.
        """
        asked: documents.ReconcileAsked = call.query
        try:
            export = await asyncio.to_thread(read_export, await asking.body_of(call.request, _EXPORT_LIMIT))
        except InvalidExport as problem:
            raise Refusal(400, f"the export: {problem}") from None
        chosen = rows.Chosen(upstream=asked.upstream, since=asked.since, until=asked.until)
        found = await self._store.run("reconcile", lambda store: rows.some(store, chosen, _RECONCILED_ROWS + 1))
        if len(found) > _RECONCILED_ROWS:
            raise Refusal(400, f"these are more than {_RECONCILED_ROWS} rows: choose fewer days")
        return documents.Reconciled.model_validate(asdict(await asyncio.to_thread(reconcile, found, export)))

    async def make_backup(self, call: Call) -> web.StreamResponse:
        """A copy of the whole store, as gzipped lines of JSON.

        It is of one moment. SQLite can take in nothing while it is copied; the proxies bridge that.
        """
        with self._spool() as file:
            with _room():
                await asyncio.to_thread(self._store.transact, "back up", lambda store: backup.dump(store, file))
                file.flush()
            answer = web.StreamResponse(headers={"Content-Type": GZIP, "Content-Length": str(file.tell())})
            await answer.prepare(call.request)
            file.seek(0)
            while piece := await asyncio.to_thread(file.read, _PIECE):
                await answer.write(piece)
            await answer.write_eof()
        return answer

    async def restore_backup(self, call: Call) -> documents.Restored:
        """Put a backup in the place of what is stored.

        Refused when there is something stored already, unless `replace` is true.
        """
        asked: documents.RestoreAsked = call.query
        with self._spool() as file:
            async for piece in asking.pieces_of_body(call.request, _BACKUP_LIMIT):
                with _room():
                    await asyncio.to_thread(file.write, piece)
            with _room():
                file.flush()
            file.seek(0)
            records = await asyncio.to_thread(backup.check, file)
            await self._plane.change_keys("restore", lambda store: backup.restore(store, file, replace=asked.replace))
        return documents.Restored(records=records)

    def _rated(self, row: ledger.Row, multiplier: str) -> ledger.Row | None:
        config = self._plane.catalogue.config_of(row.upstream)
        model = None if config is None else config.models_by_name.get(row.model)
        if model is None:
            return None
        match multiplier:
            case "as_billed":
                return ledger.rerate(row, model.prices)
            case "current":
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
        raise Refusal(503, f"the copy cannot be written here: {error.strerror}") from None


def _rerated(correction: rows.Correction) -> documents.RowRerated:
    row = correction.row
    return documents.RowRerated(
        id=row.id,
        account=row.account,
        before_nanodollars=correction.before,
        after_nanodollars=row.cost_nanodollars,
    )
