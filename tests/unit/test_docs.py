"""The roles' pages: up to date, complete, and made only from specifications that say the same as the defaults."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULTS = {"edge_state": "present", "edge_port": 443, "edge_quiet": True, "edge_names": ["a"], "edge_limits": {"a": 1}}
OPTIONS: dict[str, dict[str, Any]] = {
    "edge_state": {"description": "V(absent) removes it.", "choices": ["present", "absent"], "default": "present"},
    "edge_port": {"description": "See O(edge_quiet=true).", "type": "int", "default": 443},
    "edge_quiet": {"description": ["One.", "Two."], "type": "bool", "default": True},
    "edge_names": {
        "description": "L(Names,https://a.example/).",
        "type": "list",
        "elements": "str",
        "default": ["a"],
    },
    "edge_limits": {
        "description": "Limits.",
        "type": "dict",
        "default": {"a": 1},
        "options": {"a": {"description": "M(trollllm.gateway.edge#role) B(needs) it.", "type": "int", "no_log": True}},
    },
    "edge_zone": {"description": "The zone.", "required": True},
}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    specification = importlib.util.spec_from_file_location("docs_generate", REPOSITORY / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["docs_generate"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """A repository with one role. What a test gives replaces the sound thing."""

    def write(path: str, content: Any) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def make(
        options: dict[str, Any] = OPTIONS, defaults: dict[str, Any] = DEFAULTS, wiring: dict[str, Any] | None = None
    ) -> Path:
        write("roles/edge/meta/argument_specs.yml", {"argument_specs": {"main": {"options": options}}})
        write("roles/edge/meta/main.yml", {"galaxy_info": {"description": "The edge"}})
        write("roles/edge/defaults/main.yml", defaults)
        write("playbooks/vars/wiring.yml", wiring or {"edge_zone": "{{ gateway_zone }}"})
        return tmp_path

    return make


def test_every_role_has_its_page_and_no_specification_differs_from_its_defaults(
    generate: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--check"]) == 0, capfd.readouterr().err
    roles = {path.parents[1].name for path in REPOSITORY.glob("roles/*/tasks/main.yml")}
    assert {path.stem for path in (REPOSITORY / "docs" / "roles").glob("*.md")} == roles


def test_every_link_of_the_pages_leads_somewhere() -> None:
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())]
    dead = [f"{page.name}: {link}" for page, link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


def test_the_changelog_names_each_migration_of_the_store() -> None:
    """By it an operator knows that a release has no way back but a backup."""
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    section = changelog.partition("### What migrates the store\n")[2].partition("\n### ")[0]
    steps = (REPOSITORY / "proxy_app/goproxy/control_plane/store/migrations/versions").glob("v*.py")
    assert re.findall(r"^- `(v\d+_\w+)`", section, re.MULTILINE) == sorted(step.stem for step in steps)


def test_what_the_page_on_upgrading_has_git_compare_is_there() -> None:
    text = (REPOSITORY / "docs/upgrading.md").read_text()
    paths = [path for line in re.findall(r"git diff .*OLD NEW -- ([^#\n]+)", text) for path in line.strip(" `").split()]
    assert len(paths) == 6
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_a_page_is_written_checked_and_removed_with_its_role(
    generate: ModuleType, tree: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    repository = tree()
    page = repository / "docs/roles/edge.md"
    assert generate.main(["--check"], repository) == 1
    assert not page.exists()
    assert "docs/roles/edge.md: is not up to date. Run `make docs`." in capfd.readouterr().err
    assert generate.main([], repository) == 0
    assert generate.main(["--check"], repository) == 0
    (repository / "docs/roles/gone.md").write_text("old")
    assert generate.main(["--check"], repository) == 1
    assert "docs/roles/gone.md: belongs to no role" in capfd.readouterr().err
    assert generate.main([], repository) == 0
    assert [path.name for path in (repository / "docs/roles").iterdir()] == ["edge.md"]


def test_a_page_says_all_that_the_specification_says(generate: ModuleType, tree: Callable[..., Path]) -> None:
    repository = tree()
    generate.main([], repository)
    page = (repository / "docs/roles/edge.md").read_text()
    for said in (
        "### edge_state\n\nstr · default `present` · one of `present`, `absent`\n\n`absent` removes it.\n",
        "### edge_port\n\nint · default `443`\n\nSee `edge_quiet: true`.\n",
        "### edge_quiet\n\nbool · default `true`\n\nOne.\n\nTwo.\n",
        "### edge_names\n\nlist of str · default `['a']`\n\n[Names](https://a.example/).\n",
        "dict · default below\n",
        "```yaml\nedge_limits:\n  a: 1\n```\n",
        "- `edge_limits.a`: int · secret. [edge](edge.md) **needs** it.\n",
        "### edge_zone\n\nstr · required\n\nThe zone.\n\nSet in `playbooks/vars/wiring.yml` from `gateway_zone`.\n",
    ):
        assert said in page


def without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"options": without(OPTIONS, "edge_port")}, "argument_specs.yml: edge_port is missing."),
        ({"defaults": without(DEFAULTS, "edge_port")}, "defaults/main.yml: edge_port is missing."),
        ({"defaults": {**DEFAULTS, "edge_port": 444}}, "edge_port is 443 there and 444 in"),
        ({"defaults": {**DEFAULTS, "edge_port": "443"}}, "edge_port is 443 there and '443' in"),
        ({"defaults": {**DEFAULTS, "edge_quiet": 1}}, "edge_quiet is True there and 1 in"),
        ({"defaults": {**DEFAULTS, "edge_names": []}}, "edge_names is ['a'] there and [] in"),
        ({"defaults": {**DEFAULTS, "edge_limits": {"a": True}}}, "edge_limits is {'a': 1} there and {'a': True} in"),
        ({"defaults": {**DEFAULTS, "edge_zone": "x"}}, "edge_zone is required and has a default."),
        ({"options": {**OPTIONS, "edge_new": {"description": "x"}}}, "edge_new has no default."),
        ({"options": {**OPTIONS, "zone": {"description": "x", "required": True}}}, "zone does not begin with"),
        ({"options": {**OPTIONS, "edge_zone": {"required": True}}}, "edge_zone has no description."),
        ({"wiring": {"edge_zoen": "x"}}, "playbooks/vars/wiring.yml: edge_zoen is no option of the role."),
    ],
)
def test_a_specification_that_differs_is_named_and_nothing_is_written(
    generate: ModuleType,
    tree: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
    given: dict[str, Any],
    said: str,
) -> None:
    repository = tree(**given)
    assert generate.main([], repository) == 1
    assert said in capfd.readouterr().err
    assert not (repository / "docs").exists()
