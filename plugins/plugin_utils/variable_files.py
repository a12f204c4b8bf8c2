"""The files of an inventory's variables as they are written, for what Ansible says without a place, or not at all.

For the controller: the loader is ansible-core's, which has the vault's password.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError

QUOTE = 'quote it: "{{ ... }}"'


class Unreadable(Exception):
    """Ansible cannot read the file: `what` is wrong with it, `right` is what to do."""

    def __init__(self, what: str, right: str) -> None:
        super().__init__(f"{what}; {right}")
        self.what = what
        self.right = right


class Locked(Unreadable):
    """It is encrypted, and not with a password that was given."""


def found(folder: Path, loader: Any) -> Iterator[Path]:
    """The YAML in group_vars and host_vars that Ansible takes: neither hidden files nor backups."""
    for entry in sorted(itertools.chain(folder.glob("group_vars/*"), folder.glob("host_vars/*"))):
        if not entry.name.startswith("."):
            for path in loader.find_vars_files(str(entry.parent), entry.name):
                if path.endswith((".yml", ".yaml")):
                    yield Path(path)


def compose(path: Path, loader: Any) -> yaml.Node | None:
    """The structure only: tags stay closed. None where the file holds nothing."""
    text, is_secret = read(path, loader)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        line = text.splitlines()[mark.line : mark.line + 1] if mark else []
        # It may quote what stands there: an unquoted secret that begins with * is an "undefined alias" by its name.
        said = "" if is_secret else f": {error.problem or error.context}"
        raise Unreadable(
            f"is not YAML ({place}){said}",
            QUOTE if re.search(r"[:-]\s+\{\{", "".join(line)) else "correct it",
        ) from error
    except yaml.YAMLError as error:
        raise Unreadable(f"cannot be read ({error})", "correct it") from error
    for line_number in bare_templates(node):
        raise Unreadable(f"has a template without quotes in line {line_number}", QUOTE)
    return None if node is None or node.tag == "tag:yaml.org,2002:null" else node


def read(path: Path, loader: Any) -> tuple[str, bool]:
    """Its text, and whether that was encrypted."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"cannot be read ({error})", "make it text in UTF-8, or remove it") from error
    if not text.startswith("$ANSIBLE_VAULT;"):
        return text, False
    try:
        return str(loader.get_text_file_contents(str(path))), True
    except AnsibleError as error:
        if "no vault secrets found" in str(error):  # its class is that of a wrong password, too
            raise Locked(
                "is encrypted", "give the vault password: --ask-vault-pass or --vault-password-file"
            ) from error
        raise Locked("cannot be decrypted", "the vault password is another one than it was encrypted with") from error


def mappings(node: yaml.Node | None) -> Iterator[tuple[str, yaml.MappingNode]]:
    """Every mapping in it, and its place: goproxy_price_book.claude-opus-4-5.prices[0]"""
    waiting = deque([("", node)])
    seen = set()  # an anchor's node stands at each of its aliases
    while waiting:
        place, node = waiting.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield place, node
            for key, value in node.value:
                name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
                waiting.append((f"{place}.{name}" if place else name, value))
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend((f"{place}[{number}]", entry) for number, entry in enumerate(node.value))


def bare_templates(node: yaml.Node | None) -> Iterator[int]:
    """The lines of {{ ... }} without quotes, which is YAML for a mapping whose key is a mapping."""
    for _, mapping in mappings(node):
        if any(isinstance(key, yaml.MappingNode) for key, _ in mapping.value):
            yield mapping.start_mark.line + 1


def repeated_keys(node: yaml.Node | None) -> Iterator[tuple[int, int, str]]:
    """The line of a key that its mapping has already, the line of that, and the key. Ansible takes the last one."""
    for place, mapping in mappings(node):
        lines: dict[tuple[str, str], int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                yield line, lines[key.tag, key.value], f"{place}.{key.value}" if place else str(key.value)
            lines.setdefault((key.tag, key.value), line)
