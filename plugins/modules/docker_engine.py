#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE)
"""Looks at the Docker engine of a host: what of it is installed, whether it runs, and what it was told."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_engine
short_description: What of a Docker engine is on a host
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Asks engine, Compose, buildx, systemd and dpkg, and reads files, in one call. What is not there is an answer.
  - Changes nothing.
options:
  packages:
    description: Debian packages to look for.
    type: list
    elements: str
    default: []
  files:
    description: Text files to read.
    type: list
    elements: path
    default: []
  image:
    description: An image to look for in the engine.
    type: str
    default: ''
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Look at the engine
  trollllm.gateway.docker_engine:
    packages: [docker.io, docker-ce]
    files: [/etc/docker/daemon.json]
    image: debian:trixie-slim
  register: found
"""

RETURN = r"""
server:
  description: The release of the engine that answers. Empty when none does.
  returned: always
  type: str
  sample: 28.5.2
problem:
  description: Why no engine answers, in the words of the command C(docker). Empty when one does.
  returned: always
  type: str
compose:
  description: The release of Compose v2. Empty where there is none.
  returned: always
  type: str
  sample: 2.40.3
buildx:
  description: Whether there is buildx.
  returned: always
  type: bool
dockerd:
  description: The release of the daemon's program, whether or not it runs. Empty where there is none.
  returned: always
  type: str
runs:
  description: Whether systemd runs C(docker.service) now and starts it at boot.
  returned: always
  type: bool
snap:
  description: Whether snap's Docker is installed, whose unit is C(snap.docker.dockerd.service).
  returned: always
  type: bool
packages:
  description: Those of O(packages) that are installed.
  returned: always
  type: list
  elements: str
files:
  description: Those of O(files) that are there, with what they hold.
  returned: always
  type: dict
image:
  description: Whether the engine has O(image).
  returned: always
  type: bool
"""

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class Host:
    """Commands and files of the host that the module runs on."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def ask(self, *command: str) -> tuple[bool, str, str]:
        """Whether the command succeeded, and what it said on stdout and stderr. One that is not there fails."""
        try:
            code, out, err = self._module.run_command(list(command), handle_exceptions=False)
        except OSError as problem:
            return False, "", f"{command[0]}: {problem.strerror}"
        return code == 0, out.strip(), err.strip()

    def release(self, *command: str) -> str:
        """The first number with a dot in what a successful command says, or nothing."""
        succeeded, out, _ = self.ask(*command)
        found = re.search(r"\d+(\.\d+)+", out) if succeeded else None
        return found[0] if found else ""

    def installed(self, packages: list[str]) -> list[str]:
        """dpkg-query fails when one of them is unknown, and lists the others all the same."""
        _, out, _ = self.ask("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *packages)
        return [line.split()[0] for line in out.splitlines() if line.endswith(" installed")]

    def text(self, path: str) -> str | None:
        """None: there is no such file."""
        try:
            with open(path, encoding="utf-8") as stream:
                return stream.read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            return self._module.fail_json(msg=f"{path} cannot be read: {problem}")  # type: ignore[no-any-return]


def look(host: Host, packages: list[str], files: list[str], image: str) -> dict[str, Any]:
    """What RETURN describes."""
    answers, server, problem = host.ask("docker", "version", "--format", "{{.Server.Version}}")
    texts = {path: host.text(path) for path in files}
    return {
        "server": server if answers else "",
        "problem": "" if answers else problem,
        "compose": host.release("docker", "compose", "version", "--short"),
        "buildx": host.ask("docker", "buildx", "version")[0],
        "dockerd": host.release("dockerd", "--version"),
        "runs": host.ask("systemctl", "is-enabled", "docker")[0] and host.ask("systemctl", "is-active", "docker")[0],
        "snap": host.ask("systemctl", "cat", "snap.docker.dockerd.service")[0],
        "packages": host.installed(packages) if packages else [],
        "files": {path: text for path, text in texts.items() if text is not None},
        "image": bool(image) and host.ask("docker", "image", "inspect", image)[0],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "path", "default": []},
            "image": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C.UTF-8"}
    module.exit_json(changed=False, **look(Host(module), **module.params))


if __name__ == "__main__":
    main()
