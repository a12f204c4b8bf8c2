"""The collection as a tarball: what it carries, what it must not, and that it runs from where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy of the tree in which an operator has left an inventory, a secret and a cache lying about."""
    tree, out = tmp_path_factory.mktemp("tree") / "gateway", tmp_path_factory.mktemp("dist")
    shutil.copytree(
        ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(".venv", ".git", ".demo", ".testkit", ".cache", "dist")
    )
    for litter in (
        "inventory/mine/group_vars/all/vault.yml",
        ".demo/connection.json",
        "plugins/filter/__pycache__/old.pyc",
        ".venv/pyvenv.cfg",
    ):
        path = tree / litter
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("vault_key: MARKED-SECRET\n")
    subprocess.run(
        [BIN / "ansible-galaxy", "collection", "build", tree, "--output-path", out], check=True, capture_output=True
    )
    return next(out.glob("trollllm-gateway-*.tar.gz"))


def names(tarball: Path) -> list[str]:
    with tarfile.open(tarball) as archive:
        return archive.getnames()


def test_carries_what_a_deployment_needs(tarball: Path) -> None:
    found = names(tarball)
    for wanted in (
        "playbooks/site.yml",
        "playbooks/vars/wiring.yml",
        "roles/goproxy/tasks/main.yml",
        "roles/certbot/files/requirements.txt",
        "plugins/modules/file_tree.py",
        "proxy_app/Dockerfile",
        "proxy_app/goproxy/cli.py",
        "README.md",
    ):
        assert wanted in found


@pytest.mark.parametrize(
    "unwanted",
    [
        "inventory",
        ".demo",
        ".venv",
        ".cache",
        ".testkit",
        ".git",
        ".collections",
        "molecule",
        "testkit",
        "tests",
        "proxy_app/tests",
    ],
)
def test_carries_no_inventory_no_secrets_no_caches(tarball: Path, unwanted: str) -> None:
    assert [name for name in names(tarball) if name == unwanted or name.startswith(f"{unwanted}/")] == []
    assert [
        name for name in names(tarball) if "__pycache__" in name or name.endswith(".pyc") or "/." in f"/{name}"
    ] == []


def test_both_lists_of_collections_ask_for_the_same() -> None:
    """Of whoever has ansible-core alone, and no PyPI `ansible` that carries them all."""
    asked: dict[str, str] = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    listed = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert {entry["name"]: entry["version"] for entry in listed} == asked
    assert asked["hetzner.hcloud"] == ">=5.4.0"  # the first with zone_rrset


def test_runs_by_name_from_where_it_is_installed(tarball: Path, tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").touch()  # not this folder's, which would find the collection here
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path),
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
    }
    install = f"collection install --offline --no-deps --force -p {tmp_path} {tarball}".split()
    subprocess.run([str(BIN / "ansible-galaxy"), *install], env=environment, check=True, capture_output=True)
    told = subprocess.run(
        [BIN / "ansible-playbook", "trollllm.gateway.validate", "-i", ROOT / "inventory/example"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "placeholder" in told.stdout, told.stdout + told.stderr
    listed = subprocess.run(
        [BIN / "ansible-playbook", "trollllm.gateway.site", "-i", ROOT / "inventory/demo", "--list-tasks"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "Check the inventory" in listed.stdout


def test_every_play_has_its_upstreams_from_one_place() -> None:
    """Who calls check_inventory itself has a fact alone, which is no variable with INJECT_FACTS_AS_VARS off."""
    folders = ("playbooks", "molecule", "torture", "bench")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.yml")]
    calling = [file for file in files if "trollllm.gateway.check_inventory:" in file.read_text()]
    assert calling == [ROOT / "playbooks/tasks/inventory.yml"]
