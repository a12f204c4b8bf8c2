#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""Makes folders with their owners, in one call. One that changes hands is handed over while nobody writes into it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: folders
short_description: Make folders with owner, group and mode, all in one call
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - One call instead of one looped task per folder.
  - A folder whose owner is another one from now on is handed over with all that is in it (O(folders[].contents)); the
    container that works in it is stopped first (O(folders[].container)), so that nothing is written by the old owner
    after that. Starting it again, as the new owner, is for a later task.
options:
  folders:
    description: The folders that shall be there.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path of the folder. What is above it is made too, as V(0755).
        type: path
        required: true
      mode:
        description: Permissions, as a quoted octal number.
        type: raw
        default: '0755'
      owner:
        description: Owner, a name or a number. Without it, it is left as it is.
        type: str
      group:
        description: Group, a name or a number. Without it, it is left as it is.
        type: str
      contents:
        description: Whether what is in the folder goes to another owner and group with it.
        type: bool
        default: false
      container:
        description: The Docker container that works in the folder, to be stopped before the folder changes hands.
        type: str
attributes:
  check_mode:
    description: Can run in check mode without changing anything.
    support: full
  diff_mode:
    description: Shows permissions and owners, before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make the folder of each journal
  trollllm.gateway.folders:
    folders:
      - path: /opt/trollllm/data/openhands
        owner: "18004"
        group: "18000"
        mode: '0700'
        contents: true
        container: goproxy-openhands
"""

RETURN = r"""
changed_files:
  description: Paths of the folders that were made, or got other permissions.
  type: list
  elements: str
  returned: always
  sample: [/opt/trollllm/data/openhands]
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trollllm.gateway.plugins.module_utils.ownership import Refused, group, permissions, user


@dataclass(frozen=True)
class Folder:
    """One wanted folder. No owner or group: as it is."""

    path: str
    mode: int
    uid: int | None
    gid: int | None
    contents: bool
    container: str | None

    def found(self) -> os.stat_result | None:
        """What is there now."""
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(status.st_mode):
            raise Refused(f"{self.path} is there, and is no folder; move it away")
        return status

    def changes_hands(self, found: os.stat_result) -> bool:
        return self.uid not in (None, found.st_uid) or self.gid not in (None, found.st_gid)

    def met_by(self, found: os.stat_result) -> bool:
        return stat.S_IMODE(found.st_mode) == self.mode and not self.changes_hands(found)

    def words(self, found: os.stat_result | None = None) -> str:
        """Of what is wanted, or of what was found, in the words of a diff."""
        mode = self.mode if found is None else stat.S_IMODE(found.st_mode)
        uid = self.uid if found is None else found.st_uid
        gid = self.gid if found is None else found.st_gid
        owners = [("owner", uid, self.uid), ("group", gid, self.gid)]
        lines = [f"{name}: {value}" for name, value, wanted in owners if wanted is not None]
        return "\n".join([f"mode: {mode:04o}", *lines]) + "\n"

    def make(self, found: os.stat_result | None) -> None:
        """The folder itself last: where this breaks off, the next run sees that it is not done."""
        if found is None:
            make_above(self.path)
            os.mkdir(self.path, 0o700)
        elif self.contents and self.changes_hands(found):
            for place, folders, files in os.walk(self.path):
                for name in (*folders, *files):
                    self.own(os.path.join(place, name))
        self.own(self.path)
        os.chmod(self.path, self.mode)

    def own(self, path: str) -> None:
        os.lchown(path, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)


def make_above(path: str) -> None:
    """What is above it, for everybody to pass through, whatever the umask."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        make_above(above)
        os.mkdir(above, 0o700)
        os.chmod(above, 0o755)  # noqa: S103  # the folder itself says who gets in


def wanted(entry: Mapping[str, Any], check_mode: bool) -> Folder:
    path = str(entry["path"])
    if not os.path.isabs(path):
        raise Refused(f"path is {path!r}; give an absolute path")
    return Folder(
        os.path.normpath(path),
        permissions(entry["mode"], f"{path}: mode", "0750"),
        user(entry["owner"], f"{path}: owner", check_mode),
        group(entry["group"], f"{path}: group", check_mode),
        entry["contents"],
        entry["container"],
    )


def stop(module: AnsibleModule, container: str) -> None:
    """Let the container finish and stop, within its own grace, if it runs; and those that leave it (rollout)."""
    code, out, err = module.run_command(["docker", "ps", "--quiet", "--filter", f"name=^/?{container}([.]|$)"])
    if code == 0 and not out.split():
        return
    if code == 0:
        code, _out, err = module.run_command(["docker", "stop", *out.split()])
    if code != 0:
        raise Refused(f"{container} could not be stopped, so its folder stays its old user's: {err.strip()}")


def run(module: AnsibleModule) -> dict[str, Any]:
    folders = [wanted(entry, module.check_mode) for entry in module.params["folders"]]
    found = {folder.path: folder.found() for folder in folders}
    changing = [folder for folder in folders if (status := found[folder.path]) is None or not folder.met_by(status)]
    result: dict[str, Any] = {
        "changed": bool(changing),
        "changed_files": [folder.path for folder in changing],
    }
    if module._diff:
        result["diff"] = [
            {
                "before_header": folder.path,
                "after_header": folder.path,
                "before": "" if (status := found[folder.path]) is None else folder.words(status),
                "after": folder.words(),
            }
            for folder in changing
        ]
    if module.check_mode:
        return result
    for folder in changing:
        status = found[folder.path]
        if folder.container and status is not None and folder.changes_hands(status):
            stop(module, folder.container)
        folder.make(status)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folders": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "mode": {"type": "raw", "default": "0755"},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "contents": {"type": "bool", "default": False},
                    "container": {"type": "str"},
                },
            }
        },
        supports_check_mode=True,
    )

    def fail(message: str) -> NoReturn:
        module.fail_json(msg=message)
        raise AssertionError  # fail_json has left

    try:
        module.exit_json(**run(module))
    except Refused as problem:
        fail(str(problem))
    except OSError as problem:
        fail(f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem))


if __name__ == "__main__":
    main()
