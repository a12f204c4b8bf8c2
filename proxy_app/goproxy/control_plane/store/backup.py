"""A copy of the whole store, that any database takes back: gzipped lines of JSON.

The first line names the revision of the tables, the last one counts the records of each table and has the SHA-256 of
all lines before it, so that a copy that was cut short is known for one. A copy of an older goproxy is read into the
tables of its time, which are then brought to today's.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

from sqlalchemy import Connection, MetaData, Table, select, text

from goproxy import timestamps
from goproxy.control_plane.store import migrating
from goproxy.control_plane.store.refusals import Conflict
from goproxy.control_plane.store.schema import metadata

_FORMAT = "goproxy backup 1"
_BATCH = 500
_LONGEST_LINE = 64 * 1024 * 1024
_OTHER = "this is no backup of goproxy"


class UnusableBackup(Exception):
    """This is no whole backup, or one of a newer goproxy; the text says which. Nothing was changed."""


def dump(connection: Connection, file: IO[bytes]) -> None:
    """Write a copy of all that is stored, as this transaction sees it."""
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    counts: Counter[str] = Counter()
    seen = hashlib.sha256()
    with gzip.open(file, "wb", compresslevel=6) as out:

        def line(content: dict[str, Any]) -> None:
            written = json.dumps(content, separators=(",", ":")).encode() + b"\n"
            seen.update(written)
            out.write(written)

        line({"format": _FORMAT, "revision": revision, "made_at": timestamps.now()})
        for table in metadata.sorted_tables:
            result = connection.execute(select(table), execution_options={"yield_per": _BATCH})
            for record in result.mappings():
                line({"table": table.name, "record": dict(record)})
                counts[table.name] += 1
        line({"end": True, "records": counts, "sha256": seen.hexdigest()})


def check(file: IO[bytes]) -> dict[str, int]:
    """Read a backup to its end; how many records of each table it has.

    Raises:
        UnusableBackup: it cannot be used.
    """
    lines = _lines(file)
    head = next(lines, {})
    if head.get("format") != _FORMAT:
        raise UnusableBackup(_OTHER)
    if head.get("revision") not in migrating.revisions():
        raise UnusableBackup("a newer goproxy made this backup")
    counts: Counter[str] = Counter()
    for line in lines:
        if "end" in line:
            if line.get("records") != counts:
                break
            return dict(counts)
        counts[str(line.get("table"))] += 1
    raise UnusableBackup("the backup is damaged or was cut short")


def restore(connection: Connection, file: IO[bytes], *, replace: bool) -> None:
    """Put what a checked backup holds in the place of what is stored.

    Raises:
        Conflict: there is something stored, and it is not to be replaced.
    """
    if not replace and any(connection.execute(select(table).limit(1)).first() for table in _precious()):
        raise Conflict("the store is not empty, and replacing what it holds was not asked for")
    file.seek(0)
    lines = _lines(file)
    revision = next(lines)["revision"]
    ours = MetaData()
    ours.reflect(connection, only=lambda name, _: name in metadata.tables or name == "alembic_version")
    ours.drop_all(connection)
    migrating.upgrade(connection, revision)
    then = MetaData()
    then.reflect(connection)
    batch: list[dict[str, Any]] = []
    table: Table | None = None
    for line in lines:
        name = line.get("table")
        if table is not None and (len(batch) == _BATCH or name != table.name):
            connection.execute(table.insert(), batch)
            batch = []
        if name is None:
            break
        table = then.tables[name]
        batch.append(line["record"])
    migrating.upgrade(connection)


def _precious() -> list[Table]:
    return [table for table in metadata.sorted_tables if table.name != "counters"]


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    seen = hashlib.sha256()
    is_one = False
    try:
        with gzip.open(file, "rb") as packed:
            while line := packed.readline(_LONGEST_LINE):
                content = json.loads(line)
                is_one = True
                if not isinstance(content, dict):
                    break
                if "end" in content and content.get("sha256") != seen.hexdigest():
                    break
                seen.update(line)
                yield content
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as problem:
        if not is_one and isinstance(problem, (gzip.BadGzipFile, ValueError)):  # not packed, or no JSON
            raise UnusableBackup(_OTHER) from None
        raise UnusableBackup("the backup is damaged or was cut short") from None
