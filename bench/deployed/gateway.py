"""An operator with any number of upstreams, who runs site.yml; and the containers that come of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deployed.testkit import Testkit

_FIRST_PORT = 20000
_SLOWEST = 15
_UPSTREAM = """---
goproxy_upstream__{name}:
  domain: "{name}.{{{{ gateway_zone }}}}"
  port: {port}
  api_key: "{{{{ vault_openhands_api_key }}}}"
  endpoints:
    anthropic: https://llm-proxy.app.all-hands.dev/v1/messages
    openai: https://llm-proxy.app.all-hands.dev/v1/chat/completions
  multiplier_band: [1.0, 1.9]
  models:
    claude-opus-4-5: {{multiplier: {multiplier}}}
    claude-sonnet-4-5: {{multiplier: 1.07}}
    claude-haiku-4-5: {{multiplier: 1.04}}
"""


class Gateway:
    """A gateway on the testkit's VPS."""

    def __init__(self, root: Path, testkit: Testkit, scratch: Path) -> None:
        self._root = root
        self._testkit = testkit
        self._inventory = scratch / "inventory"
        shutil.copytree(root / "inventory/demo", self._inventory)
        self._upstreams = self._inventory / "group_vars/all/upstreams"
        self._ports: dict[str, int] = {}

    def write(self, names: Iterable[str]) -> None:
        """Let the inventory have these upstreams and no other."""
        shutil.rmtree(self._upstreams)
        self._upstreams.mkdir()
        for name in names:
            self._ports.setdefault(name, _FIRST_PORT + len(self._ports))
            self._write(name, "1.08")

    def change(self, name: str, turn: int) -> None:
        """Give a model of one upstream another multiplier."""
        self._write(name, f"1.{10 + turn}")

    def _write(self, name: str, multiplier: str) -> None:
        text = _UPSTREAM.format(name=name, port=self._ports[name], multiplier=multiplier)
        (self._upstreams / f"{name}.yml").write_text(text)

    def run(self) -> dict[str, Any]:
        """Run site.yml, which must succeed: seconds, tasks by their seconds, what changed."""
        load = os.getloadavg()[0]
        began = time.monotonic()
        told = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "site.yml", "-i", self._inventory],
            cwd=self._root,
            env=self._testkit.environment
            | {
                "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
                "PROFILE_TASKS_TASK_OUTPUT_LIMIT": str(_SLOWEST),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if told.returncode != 0:
            raise RuntimeError(f"site.yml failed:\n{told.stdout}")
        return {
            "seconds": round(seconds, 2),
            "load_before": round(load, 2),
            "changed": sum(map(int, re.findall(r"changed=(\d+)", told.stdout))),
            "slowest": dict(re.findall(r"^(\S.*?) -+ ([0-9.]+)s$", told.stdout, re.MULTILINE)),
        }

    def containers(self) -> dict[str, str]:
        """Name to id of all containers on the VPS."""
        command = ["docker", "exec", self._testkit.vps, "docker", "ps", "--all", "--no-trunc", "--format", "{{json .}}"]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
        found = [json.loads(line) for line in told.stdout.splitlines()]
        return {container["Names"]: container["ID"] for container in found}
