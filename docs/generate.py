#!/usr/bin/env python3
"""Writes docs/roles/<role>.md from each role's meta/argument_specs.yml (`make docs`).

It first holds the specification against the role's defaults and against playbooks/vars/wiring.yml: names, values and
types, both ways. With --check nothing is written; a page that would change is named, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]

# Ansible's markup: C(text), V(value), O(option), O(option=value), M(module), M(role#role), L(text,url), B() and I().
MARKUP = re.compile(r"\b(RV|[BCEILMOPUV])\(((?:[^()]|\([^()]*\))*)\)")


@dataclass
class Role:
    name: str
    description: str
    specification: dict[str, Any]
    defaults: dict[str, Any]
    # Option -> the expression that playbooks/vars/wiring.yml gives it.
    wiring: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        return dict(self.specification.get("options", {}))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def roles(repository: Path) -> list[Role]:
    wiring = repository / "playbooks" / "vars" / "wiring.yml"
    wired = {name: str(value) for name, value in (read(wiring) if wiring.exists() else {}).items()}
    found = []
    for path in sorted(repository.glob("roles/*/meta/argument_specs.yml")):
        folder = path.parents[1]
        name = folder.name
        found.append(
            Role(
                name=name,
                description=read(folder / "meta/main.yml")["galaxy_info"]["description"],
                specification=read(path)["argument_specs"]["main"],
                defaults=read(folder / "defaults/main.yml"),
                wiring={key: value for key, value in wired.items() if key.startswith(f"{name}_")},
            )
        )
    return found


def drift(role: Role) -> Iterator[str]:
    """Where specification, defaults and wiring say different things; one sentence each, with what to do."""
    options, defaults = role.options, role.defaults
    specification, file = f"roles/{role.name}/meta/argument_specs.yml", f"roles/{role.name}/defaults/main.yml"
    for name in sorted(defaults.keys() - options.keys()):
        yield f"{specification}: {name} is missing. {file} has it: describe it, or remove it there."
    for name in sorted(role.wiring.keys() - options.keys()):
        place = "playbooks/vars/wiring.yml"
        yield f"{place}: {name} is no option of the role. Remove it, or describe it in {specification}."
    for name, option in options.items():
        if not name.startswith(f"{role.name}_"):
            yield f"{specification}: {name} does not begin with the role's name. Call it {role.name}_{name}."
        if option.get("required") and ("default" in option or name in defaults):
            yield f"{specification}: {name} is required and has a default. Take one of them away."
        elif "default" in option and name not in defaults:
            yield f"{file}: {name} is missing. {specification} says that its default is {option['default']!r}."
        elif "default" not in option and not option.get("required"):
            yield f"{specification}: {name} has no default. Add it, or mark the option as required."
        elif name in defaults and not same(option.get("default"), defaults[name]):
            there, here = option.get("default"), defaults[name]
            yield f"{specification}: {name} is {there!r} there and {here!r} in {file}. Make them equal."
        for path, each in described(name, option):
            if not each.get("description"):
                yield f"{specification}: {path} has no description. Write one."


def same(one: Any, other: Any) -> bool:
    """Equal with equal types all the way down: 1 is neither true nor "1"."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def described(path: str, option: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The option, and all options inside of it, each with its path."""
    yield path, option
    inside = f"{path}[]" if option.get("type") == "list" else path
    for name, nested in option.get("options", {}).items():
        yield from described(f"{inside}.{name}", nested)


