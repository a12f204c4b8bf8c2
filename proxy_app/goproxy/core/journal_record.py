"""The journal's records, and how they are framed: `<CRC-32 of the JSON, 8 hex digits> <compact JSON>`, a line each.

The JSON is ASCII without line breaks, so that a reader that meets damage finds its feet at the next line, and mostly
sooner. Nothing here opens a file: see data_plane/journal_directory.py for that, and journal_state.py for what records
mean.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from mmap import mmap
from typing import Any

from goproxy.core.compact_json import compact
from goproxy.core.ledger import Hold, InvalidRow, Row
from goproxy.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a segment: so many records follow that say all that was true when it began."""

    records: int


@dataclass(frozen=True, slots=True)
class Synced:
    """The head of each later write: what stands before it was on the disk by then, so that a gap in that is damage."""


@dataclass(frozen=True, slots=True)
class Started:
    """A process took the journal over."""

    instance: str
    """Whom the control plane lends to. Another one than before was lent nothing yet."""
    number: int
    """Ascends by one with each start."""


@dataclass(slots=True)  # not frozen: that makes one several times as dear, for each request
class Opened:
    """A request may be sent to the upstream from here on."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Voided:
    """It was not sent after all: there will be no row."""

    id: str


@dataclass(frozen=True, slots=True)
class Progressed:
    """What an open request has used so far; the last one counts."""

    id: str
    usage: Usage
    terms: str | None = None
    """On which it is served (terms.py). None: as its hold says."""


@dataclass(slots=True)  # as before
class Settled:
    """A request is over, and this is its row."""

    row: Row


@dataclass(frozen=True, slots=True)
class Posted:
    """The control plane has these rows."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leased:
    """What the instance was lent of a wallet in all, in nano-dollars."""

    wallet: str
    granted_total: int
    spent_by_posted: int | None = None
    """What of it was spent by rows that are posted, and so in no record any more. Only told in checkpoints."""


Record = Checkpoint | Synced | Started | Opened | Voided | Progressed | Settled | Posted | Leased


class UnreadableRecord(ValueError):
    """A line that is no record."""


_ROW_BEGINS = b'{"kind":"settle","row":'
_CHECKSUM = 9  # characters, with the space


def encode(record: Record) -> bytes:
    """The line of a record, with its line break."""
    body = compact(_document(record))
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Record:
    """The record of a line, which is given without its line break.

    Raises:
        UnreadableRecord: there is none in it.
    """
    if not _is_whole(line):
        raise UnreadableRecord("the checksum is wrong")
    try:
        return _record(json.loads(line[_CHECKSUM:]))
    except (KeyError, TypeError, ValueError, InvalidRow, RecursionError) as error:
        raise UnreadableRecord(f"the checksum is right and the content is not: {error}") from None


