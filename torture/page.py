"""Write the fault matrix into docs/reliability.md, from the kinds of fault that are injected.

PYTHONPATH=proxy_app:bench .venv/bin/python -m torture.page [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from torture.faults import GROUPS, processes, reaching

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- matrix: begin (made by torture/page.py) -->\n", "<!-- matrix: end -->\n"


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
    """The page with the matrix as it is now."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}\n{matrix()}\n{_END}{after}"


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
