"""Reads what `nginx -T` prints: directives as a tree, includes resolved. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|[^\s{};"'#]+""")
FILE = re.compile(r"^# configuration file (.+):$", re.MULTILINE)


@dataclass(frozen=True)
class Directive:
    """One directive, with what stands in its braces."""

    name: str
    arguments: tuple[str, ...] = ()
    block: tuple[Directive, ...] = ()

    def all(self, name: str) -> list[Directive]:
        """Give every directive of a name, at any depth below this one."""
        return [found for found in self._below() if found.name == name]

    def values(self, name: str) -> set[tuple[str, ...]]:
        """Give the arguments of every directive of a name below this one."""
        return {found.arguments for found in self.all(name)}

    def _below(self) -> Iterator[Directive]:
        for directive in self.block:
            yield directive
            yield from directive._below()


def read_dump(dump: str) -> Directive:
    """Read the output of `nginx -T` into one tree; the first file is nginx.conf."""
    _, *parts = FILE.split(dump)
    files = dict(zip(parts[::2], parts[1::2], strict=True))
    return Directive("", block=_read(next(iter(files)), files))


def server(tree: Directive, name: str, port: str) -> Directive:
    """Give the one server that has a name on a port."""
    found = [
        block
        for block in tree.all("server")
        if any(name in names for names in block.values("server_name"))
        and any(listen[0].rpartition(":")[2] == port for listen in block.values("listen"))
    ]
    assert len(found) == 1, f"{len(found)} servers have the name {name} on port {port}"
    return found[0]


def _read(path: str, files: dict[str, str]) -> tuple[Directive, ...]:
    tokens = (token for token in TOKEN.findall(files[path]) if not token.startswith("#"))
    root = PurePosixPath(next(iter(files))).parent

    def block() -> Iterator[Directive]:
        words: list[str] = []
        for token in tokens:
            if token == "}":
                return
            if token == "{":
                yield Directive(words[0], tuple(words[1:]), tuple(block()))
                words = []
            elif token == ";":
                if words[0] == "include":
                    for included in sorted(name for name in files if fnmatch(name, str(root / words[1]))):
                        yield from _read(included, files)
                else:
                    yield Directive(words[0], tuple(words[1:]))
                words = []
            else:
                words.append(token[1:-1] if token[0] in "\"'" else token)

    return tuple(block())
