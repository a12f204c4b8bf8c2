"""The table of status.yml: what was asked of name servers and host, a line per upstream, and what is not well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = ("UPSTREAM", "URL", "RECORD", "CERTIFICATE", "CONTAINER", "IMAGE", "JOURNAL", "PROVIDER")


def status_table(
    upstreams: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], found: Mapping[str, Any]
) -> list[str]:
    """The table's lines: a head, one line per upstream, and one for the backend's store.

    ``records`` are the module dns_answers' records, ``found`` is the module gateway_status' answer by upstream.
    """
    rows = [_HEAD, *(_row(upstream, records, found[upstream["name"]]) for upstream in upstreams)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ["", *lines, *_stores(found)]


def status_problems(found: Mapping[str, Any], differences: Sequence[str] = ()) -> list[str]:
    """What is not well, one sentence each: of the host by upstream, then of the name servers."""
    on_host = [
        f"{name}: {part['problem']}" for name in sorted(found) for part in found[name].values() if part.get("problem")
    ]
    return [*dict.fromkeys(on_host), *differences]


def _row(
    upstream: Mapping[str, Any], records: Sequence[Mapping[str, Any]], found: Mapping[str, Any]
) -> tuple[str, ...]:
    container, provider = found.get("container"), found.get("provider")  # none if the engine does not answer
    return (
        upstream["name"],
        f"https://{upstream['domain']}",
        ", ".join(map(_record, _records_of(upstream, records))) or "none",
        _certificate(found["certificate"]),
        _container(container),
        (container or {}).get("image", "-"),
        _journal(found.get("journal") or {}),
        "unknown" if provider is None else "NOT reachable" if provider.get("problem") else "reachable",
    )


def _container(container: Mapping[str, Any] | None) -> str:
    if container is None:
        return "unknown"
    return f"{container['state']}, {container['health']}" if "state" in container else "missing"


def _journal(journal: Mapping[str, Any]) -> str:
    """Rows that the backend does not have yet, and that the disk does not have."""
    if "unposted_rows" not in journal:
        return "unknown"
    cells = [f"{journal['unposted_rows']} unposted"]
    cells += [f"{journal['unsettled_rows']} not on disk"] if journal["unsettled_rows"] else []
    cells += [] if journal["ready"] else ["NOT ready"]
    return ", ".join(cells)


def _stores(found: Mapping[str, Any]) -> list[str]:
    stores = [(name, parts["store"]) for name, parts in found.items() if "store" in parts]
    return [
        f"{name}: {store['kind']}, {'reachable' if store.get('available') else 'NOT reachable'}"
        for name, store in stores
    ]


def _records_of(upstream: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The domain's records, but the one that shall not be there and is not."""
    return [
        record for record in records if record["name"] == upstream["domain"] and (record["values"] or record["found"])
    ]


def _record(record: Mapping[str, Any]) -> str:
    values = " ".join(record["found"]) or "missing"
    note = f"TTL {record['ttl']}" if record.get("ttl") else ""
    return " ".join(
        filter(None, (record["type"], values, note, "" if record["status"] == "right" else f"({record['status']})"))
    )


def _certificate(certificate: Mapping[str, Any]) -> str:
    if "not_after" not in certificate:
        return "none"
    return f"until {certificate['not_after'][:10]} ({certificate['days_left']} d)"


class FilterModule:
    """Filters of playbooks/status.yml."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"status_table": status_table, "status_problems": status_problems}
