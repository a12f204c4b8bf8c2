"""Writes the tables and pictures of docs/performance.md from figures/relay.json; with --check nothing is written.

    .venv/bin/python bench/performance.py --check

Exit code 1: with --check a file would change; else the page has no place for the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from relayed.page import wanted

_ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None, root: Path = _ROOT) -> int:
    """Write, or check; the result is the exit code."""
    parser = argparse.ArgumentParser(description="Writes docs/performance.md's results from figures/relay.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not up to date")
    check: bool = parser.parse_args(arguments).check
    source = root / "figures" / "relay.json"
    document = json.loads(source.read_text()) if source.exists() else None
    try:
        files = wanted(root / "docs", document)
    except ValueError as problem:
        print(f"docs/performance.md: {problem}", file=sys.stderr)
        return 1
    old = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in old:
        name = path.relative_to(root)
        if check:
            print(f"{name} does not agree with figures/relay.json. Run bench/performance.py.", file=sys.stderr)
        else:
            path.write_text(files[path])
            print(f"wrote {name}")
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
