"""What the roles put on a host, rendered by their own templates from the demo's inventory; nothing is deployed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
EDGE = "nginx"
"""The edge's service, in a compose project of its own."""

_SECRET_TASKS = {
    "roles/goproxy/tasks/configuration.yml": ("Write the digests of the API keys", "Write the secrets"),
}
_LOCKED = ("proxy_app/requirements.txt", "roles/certbot/files/requirements.txt", "requirements-dev.txt")


class CannotRender(Exception):
    """The templates cannot be rendered; the text says why."""


@dataclass
class Site:
    """All that rules are about. A breaking changes a copy of it."""

    nginx: dict[str, str]
    """The edge's tree, by path."""

    edge: dict[str, Any]
    """Its compose project."""

    proxies: dict[str, Any]
    """The compose project of proxies and backend."""

    secrets: list[dict[str, Any]]
    configs: list[dict[str, Any]]
    folders: list[dict[str, Any]]
    scripts: dict[str, str]
    dockerfiles: dict[str, str]
    locked: dict[str, str]
    """Requirements, by path."""

    tasks: dict[str, dict[str, Any]]
    """The tasks that write secrets, by name."""

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """Every container."""
        return {**self.proxies["services"], **self.edge["services"]}

    @property
    def upstreams(self) -> dict[str, dict[str, Any]]:
        """The proxies, by the name of their upstream."""
        found = self.proxies["services"].items()
        return {name.removeprefix("goproxy-"): service for name, service in found if name.startswith("goproxy-")}

    @property
    def servers(self) -> dict[str, str]:
        """The server blocks of the upstreams, by path."""
        return {path: text for path, text in self.nginx.items() if path.startswith("conf.d/")}

    @property
    def whole_nginx(self) -> str:
        """All of it, without comments."""
        return re.sub(r"^\s*#.*$", "", "\n".join(self.nginx.values()), flags=re.MULTILINE)

    @property
    def secret_texts(self) -> set[str]:
        """What must stand in the files of secrets alone."""
        return {file["content"] for file in self.secrets if not re.fullmatch(r"[0-9a-f]{64}", file["content"])}


def directives(text: str, name: str) -> list[str]:
    """The arguments of each nginx directive of that name."""
    return re.findall(rf"^\s*{name}\s+([^;{{]*);", text, re.MULTILINE)


def rendered(scratch: Path) -> Site:
    """Render it.

    Raises:
        CannotRender: Ansible says why not.
    """
    destination = scratch / "rendered.json"
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "torture/hardening/render.yml",
        *("-i", "inventory/demo"),
        *("-e", json.dumps({"rendered_destination": str(destination), "ansible_connection": "local"})),
        *("-e", f"ansible_python_interpreter={sys.executable}"),
    ]
    environment = os.environ | {"TESTKIT_DIR": str(scratch)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRender((done.stdout + done.stderr)[-3000:])
    files = {
        "goproxy": (ROOT / "proxy_app/Dockerfile").read_text(),
        "edge": (ROOT / "roles/nginx/files/image/Dockerfile").read_text(),
    }
    locked = {path: (ROOT / path).read_text() for path in _LOCKED}
    return Site(**json.loads(destination.read_text()), dockerfiles=files, locked=locked, tasks=dict(_secret_tasks()))


def _secret_tasks() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, names in _SECRET_TASKS.items():
        for task in yaml.safe_load((ROOT / path).read_text()):
            if task["name"].startswith(names):
                yield task["name"], task


def put_down(tree: Mapping[str, str], directory: Path) -> Path:
    """Write the edge's tree; its main file."""
    for path, text in tree.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return directory / "nginx.conf"