def row_document(line: bytes) -> bytes:
    """The JSON of the row in the line of a `Settled`, as it stands there."""
    assert line.startswith(_ROW_BEGINS, _CHECKSUM)
    return line[_CHECKSUM + len(_ROW_BEGINS) : -2]


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that should have been records."""

    offset: int
    length: int


class Reader:
    """Reads the content of a segment; what is damaged or torn in it is known when all records are out."""

    def __init__(self, content: bytes | mmap) -> None:
        self._content = content
        self.damaged: list[Damage] = []
        """What was whole once and is not any more."""
        self.torn: list[Damage] = []
        """What the last write did not bring to the disk. It was not acknowledged. (Damage that hits the last write
        looks the same; its whole records are read in any case.)"""

    def __iter__(self) -> Iterator[tuple[Record, bytes]]:
        """Each record with its line."""
        self.damaged, self.torn = [], []
        end = _written(self._content)
        at, in_head, has_checkpoint = 0, 1, False
        while at < end:
            stop = self._content.find(b"\n", at, end)
            stop = end if stop < 0 else stop
            line = self._content[at:stop]
            try:
                found = [(decode(line), line + b"\n")]
            except UnreadableRecord:
                found = list(_salvage(line))
                if not found or stop < end:
                    is_synced = in_head > 0  # a head is, before its segment has a name
                    (self.damaged if is_synced else self.torn).append(Damage(at, len(line)))
            for record, whole in found:
                match record:
                    case Checkpoint(records):
                        in_head, has_checkpoint = 1 + records, True
                    case Synced():
                        self.damaged, self.torn = self.damaged + self.torn, []
                yield record, whole
            at, in_head = stop + 1, in_head - 1
        if not self.damaged and (in_head > 0 or not has_checkpoint):  # the rest of the head, or all of it
            self.damaged.append(Damage(end, len(self._content) - end))


def _written(content: bytes | mmap) -> int:
    """How much of a segment was written to, which is allocated before that; without a copy of it."""
    end = len(content)
    while end and not (kept := content[max(0, end - _LOOK) : end].rstrip(b"\0")):
        end -= min(end, _LOOK)
    return end and max(0, end - _LOOK) + len(kept)


_LOOK = 64 * 1024
_BEGINNING = re.compile(rb"[0-9a-f]{8} \{")


def _salvage(line: bytes) -> Iterator[tuple[Record, bytes]]:
    """The records that are whole in a line that is none: where a line break was hit, two stand in one line."""
    begins = [match.start() for match in _BEGINNING.finditer(line)]
    for begin, following in pairwise([*begins, len(line) + 1]):
        for part in (line[begin : following - 1], line[begin : following - 2]):
            try:
                record = decode(part)
            except UnreadableRecord:
                continue
            yield record, part + b"\n"
            break


def _is_whole(line: bytes) -> bool:
    return line[:_CHECKSUM] == b"%08x " % zlib.crc32(line[_CHECKSUM:])


def _document(record: Record) -> dict[str, Any]:
    if isinstance(record, Settled):  # these two are told of every request
        return {"kind": "settle", "row": record.row}
    if isinstance(record, Opened):
        return {"kind": "open", "hold": record.hold}
    match record:
        case Checkpoint(records=records):
            return {"kind": "checkpoint", "records": records}
        case Synced():
            return {"kind": "synced"}
        case Started(instance=instance, number=number):
            return {"kind": "start", "instance": instance, "number": number}
        case Voided(id=id_):
            return {"kind": "void", "id": id_}
        case Progressed(id=id_, usage=usage, terms=terms):
            document = {"kind": "progress", "id": id_, "usage": usage}
            return document if terms is None else document | {"terms": terms}
        case Posted(ids=ids):
            return {"kind": "posted", "ids": list(ids)}
        case Leased(wallet=wallet, granted_total=granted_total, spent_by_posted=spent_by_posted):
            document = {"kind": "lease", "wallet": wallet, "granted_total": granted_total}
            return document if spent_by_posted is None else document | {"spent_by_posted": spent_by_posted}


def _record(document: Any) -> Record:
    match document:
        case {"kind": "checkpoint", "records": int(records)}:
            return Checkpoint(records)
        case {"kind": "synced"}:
            return Synced()
        case {"kind": "start", "instance": str(instance), "number": int(number)}:
            return Started(instance, number)
        case {"kind": "open", "hold": hold}:
            return Opened(Hold.from_json(hold))
        case {"kind": "void", "id": str(id_)}:
            return Voided(id_)
        case {"kind": "progress", "id": str(id_), "usage": usage}:
            return Progressed(id_, Usage.from_json(usage), document.get("terms"))
        case {"kind": "settle", "row": row}:
            return Settled(Row.from_json(row))
        case {"kind": "posted", "ids": list(ids)}:
            return Posted(tuple(map(str, ids)))
        case {"kind": "lease", "wallet": str(wallet), "granted_total": int(granted_total)}:
            return Leased(wallet, granted_total, document.get("spent_by_posted"))
    raise UnreadableRecord("it is of no kind that is known")
