"""The digest that names an image: new when, and only when, something that goes into the image is new."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ansible_collections.trollllm.gateway.plugins.lookup.build_context import read_context
from real_ansible import REPOSITORY, Ansible


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "app/main.py").write_text("print()\n")
    return tmp_path


def digest(folder: Path, *, include: tuple[str, ...] = ("**/*",), salt: tuple[str, ...] = ("debian",)) -> str:
    return str(read_context(folder, list(include), {}, list(salt))["digest"])


def test_lists_files_below_the_folder_with_their_contents(folder: Path) -> None:
    found = read_context(folder, ["**/*"], {"extra-ca/one.crt": "PEM\n"}, [])
    assert [file["path"] for file in found["files"]] == ["Dockerfile", "app/main.py", "extra-ca/one.crt"]
    assert found["files"][1]["content"] == "print()\n"


def test_the_digest_stays_while_nothing_changes(folder: Path) -> None:
    assert digest(folder) == digest(folder)


def test_caches_do_not_count(folder: Path) -> None:
    before = digest(folder)
    (folder / "app/__pycache__").mkdir()
    (folder / "app/__pycache__/main.pyc").write_bytes(b"\x00\xff")
    assert digest(folder) == before


def test_content_path_and_salt_each_make_a_new_digest(folder: Path) -> None:
    before = digest(folder)
    assert digest(folder, salt=("ubuntu",)) != before
    (folder / "app/main.py").write_text("print(1)\n")
    changed = digest(folder)
    assert changed != before
    (folder / "app/main.py").rename(folder / "app/other.py")
    assert digest(folder) not in (before, changed)


def test_a_pattern_that_matches_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing matches"):
        digest(folder, include=("*.toml",))


def test_a_file_that_is_not_text_is_named(folder: Path) -> None:
    (folder / "app/logo.py").write_bytes(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"app/logo\.py is not text in UTF-8"):
        digest(folder)


def test_what_an_editor_or_a_file_manager_leaves_is_no_part_of_the_edge(ansible: Ansible, folder: Path) -> None:
    """It would make the edge anew, or not at all."""
    shutil.copytree(REPOSITORY / "roles/nginx", folder / "nginx")
    role = [{"include_vars": str(folder / f"nginx/{part}/main.yml")} for part in ("defaults", "vars")]
    told = {"debug": {"msg": "{{ [__nginx_build.digest] + __nginx_build.files | map(attribute='path') }}"}}

    def build() -> list[str]:
        found: list[str] = ansible.play([*role, told], "-e", f"role_path={folder}/nginx").result["msg"]
        return found

    before = build()
    files = [path.name for path in (REPOSITORY / "roles/nginx/files/image").iterdir()]
    assert before[1:] == sorted(name for name in files if not name.startswith(".") and not name.endswith("~"))
    (folder / "nginx/files/image/.DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1\xff")
    (folder / "nginx/files/image/edge-run~").write_text("#!/bin/sh\n")
    assert build() == before
