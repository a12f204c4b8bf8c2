"""Runs the real ansible-playbook on this machine, in a directory of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECTIONS = REPOSITORY / ".collections"


@dataclass
class Run:
    """How a playbook ended."""

    code: int
    output: str
    tasks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def result(self) -> dict[str, Any]:
        """The result of the last task, on the only host."""
        hosts: dict[str, dict[str, Any]] = self.tasks[-1]["hosts"]
        (result,) = hosts.values()
        return result


class Ansible:
    """A place for playbooks and inventories, and the runs there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, path: str, content: Any) -> Path:
        """Write YAML, or text as it is."""
        place = self.directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return place

    def play(self, tasks: list[dict[str, Any]], *options: str, callback: str = "ansible.posix.json") -> Run:
        """Run the tasks. The results are parsed, unless another callback is asked for."""
        self.write("play.yml", [{"hosts": "all", "gather_facts": False, "tasks": tasks}])
        if not (self.directory / "hosts.yml").exists():
            self.write("hosts.yml", {"all": {"hosts": {"here": None}}})
        return self.playbook("play.yml", *options, callback=callback)

    def play_of_gateway(self, tasks: list[dict[str, Any]], variables: dict[str, Any]) -> Run:
        """Run tasks of a playbook that ask the backend. Programs in `bin` here come before this machine's."""
        self.write("tasks/admin.yml", (REPOSITORY / "playbooks/tasks/admin.yml").read_text())
        self.write("hosts.yml", {"all": {"hosts": {"here": None}}})
        path = {"PATH": f"{self.directory}/bin:{os.environ['PATH']}"}
        play = {"hosts": "all", "gather_facts": False, "vars": variables, "environment": path, "tasks": tasks}
        self.write("play.yml", [play])
        return self.playbook("play.yml")

    def playbook(self, path: str | Path, *options: str, callback: str = "ansible.posix.json") -> Run:
        command = [str(Path(sys.executable).with_name("ansible-playbook")), str(path), "-i", "hosts.yml", *options]
        ended = subprocess.run(
            command, cwd=self.directory, env=self.environment(callback), capture_output=True, text=True, check=False
        )
        output = ended.stdout + ended.stderr
        tasks: list[dict[str, Any]] = []
        if callback == "ansible.posix.json":
            assert "{" in ended.stdout, output
            plays = json.loads(ended.stdout[ended.stdout.index("{") :])["plays"]
            tasks = [task for play in plays for task in play["tasks"]]
        return Run(ended.returncode, output, tasks)

    def environment(self, callback: str) -> dict[str, str]:
        (self.directory / "ansible.cfg").touch()
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_HOME": str(self.directory / ".ansible"),
            "ANSIBLE_STDOUT_CALLBACK": callback,
            "ANSIBLE_TRANSPORT": "ansible.builtin.local",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "NO_COLOR": "1",
        }


def encrypt(text: str, password: Path, *options: str) -> str:
    """What ansible-vault makes of it."""
    command = [str(Path(sys.executable).with_name("ansible-vault")), *options, "--vault-password-file", str(password)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
