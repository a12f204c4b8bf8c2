"""Write two tables into docs/reliability.md: the figures that were recorded, and the kinds of fault that are injected.

PYTHONPATH=proxy_app:bench .venv/bin/python -m torture.page [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torture import record
from torture.faults import GROUPS, processes, reaching
from torture.run import MUST_BE_EQUAL, MUST_BE_ZERO, PARTS

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"


def figures(recorded: Mapping[str, Any]) -> str:
    """The table: what was measured of each part, and how to repeat it."""
    return "".join(
        ["| figure | measured | must be | when, and of which commit |\n|---|---:|---|---|\n", *_found(recorded)]
    )


def _found(recorded: Mapping[str, Any]) -> Iterator[str]:
    values: Mapping[str, int | float] = recorded.get("figures", {})
    for part in PARTS:
        command = f"`make torture ONLY={part}`"
        about = recorded.get("parts", {}).get(part)
        if about is None:
            yield f"| {command} | | | not measured as a whole yet |\n"
            continue
        yield f"| {command} | {about['seconds']:,.0f} s | | {about['date'][:10]}, `{_short(about['commit'])}` |\n"
        for name, value in values.items():
            if record.part_of(name) == part:
                yield f"| {name} | {value:,} | {_due(name)} | |\n"


def _short(commit: str | None) -> str:
    """Seven digits of it, and whether files differed from it."""
    digits, mark, dirty = (commit or "?").partition("-")
    return digits[:7] + mark + dirty


def _due(name: str) -> str:
    if name in MUST_BE_ZERO:
        return "0"
    return MUST_BE_EQUAL.get(name, "")


def matrix() -> str:
    """The table: what goes wrong, what the client gets, what is billed."""
    return "".join(
        ["| row | what goes wrong | what the client gets | what is billed |\n|---|---|---|---|\n", *_lines()]
    )


def _lines() -> Iterator[str]:
    ways = [kind for kind, _ in (*reaching.BY_SETTING, *reaching.BY_NAME)]
    rows = [
        *((kind.row, kind.name, kind.happens, str(kind.billed)) for kinds in GROUPS.values() for kind in kinds),
        *((kind.row, kind.name, kind.happens, str(kind.billed)) for kind in ways),
        *((each.row, each.name, each.happens, each.billed) for each in processes.HAPPENINGS),
    ]
    for cells in sorted(rows, key=lambda cells: ("UCP".index(cells[0][0]), int(cells[0][1:]))):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n"


def written(page: str) -> str:
    """The page with both tables as they are now."""
    for name, source, table in (
        ("figures", "from figures/reliability.json ", figures(record.read(record.PATH))),
        ("matrix", "", matrix()),
    ):
        begin, end = f"<!-- {name}: begin (made {source}by torture/page.py) -->\n", f"<!-- {name}: end -->\n"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return page


def main() -> int:
    """Write the page, or see that it is written."""
    page = PAGE.read_text()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(written(page))
    elif written(page) != page:
        print("docs/reliability.md is not what torture/page.py writes; run it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