def page(role: Role, names: list[str]) -> str:
    lines = [
        f"<!-- Made from roles/{role.name}/meta/argument_specs.yml: change that file, then run `make docs`. -->",
        "",
        f"# Role {role.name}",
        "",
        f"{role.description}.",
        "",
        *paragraphs(role.specification.get("description", []), names),
        f"In a play: `roles: [trollllm.gateway.{role.name}]`. `site.yml` runs it with the values of "
        "[playbooks/vars/wiring.yml](../../playbooks/vars/wiring.yml).",
        "",
        "## Options",
        "",
    ]
    for name, option in role.options.items():
        lines += [f"### {name}", "", " · ".join(facts(option)), ""]
        lines += paragraphs(option["description"], names)
        if isinstance(option.get("default"), dict) and option["default"]:
            lines += [
                "```yaml",
                yaml.safe_dump({name: option["default"]}, sort_keys=False, width=1000).rstrip(),
                "```",
                "",
            ]
        nested = list(described(name, option))[1:]
        lines += [
            f"- `{path}`: {' · '.join(facts(each))}. {one_line(each['description'], names)}" for path, each in nested
        ]
        lines += [""] if nested else []
        if name in role.wiring:
            sources = sorted(set(re.findall(r"\bgateway_\w+|\bgoproxy_upstreams\b", role.wiring[name])))
            origin = f" from {', '.join(f'`{source}`' for source in sources)}" if sources else ""
            lines += [f"Set in `playbooks/vars/wiring.yml`{origin}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def facts(option: dict[str, Any]) -> Iterator[str]:
    kind = option.get("type", "str")
    yield f"list of {option['elements']}" if kind == "list" and "elements" in option else kind
    if option.get("required"):
        yield "required"
    elif "default" in option:
        yield f"default {shown(option['default'])}"
    if option.get("choices"):
        yield "one of " + ", ".join(f"`{choice}`" for choice in option["choices"])
    if option.get("no_log"):
        yield "secret"


def shown(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "below"
    text = {"": "empty", "[]": "`[]`", "{}": "`{}`"}.get(str(value))
    return text or f"`{str(value).lower() if isinstance(value, bool) else value}`"


def paragraphs(description: str | list[str], names: list[str]) -> list[str]:
    texts = [description] if isinstance(description, str) else description
    return [line for text in texts for line in (markdown(text, names), "")]


def one_line(description: str | list[str], names: list[str]) -> str:
    return " ".join(text for text in paragraphs(description, names) if text)


def markdown(text: str, names: list[str]) -> str:
    def replace(found: re.Match[str]) -> str:
        kind, content = found.groups()
        if kind == "L":
            label, _, address = content.rpartition(",")
            return f"[{label}]({address.strip()})"
        if kind in "BI":
            return f"**{content}**" if kind == "B" else f"*{content}*"
        if kind == "M" and content.endswith("#role"):
            name = content.removesuffix("#role").rpartition(".")[2]
            return f"[{name}]({name}.md)" if name in names else f"`{content.removesuffix('#role')}`"
        return f"`{content.replace('=', ': ', 1) if kind in ('O', 'RV') else content}`"

    return MARKUP.sub(replace, " ".join(text.split()))


def main(arguments: list[str] | None = None, repository: Path = REPOSITORY) -> int:
    parser = argparse.ArgumentParser(description="Writes docs/roles from the roles' argument_specs.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is not up to date")
    check: bool = parser.parse_args(arguments).check
    found = roles(repository)
    problems = [problem for role in found for problem in drift(role)]
    if problems:
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))
        return 1
    names = [role.name for role in found]
    folder = repository / "docs" / "roles"
    wanted = {folder / f"{role.name}.md": page(role, names) for role in found}
    there = {path: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    changed = [path for path, text in wanted.items() if there.get(path) != text]
    left_over = sorted(there.keys() - wanted.keys())
    for path in changed + left_over:
        name = path.relative_to(repository)
        if check:
            fault = "belongs to no role" if path in left_over else "is not up to date"
            sys.stderr.write(f"{name}: {fault}. Run `make docs`.\n")
        elif path in left_over:
            path.unlink()
            sys.stdout.write(f"removed {name}\n")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
            sys.stdout.write(f"wrote {name}\n")
    return 1 if check and changed + left_over else 0


if __name__ == "__main__":
    sys.exit(main())
