"""Holding the ledger against the provider's own record: an export of its usage, as CSV or JSON.

Both sides are brought together by the provider's request id, and compared kind by kind in tokens (money is the
provider's affair: its prices need not be ours). Lines with one id are added up on either side, so that a provider may
split a request over lines, and a request that we had booked twice would differ.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from goproxy.core.usage import Usage, is_count

_ID_COLUMNS = ("request_id", "upstream_request_id", "id")

_COLUMNS: Mapping[str, str] = {
    "input": "input",
    "input_tokens": "input",
    "uncached_input_tokens": "input",
    "cache_write": "cache_write",
    "cache_write_tokens": "cache_write",
    "cache_creation_input_tokens": "cache_write",
    "cache_write_5m": "cache_write_5m",
    "ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_write_1h": "cache_write_1h",
    "ephemeral_1h_input_tokens": "cache_write_1h",
    "cache_read": "cache_read",
    "cache_read_input_tokens": "cache_read",
    "cached_tokens": "cache_read",
    "prompt": "prompt",
    "prompt_tokens": "prompt",
    "output": "output",
    "output_tokens": "output",
    "completion_tokens": "output",
    "reasoning": "reasoning",
    "reasoning_tokens": "reasoning",
    "web_search": "web_search",
    "web_search_requests": "web_search",
}
"""The kind that a column counts: by our own names, and by those of Anthropic's and OpenAI's usage. Where a kind has two
columns, the first one here counts."""

_DIGITS = re.compile(r"\s*[0-9]{1,12}\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")

_MOST_LINES = 500_000
"""They are in memory."""


class InvalidExport(ValueError):
    """An export that cannot be read; the text says where."""


@dataclass(frozen=True, slots=True)
class Booked:
    """What the ledger says of one request, as far as a provider's record can."""

    id: str
    upstream_request_id: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class ExportLine:
    """What a provider's record says of one request: tokens by kind, of those kinds that it has a column for."""

    request_id: str
    tokens: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """A request of which ledger and export say different things."""

    request_id: str
    row_ids: tuple[str, ...]
    ledger: Mapping[str, int]
    export: Mapping[str, int]
    """The kinds that differ, in tokens."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How ledger and export agree. All lists are by the provider's request id, in order."""

    matched: int
    """Requests of which both say the same."""
    differing: tuple[Difference, ...]
    missing: tuple[str, ...]
    """In the export, not in the ledger: used, and charged to nobody."""
    extra: tuple[str, ...]
    """In the ledger with tokens, not in the export: charged, and perhaps not used."""
    unnamed: tuple[str, ...]
    """Our own ids of rows with tokens that carry no request id of the provider."""
    ledger_tokens: Mapping[str, int]
    export_tokens: Mapping[str, int]
    """Sums over everything, of the kinds that the export has."""


def reconcile(rows: Iterable[Booked], export: Iterable[ExportLine]) -> Reconciliation:
    """Compare the rows of a time with the export of the same time."""
    told: dict[str, Counter[str]] = {}
    for line in export:
        told.setdefault(line.request_id, Counter()).update(line.tokens)
    kinds = sorted({kind for tokens in told.values() for kind in tokens})

    booked: dict[str, list[Booked]] = {}
    unnamed = []
    for row in rows:
        if row.upstream_request_id is not None:
            booked.setdefault(row.upstream_request_id, []).append(row)
        elif row.usage != Usage():
            unnamed.append(row)

    counted = {request_id: _counted(group) for request_id, group in booked.items()}
    differing = []
    for request_id in sorted(told.keys() & booked.keys()):
        ours, theirs = counted[request_id], told[request_id]
        different = [kind for kind in theirs if ours[kind] != theirs[kind]]
        if different:
            differing.append(
                Difference(
                    request_id,
                    tuple(row.id for row in booked[request_id]),
                    {kind: ours[kind] for kind in different},
                    {kind: theirs[kind] for kind in different},
                )
            )
    everything = _counted([*unnamed, *(row for group in booked.values() for row in group)])
    return Reconciliation(
        matched=len(told.keys() & booked.keys()) - len(differing),
        differing=tuple(differing),
        missing=tuple(sorted(told.keys() - booked.keys())),
        extra=tuple(sorted(each for each in booked.keys() - told.keys() if any(counted[each].values()))),
        unnamed=tuple(row.id for row in unnamed),
        ledger_tokens={kind: everything[kind] for kind in kinds},
        export_tokens={kind: sum(tokens[kind] for tokens in told.values()) for kind in kinds},
    )


def read_export(data: bytes) -> list[ExportLine]:
    """Read a provider's export.

    CSV with a header line, or JSON: a list of objects, or an object with that list as `data`. A column (or field)
    `request_id` (or `upstream_request_id`, or `id`), and at least one that counts tokens: by our own names (`input`,
    `cache_write_5m`, ...), or by those that Anthropic and OpenAI give them. Other columns are passed over.

    Raises:
        InvalidExport: it is neither, it has no lines, or one has no request id or something that is no count of tokens.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidExport(f"it is not UTF-8 at byte {error.start}") from None
    records = _json_records(text) if text.lstrip()[:1] in ("[", "{") else _csv_records(text)
    lines = []
    for number, record in enumerate(records, 1):
        if number > _MOST_LINES:
            raise InvalidExport(f"it has more than {_MOST_LINES} lines: choose fewer days")
        lines.append(_line(record, number))
    if not lines:  # of a file that is another one, or was not written: everything would be extra
        raise InvalidExport("it has no lines")
    return lines


def _counted(rows: Iterable[Booked]) -> Counter[str]:
    tokens: Counter[str] = Counter()
    for row in rows:
        usage = row.usage
        tokens.update(usage.to_json())
        tokens.update(cache_write=usage.cache_write_5m + usage.cache_write_1h, prompt=usage.prompt)
    return tokens


def _json_records(text: str) -> list[Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidExport("it is not valid JSON") from None
    records = document.get("data") if isinstance(document, dict) else document
    if not isinstance(records, list):
        raise InvalidExport('it must be a list of objects, or an object with that list as "data"')
    return records


def _csv_records(text: str) -> Iterator[Any]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames
        if columns and not {*columns} & {*_ID_COLUMNS}:
            raise InvalidExport(f"it has no column {' or '.join(_ID_COLUMNS)}")
        yield from reader
    except csv.Error as error:
        raise InvalidExport(f"it is not valid CSV: {error}") from None


def _line(record: Any, number: int) -> ExportLine:
    if not isinstance(record, dict):
        raise InvalidExport(f"line {number} is no object")
    request_id = next((record[column] for column in _ID_COLUMNS if record.get(column)), None)
    if not isinstance(request_id, str):
        raise InvalidExport(f"line {number} has no request_id")
    if _SURROGATE.search(request_id):  # JSON can say it, and nobody can be told
        raise InvalidExport(f"line {number} has a request_id that is no text")
    tokens: dict[str, int] = {}
    for column, kind in _COLUMNS.items():
        if kind not in tokens and record.get(column) not in (None, ""):
            tokens[kind] = _count(record[column], column, number)
    if not tokens:
        raise InvalidExport(f"line {number} counts nothing; known columns: {', '.join(_COLUMNS)}")
    return ExportLine(request_id, tokens)


def _count(value: Any, column: str, number: int) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if not is_count(value):
        raise InvalidExport(f"line {number}: {column} is no count of tokens")
    return int(value)
