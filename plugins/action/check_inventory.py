"""Collects what the inventory says, templates it value by value, and hands it to module_utils.inventory.

Runs on the controller. Value by value, so that an undefined vault variable is a problem with a name beside the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.plugins.action import ActionBase

from ansible_collections.trollllm.gateway.plugins.module_utils import inventory, role_options
from ansible_collections.trollllm.gateway.plugins.module_utils.field import Field, Problem, Unresolved
from ansible_collections.trollllm.gateway.plugins.module_utils.site import VARIABLES
from ansible_collections.trollllm.gateway.plugins.plugin_utils import variable_files

UPSTREAMS = re.compile(r"group_vars/[^/]+/upstreams/")
COLLECTION = Path(__file__).parents[2]
DEFINE = "define it (secrets: in group_vars/all/vault.yml), or correct its name"


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible carries no type information
    """The action; its reference page is the module of the same name."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.validate_argument_spec(argument_spec={})
        variables = task_vars or {}

        upstreams = {
            name.removeprefix(inventory.VARIABLE_PREFIX): self.resolve(value)
            for name, value in variables.items()
            if name.startswith(inventory.VARIABLE_PREFIX)
        }
        settings = {
            name: self.resolve(value) if name in VARIABLES else None
            for name, value in variables.items()
            if name.startswith("gateway_")
        }
        price_book = self.resolve(variables.get("goproxy_price_book"))
        normalised, problems = inventory.check(upstreams, price_book, settings)
        options = settable_options()
        given = {
            name: self.resolve(value) if name in options else None
            for name, value in variables.items()
            if name.startswith(role_options.PREFIXES) and not name.startswith(inventory.VARIABLE_PREFIX)
        }
        problems += role_options.check(given, options)
        temp_size = given.get("nginx_temp_size", options["nginx_temp_size"]["default"])
        problems += inventory.oversized(upstreams, settings, temp_size)
        misnamed = inventory.misnamed(variables)
        if variables.get("inventory_dir"):
            root = Path(str(variables["inventory_dir"]))
            files = self.files(root, problems)
            problems += inventory.misplaced(files, told=[problem.subject for problem in misnamed])
            problems += self.unread(root)
        problems = sorted([*problems, *misnamed])

        result["changed"] = False
        if problems:
            result["failed"] = True
            result["problems"] = [str(problem) for problem in problems]
            result["msg"] = message(problems)
            return result
        result["ansible_facts"] = {"goproxy_upstreams": normalised}
        names = ", ".join(f"{upstream['name']} ({upstream['domain']})" for upstream in normalised)
        result["msg"] = f"The inventory is fine: {names}"
        return result

    def resolve(self, value: Any) -> Any:
        """The value with its templates rendered, leaf by leaf. What cannot be rendered becomes Unresolved."""
        if isinstance(value, Mapping):
            return {key: self.resolve(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.resolve(entry) for entry in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        try:
            return self._templar.template(value)
        except AnsibleUndefinedVariable as problem:
            return undefined(str(problem))
        except AnsibleError as problem:
            if "undecryptable variable" in str(problem):  # its class is private to ansible-core
                return Unresolved(
                    "is encrypted, and the vault password was not given or is wrong",
                    "use --vault-password-file or --ask-vault-pass",
                )
            # The text of other errors may quote a value, and this one may be secret.
            return Unresolved(f"cannot be templated ({type(problem).__name__})", "correct the expression")

    def files(self, root: Path, problems: list[Problem]) -> dict[str, list[str]]:
        """The variables of each file in group_vars/*/upstreams/, by its path. What is wrong with any file is told.

        The files are those that Ansible takes, which leaves out hidden ones and backups.
        """
        upstreams: dict[str, list[str]] = {}
        for path in variable_files.found(root, self._loader):
            field = Field(None, relative(path, root), problems)
            try:
                node = variable_files.compose(path, self._loader)
            except variable_files.Locked:
                continue  # of another group: Ansible would have failed
            except variable_files.Unreadable as problem:
                field.report(problem.what, problem.right)
                continue
            for line, first, key in variable_files.repeated_keys(node):
                field.child(f"line {line}", None).report(
                    f"{key} is there already, in line {first}", "leave one of them out"
                )
            is_upstreams = UPSTREAMS.match(field.subject) is not None
            if is_upstreams and (node is None or isinstance(node, yaml.MappingNode)):
                upstreams[field.subject] = [str(key.value) for key, _ in node.value] if node else []
        return upstreams

    def unread(self, root: Path) -> list[Problem]:
        problems: list[Problem] = []
        for folder in sorted(root.glob("group_vars/*/upstreams/")):
            taken = map(Path, self._loader.find_vars_files(str(folder.parent), folder.name))
            problems += inventory.unread(
                [relative(path, root) for path in visible_files(folder)], [relative(path, root) for path in taken]
            )
        return problems


def settable_options() -> dict[str, Any]:
    """The roles' options by name, but for those that playbooks/vars/wiring.yml sets; and the price book."""
    options: dict[str, Any] = {"goproxy_price_book": {}}
    for file in sorted(COLLECTION.glob("roles/*/meta/argument_specs.yml")):
        options |= yaml.safe_load(file.read_text("utf-8"))["argument_specs"]["main"]["options"]
    wired = yaml.safe_load((COLLECTION / "playbooks/vars/wiring.yml").read_text("utf-8"))
    return {name: option for name, option in options.items() if name not in wired}


def visible_files(folder: Path) -> Iterator[Path]:
    """Neither hidden ones, nor an editor's backups."""
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        if path.is_file() and not path.name.endswith("~") and not any(name.startswith(".") for name in names):
            yield path


def relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def undefined(said: str) -> Unresolved:
    """Jinja names the variable, or the key that a mapping lacks."""
    variable = re.search(r"'([A-Za-z_]\w*)' is undefined", said)
    if variable:
        return Unresolved(f"refers to {variable[1]}, which is not defined", DEFINE)
    key = re.search(r"has no attribute '([^']+)'", said)
    if key:
        return Unresolved(f"refers to {key[1]}, a key that is not there", DEFINE)
    return Unresolved("refers to something that is not defined", DEFINE)


def message(problems: list[Problem]) -> str:
    """A header, then one line per problem, in the order of the files: the site's, then one upstream after another."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"The inventory has {count}; nothing was touched.", *(f"  {problem}" for problem in problems)])
