"""README.md names every variable that is read, with its default, every verb, and every header that does not pass."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from goproxy import cli
from goproxy.admin import verbs as admin
from goproxy.core import headers

README = (Path(__file__).parents[1] / "README.md").read_text()
_VARIABLE = re.compile(r'(?:environment\.get\(|_(?:path|number)\(environment, )"([A-Z_]+)"(?:, (_[A-Z_]+))?')


def test_every_variable_is_named_with_its_default() -> None:
    read: set[str] = set()
    for module in (cli, admin):
        for name, default in _VARIABLE.findall(Path(str(module.__file__)).read_text()):
            read.add(name)
            lines = [line for line in README.splitlines() if f"`{name}`" in line]
            assert lines, name
            if default:
                value = getattr(module, default)
                shown = f"`{value}`" if isinstance(value, str) else f" {value:g} "
                assert any(shown in line for line in lines), (name, value)
    assert len(read) >= 14


def verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield ()
    for action in below:
        for name, verb in action.choices.items():
            yield from ((name, *rest) for rest in verbs(verb))


def test_every_verb_is_named() -> None:
    for noun, *rest in verbs(cli._parser()):
        if noun == "admin":
            lines = [line for line in README.splitlines() if line.startswith(f"| `{rest[0]}")]
            assert any(f"`{rest[-1]}" in line or f"{rest[-1]}`" in line for line in lines), rest
        else:
            assert f"`goproxy {' '.join((noun, *rest))}" in README, noun


def test_every_header_that_does_not_pass_is_named() -> None:
    _, up, down = README.partition("\n## Commands")[0].rpartition("## What does not pass")[2].split("\n| not to the ")
    for table, names, prefixes in (
        (up, headers._NOT_UP, headers._NOT_UP_PREFIXES),
        (down, headers._NOT_DOWN, headers._NOT_DOWN_PREFIXES),
    ):
        cells = " ".join(line.partition(" | ")[0] for line in table.splitlines())
        named = {name.lower() for name in re.findall(r"`([A-Za-z_*-]+)`", cells)}
        wanted = set(names) | {f"{prefix}*" for prefix in prefixes}
        assert wanted - named == set()
        assert named - wanted <= {"content-length", "x-accel-buffering"}  # of event streams
