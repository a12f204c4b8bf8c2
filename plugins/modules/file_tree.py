#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""Put a whole set of files on the host in one call: checked as a set, then replaced one atomic rename after another.

What stood there before is put back when the set cannot be finished.
"""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: file_tree
short_description: Write a set of files under one directory, checked as a whole before anything is replaced
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Takes the contents of any number of files, rendered on the controller, and makes a directory on the host hold them.
  - One call instead of one looped task per file, so that it stays quick with many files.
  - Files are replaced by an atomic rename (or in place, see O(files[].in_place)), after all of them were written
    beside their destinations. When that fails half-way, the previous contents are put back.
  - It remembers the files that it wrote in C(.manifest.json) in O(root), so that O(prune) removes its own files only.
options:
  root:
    description: The directory on the host that holds the files. It is made when it is missing.
    type: path
    required: true
  files:
    description: The files that shall be there. They are put in place in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Path of the file, relative to O(root), without C(..).
        type: str
        required: true
      content:
        description: The text of the file (UTF-8). Anything but text is refused; use a filter such as C(to_nice_json).
        type: raw
        required: true
      mode:
        description: Permissions, as a quoted octal number, such as V('0440').
        type: raw
        default: '0644'
      owner:
        description: Owner, a name or a number. Without it, the user who runs the module.
        type: str
      group:
        description: Group, a name or a number. Without it, the group of the user who runs the module.
        type: str
      in_place:
        description:
          - Write into the existing file instead of renaming a new one over it.
          - For a file that is itself bind-mounted into a container, which goes on seeing the old inode otherwise.
        type: bool
        default: false
  directory_mode:
    description: Permissions of the directories that the module makes, O(root) included.
    type: raw
    default: '0755'
  prune:
    description:
      - Remove files that an earlier call wrote under O(root) and that are not in O(files) any more, and the directories
        made for them that are empty then. With an empty O(files), nothing of the module is left.
      - A root has one set; use O(prune) in one call per root only.
    type: bool
    default: false
  remember:
    description:
      - Whether the files are noted in C(.manifest.json). V(false) is for single files in directories of others, such as
        C(/etc/systemd/system), from a root as high as V(/); O(prune) and O(validate) are not for these.
    type: bool
    default: true
  validate:
    description:
      - A command that checks the tree. C(%s) stands for a directory beside O(root) that holds the whole tree as it
        would be (files that are not the module's too), with the same permissions and owners.
      - It is run without a shell, before anything is replaced, and only when something would change.
        When it fails, nothing is changed.
    type: str
  validate_in_check:
    description: Run O(validate) in check mode as well. The staged copy is removed afterwards.
    type: bool
    default: false
attributes:
  check_mode:
    description: Can run in check mode without changing anything.
    support: full
  diff_mode:
    description: Shows a diff per file.
    support: full
notes:
  - The contents of O(files) are neither in the module's result nor in the host's system log.
"""

EXAMPLES = r"""
- name: Write the configuration of the edge
  trollllm.gateway.file_tree:
    root: /opt/trollllm/edge/conf
    prune: true
    directory_mode: '0755'
    validate: docker run --rm -v %s:/etc/nginx:ro edge nginx -t
    files:
      - path: nginx.conf
        content: "{{ lookup('ansible.builtin.template', 'nginx.conf.j2') }}"
        mode: '0644'
      - path: sites/chat.conf
        content: "{{ lookup('ansible.builtin.template', 'site.conf.j2') }}"
        mode: '0644'
  notify: Reload nginx
"""

RETURN = r"""
changed_files:
  description: Paths, relative to the root, of the files that were made, rewritten, or got other permissions.
  type: list
  elements: str
  returned: always
  sample: [nginx.conf, sites/chat.conf]
removed_files:
  description: Paths, relative to the root, of the files that were removed.
  type: list
  elements: str
  returned: always
  sample: [sites/old.conf]
stale_files:
  description:
    - Paths, relative to the root, of files that an earlier call wrote, that are not in O(files) any more, and that stay
      because O(prune) is off.
  type: list
  elements: str
  returned: always
  sample: [sites/old.conf]
"""

import contextlib
import errno
import json
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trollllm.gateway.plugins.module_utils.ownership import (
    UNKNOWN_ID,
    Refused,
    group,
    permissions,
    user,
)

MANIFEST = ".manifest.json"


def known_id(number: int | None) -> int:
    return -1 if number is None or number == UNKNOWN_ID else number


@dataclass(frozen=True)
class Attributes:
    """Permissions and owner, as numbers. None: leave as it is."""

    mode: int
    uid: int | None
    gid: int | None

    def met_by(self, found: os.stat_result) -> bool:
        return (
            stat.S_IMODE(found.st_mode) == self.mode
            and (self.uid is None or found.st_uid == self.uid)
            and (self.gid is None or found.st_gid == self.gid)
        )

    def apply(self, target: int | str) -> None:
        """To a descriptor or a path. Owner first: chown clears the set-id bits."""
        os.chown(target, known_id(self.uid), known_id(self.gid))
        os.chmod(target, self.mode)

    def describe(self, found: os.stat_result | None = None) -> str:
        """The wanted attributes, or those of what was found, in the words of a diff."""
        mode = self.mode if found is None else stat.S_IMODE(found.st_mode)
        uid = self.uid if found is None else found.st_uid
        gid = self.gid if found is None else found.st_gid
        lines = [f"mode: {mode:04o}"]
        lines += [f"owner: {'(to be made)' if uid == UNKNOWN_ID else uid}"] if self.uid is not None else []
        lines += [f"group: {'(to be made)' if gid == UNKNOWN_ID else gid}"] if self.gid is not None else []
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class File:
    """One wanted file."""

    path: str  # relative to the root
    content: bytes
    attributes: Attributes
    in_place: bool


@dataclass(frozen=True)
class Current:
    """What stands at a wanted file's place now."""

    content: bytes
    status: os.stat_result


@dataclass(frozen=True)
class Manifest:
    """What the module put under the root: files, and directories that it made ('.' is the root)."""

    files: frozenset[str] = frozenset()
    directories: frozenset[str] = frozenset()

    def dump(self) -> bytes:
        text = json.dumps({"directories": sorted(self.directories), "files": sorted(self.files)}, indent=2)
        return f"{text}\n".encode()


@dataclass(frozen=True)
class Plan:
    """The difference between what is wanted and what is there."""

    make: list[str]  # directories, parents first
    write: list[tuple[File, Current | None]]
    stale: list[str]  # files that nobody wants any more
    remove: list[str]  # those, or none
    drop: list[str]  # directories, children first
    manifest: Manifest | None  # None: nothing of ours stays, so no manifest either
    manifest_differs: bool

    @property
    def changes(self) -> bool:
        return bool(self.make or self.write or self.remove or self.drop or self.manifest_differs)


def parents(path: str) -> list[str]:
    """a/b/c -> ['a', 'a/b']: the directories on the way, outermost first."""
    steps = path.split("/")[:-1]
    return ["/".join(steps[: n + 1]) for n in range(len(steps))]


def relative(path: str) -> bool:
    """Whether the path stays under the root, written in the one way that can be compared."""
    return bool(path) and not path.startswith("/") and all(step not in ("", ".", "..") for step in path.split("/"))


class Tree:
    """The root: reads what is there, plans the difference, stages it for the check, puts it in place."""

    def __init__(self, root: str, files: list[File], directory: Attributes, prune: bool, remember: bool = True) -> None:
        self.root = root
        self.files = files
        self.directory = directory
        self.prune = prune
        self.remember = remember

    def at(self, path: str) -> str:
        return self.root if path == "." else os.path.join(self.root, path)

    # -- read --

    def manifest(self) -> Manifest:
        if not self.remember:
            return Manifest()
        try:
            with open(self.at(MANIFEST), "rb") as stream:
                raw = json.load(stream)
            files, directories = raw["files"], raw["directories"]
            if not all(isinstance(path, str) and relative(path) for path in files):
                raise ValueError("a path in it is not below the root")
            if not all(isinstance(path, str) and (path == "." or relative(path)) for path in directories):
                raise ValueError("a directory in it is not below the root")
            return Manifest(frozenset(files), frozenset(directories))
        except (FileNotFoundError, NotADirectoryError):
            return Manifest()
        except (ValueError, KeyError, TypeError) as problem:
            raise Refused(
                f"{self.at(MANIFEST)} is damaged ({problem}); remove it: the files stay, but what is no longer wanted "
                "has to be removed by hand once"
            ) from problem

    def missing_directories(self) -> list[str]:
        """Directories to make, parents first; refuses what cannot become a directory."""
        missing: list[str] = []
        wanted = {step for file in self.files for step in parents(file.path)}
        if os.path.lexists(self.root) and not os.path.isdir(self.root):
            raise Refused(f"{self.root} is not a directory; move it away")
        if self.files and not os.path.isdir(self.root):
            missing.append(".")
        for path in sorted(wanted):
            place = self.at(path)
            try:
                status = os.lstat(place)
            except FileNotFoundError:
                missing.append(path)
                continue
            if stat.S_ISLNK(status.st_mode):
                raise Refused(f"{place} is a symbolic link, and files are not written through one; remove the link")
            if not stat.S_ISDIR(status.st_mode):
                raise Refused(f"{place} is not a directory, and files shall go below it; move it away")
        return missing

    def current(self, file: File) -> Current | None:
        """The regular file at the place of a wanted one. A link or a special file counts as none: it is replaced."""
        place = self.at(file.path)
        try:
            status = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(status.st_mode):
            raise Refused(
                f"{place} is a directory, and a file shall be there; remove it (Docker makes one when a container is "
                "started before its file exists)"
            )
        if not stat.S_ISREG(status.st_mode):
            return None
        with open(place, "rb") as stream:
            return Current(stream.read(), status)

    # -- plan --

    def plan(self) -> Plan:
        known = self.manifest()
        make = self.missing_directories()
        write = []
        for file in self.files:
            found = self.current(file)
            if found is None or found.content != file.content or not file.attributes.met_by(found.status):
                write.append((file, found))

        wanted = frozenset(file.path for file in self.files)
        stale = sorted(path for path in known.files - wanted if self.removable(path))
        remove = stale if self.prune else []
        drop = self.emptied(known, frozenset(remove), wanted) if self.prune else []
        directories = (known.directories | frozenset(make)) - frozenset(drop)
        standing = frozenset(path for path in directories if path in make or os.path.isdir(self.at(path)))
        after = Manifest(wanted if self.prune else known.files | wanted, standing)
        keep = after if after.files and self.remember else None
        if not self.remember:
            differs = False
        elif keep is None and os.path.lexists(self.at(MANIFEST)):
            differs = True
        else:
            differs = keep is not None and not self.manifest_stands(keep)
        return Plan(make, write, stale, remove, drop, keep, differs)

    def removable(self, path: str) -> bool:
        """A stale file that is still there, and not behind a link that somebody put in its way."""
        if any(os.path.islink(self.at(step)) for step in parents(path)):
            return False
        try:
            return not stat.S_ISDIR(os.lstat(self.at(path)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def emptied(self, known: Manifest, removed: frozenset[str], wanted: frozenset[str]) -> list[str]:
        """Directories of ours that hold nothing once the stale files are gone, children first."""
        needed = {step for path in wanted for step in parents(path)} | ({"."} if wanted else set())
        gone: set[str] = set(removed) | ({MANIFEST} if not wanted else set())
        drop: list[str] = []
        deepest_first = sorted(known.directories - {"."}, key=lambda path: (-path.count("/"), path))
        for path in [*deepest_first, *(["."] if "." in known.directories else [])]:
            place = self.at(path)
            if path in needed or os.path.islink(place) or not os.path.isdir(place):
                continue
            prefix = "" if path == "." else f"{path}/"
            if all(f"{prefix}{name}" in gone for name in os.listdir(place)):
                drop.append(path)
                gone.add(path)
        return drop

    def manifest_stands(self, wanted: Manifest) -> bool:
        try:
            status = os.lstat(self.at(MANIFEST))
            with open(self.at(MANIFEST), "rb") as stream:
                return stream.read() == wanted.dump() and stat.S_IMODE(status.st_mode) == 0o600
        except (FileNotFoundError, NotADirectoryError):
            return False

    # -- stage --

    @contextlib.contextmanager
    def staged(self, plan: Plan) -> Iterator[str]:
        """A copy, beside the root, of the tree as it would be. It is gone afterwards."""
        beside = os.path.dirname(self.root)
        while not os.path.isdir(beside):  # nothing may be made before the check, not even the root's parents
            beside = os.path.dirname(beside)
        stage = tempfile.mkdtemp(prefix=f".{os.path.basename(self.root)}.stage-", dir=beside)
        try:
            self.fill(stage, plan)
            yield stage
        finally:
            os.chmod(stage, 0o700)
            for place, names, _ignored in os.walk(stage):
                for name in names:  # a directory without the write bit could not be emptied
                    if not os.path.islink(os.path.join(place, name)):
                        os.chmod(os.path.join(place, name), 0o700)
            shutil.rmtree(stage)

    def fill(self, stage: str, plan: Plan) -> None:
        directories: dict[str, os.stat_result | None] = {".": None}
        if os.path.isdir(self.root):
            directories["."] = os.stat(self.root)
            skip = {MANIFEST, *plan.remove, *(file.path for file in self.files)}
            for place, names, others in os.walk(self.root):
                here = os.path.relpath(place, self.root)
                for name in [*names, *others]:
                    path = name if here == "." else f"{here}/{name}"
                    status = os.lstat(self.at(path))
                    if stat.S_ISDIR(status.st_mode):
                        if path not in plan.drop:
                            os.mkdir(os.path.join(stage, path), 0o700)
                            directories[path] = status
                    elif path not in skip:
                        mirror(self.at(path), os.path.join(stage, path), status)
                names[:] = [name for name in names if (name if here == "." else f"{here}/{name}") in directories]
        for path in plan.make:
            if path != ".":
                os.mkdir(os.path.join(stage, path), 0o700)
                directories[path] = None
        for file in self.files:
            place = os.path.join(stage, file.path)
            with open(place, "xb") as stream:
                os.fchmod(stream.fileno(), 0o600)
                stream.write(file.content)
                file.attributes.apply(stream.fileno())
        for path in sorted(directories, key=lambda path: -path.count("/")):
            status_or_new = directories[path]
            place = stage if path == "." else os.path.join(stage, path)
            if status_or_new is None:
                self.directory.apply(place)
            else:
                os.chown(place, status_or_new.st_uid, status_or_new.st_gid)
                os.chmod(place, stat.S_IMODE(status_or_new.st_mode))

    # -- put in place --

    def apply(self, plan: Plan) -> None:
        """All of it, or, when something fails, nothing of it."""
        undo: list[Callable[[], None]] = []
        prepared: list[str] = []
        try:
            self.put(plan, prepared, undo)
        except BaseException:
            for new in prepared:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(new)
            for step in reversed(undo):
                step()
            raise
        for directory in {os.path.dirname(self.at(file.path)) for file, _found in plan.write}:
            sync_directory(directory)

    def put(self, plan: Plan, prepared: list[str], undo: list[Callable[[], None]]) -> None:
        """All new contents are on the disk before the first one replaces anything."""
        for path in plan.make:
            self.make_directory(path, undo)
        renames: dict[str, str] = {}
        for file, found in plan.write:
            if found is None or not file.in_place:
                renames[file.path] = prepare(self.at(file.path), file.content, file.attributes)
                prepared.append(renames[file.path])
        if plan.manifest_differs and plan.manifest is not None:
            renames[MANIFEST] = prepare(self.at(MANIFEST), plan.manifest.dump(), Attributes(0o600, None, None))
            prepared.append(renames[MANIFEST])

        for file, _found in plan.write:
            place = self.at(file.path)
            undo.append(restorer(place))
            if file.path in renames:
                os.replace(renames[file.path], place)
            else:
                overwrite(place, file.content, file.attributes)
        for path in plan.remove:
            undo.append(restorer(self.at(path)))
            os.unlink(self.at(path))
        if MANIFEST in renames:
            os.replace(renames[MANIFEST], self.at(MANIFEST))
        elif plan.manifest_differs:
            os.unlink(self.at(MANIFEST))
        for path in plan.drop:
            with contextlib.suppress(OSError):  # somebody put a file there meanwhile: it stays
                os.rmdir(self.at(path))

    def make_directory(self, path: str, undo: list[Callable[[], None]]) -> None:
        place = self.at(path)
        if path == ".":
            steps = []
            above = os.path.dirname(place)
            while not os.path.isdir(above):
                steps.append(above)
                above = os.path.dirname(above)
            for step in reversed(steps):
                os.mkdir(step)
                undo.append(directory_remover(step))
                self.directory.apply(step)
        os.mkdir(place, 0o700)
        undo.append(directory_remover(place))
        self.directory.apply(place)


def mirror(source: str, copy: str, status: os.stat_result) -> None:
    """Give the staged tree a file that is not ours: the same file where that is possible, else a copy."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), copy)
    elif stat.S_ISREG(status.st_mode):
        try:
            os.link(source, copy)
        except OSError as problem:
            if problem.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(source, copy)
            os.chown(copy, status.st_uid, status.st_gid)
            os.chmod(copy, stat.S_IMODE(status.st_mode))


def prepare(place: str, content: bytes, attributes: Attributes) -> str:
    """Write the content beside its place, under a hidden name that no `include *.conf` finds."""
    handle, new = tempfile.mkstemp(prefix=f".{os.path.basename(place)}.", suffix=".new", dir=os.path.dirname(place))
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            attributes.apply(stream.fileno())
            os.fsync(stream.fileno())
    except BaseException:
        os.unlink(new)
        raise
    return new


def overwrite(place: str, content: bytes, attributes: Attributes) -> None:
    """Write into the inode that is there. Nothing is touched when the content is right already."""
    handle = os.open(place, os.O_RDWR | os.O_NOFOLLOW)
    with os.fdopen(handle, "r+b") as stream:
        if stream.read() != content:
            stream.seek(0)
            stream.write(content)
            stream.truncate()
            stream.flush()
        attributes.apply(stream.fileno())
        os.fsync(stream.fileno())


def restorer(place: str) -> Callable[[], None]:
    """Remember what the place holds now; the returned step makes it hold that again."""
    link, content, before = "", b"", None
    inode = 0
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(place)
        if stat.S_ISLNK(status.st_mode):
            link = os.readlink(place)
        elif stat.S_ISREG(status.st_mode):
            before = Attributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
            inode = status.st_ino
            with open(place, "rb") as stream:
                content = stream.read()

    def restore() -> None:
        if before is not None and os.path.lexists(place) and os.lstat(place).st_ino == inode:
            overwrite(place, content, before)
            return
        if before is not None:
            os.replace(prepare(place, content, before), place)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        if link:
            os.symlink(link, place)

    return restore


def directory_remover(place: str) -> Callable[[], None]:
    def remove() -> None:
        with contextlib.suppress(OSError):
            os.rmdir(place)

    return remove


def sync_directory(place: str) -> None:
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def wanted_files(raw: Iterable[dict[str, Any]], check_mode: bool) -> list[File]:
    files: list[File] = []
    seen: set[str] = set()
    for number, entry in enumerate(raw):
        path = entry["path"]
        where = f"files[{number}] ({path})"
        if not relative(path):
            raise Refused(f"files[{number}].path is {path!r}; give a path relative to root, without '.', '..' or '//'")
        if path == MANIFEST:
            raise Refused(f"{where}: this name is the module's own; use another one")
        if path in seen:
            raise Refused(f"{where}: the path is given twice; leave one of them")
        seen.add(path)
        content = entry["content"]
        if not isinstance(content, str):
            kind = type(content).__name__
            raise Refused(f"{where}: content is of type {kind}, not text; use a filter such as to_nice_json")
        attributes = Attributes(
            permissions(entry["mode"], f"{where}: mode", "0640"),
            user(entry["owner"], f"{where}: owner", check_mode),
            group(entry["group"], f"{where}: group", check_mode),
        )
        files.append(File(path, content.encode(), attributes, entry["in_place"]))
    for path in sorted(seen):
        for step in parents(path):
            if step in seen:
                raise Refused(f"files: {step} is a file, and {path} shall be below it; rename one of them")
    return files


def differences(tree: Tree, plan: Plan) -> list[dict[str, str]]:
    """One diff per file, in the words that ansible-playbook --diff prints."""

    diffs = []
    for path in plan.make:
        place = tree.at(path)
        diffs.append({"before_header": place, "after_header": place, "before": "", "after": "(directory)\n"})
    for file, found in plan.write:
        place = tree.at(file.path)
        if found is None or found.content != file.content:
            before = "" if found is None else found.content.decode(errors="replace")
            after = file.content.decode()
            diffs.append({"before_header": place, "after_header": place, "before": before, "after": after})
        if found is not None and not file.attributes.met_by(found.status):
            label = f"{place} (permissions)"
            before, after = file.attributes.describe(found.status), file.attributes.describe()
            diffs.append({"before_header": label, "after_header": label, "before": before, "after": after})
    for path in plan.remove:
        place = tree.at(path)
        diffs.append({"before_header": place, "after_header": f"{place} (removed)", "before": "(file)\n", "after": ""})
    return diffs


def check(module: AnsibleModule, tree: Tree, plan: Plan, command: str) -> None:
    with tree.staged(plan) as stage:
        try:
            words = [word.replace("%s", stage) for word in shlex.split(command)]
        except ValueError as problem:
            raise Refused(f"validate is {command!r}, no command line ({problem}); check its quotes") from problem
        try:
            code, out, err = module.run_command(words, handle_exceptions=False, expand_user_and_vars=False)
        except OSError as problem:
            raise Refused(f"validate: {words[0]} cannot be run: {problem.strerror}; nothing was changed") from problem
        if code != 0:
            said = "\n".join(text.strip() for text in (err, out) if text.strip()) or "(no output)"
            said = said.replace(stage, tree.root)
            raise Refused(f"validate failed with exit code {code}; nothing was changed. It said:\n{said}")


def run(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    command = params["validate"]
    if command and "%s" not in command:
        raise Refused(f"validate is {command!r}, without %s; put %s where the command takes the directory to check")
    if not params["remember"] and (params["prune"] or command):
        raise Refused("remember is false, and so prune and validate cannot be used; leave them out")
    directory = Attributes(permissions(params["directory_mode"], "directory_mode", "0750"), None, None)
    root = os.path.abspath(params["root"])
    tree = Tree(root, wanted_files(params["files"], module.check_mode), directory, params["prune"], params["remember"])
    plan = tree.plan()
    result: dict[str, Any] = {
        "changed": plan.changes,
        "changed_files": [file.path for file, _found in plan.write],
        "removed_files": plan.remove,
        "stale_files": [] if params["prune"] else plan.stale,
    }
    if module._diff:
        result["diff"] = differences(tree, plan)
    if not plan.changes:
        return result
    if command and (params["validate_in_check"] or not module.check_mode):
        check(module, tree, plan, command)
    if not module.check_mode:
        tree.apply(plan)
    return result


class Module(AnsibleModule):  # type: ignore[misc]  # ansible carries no type information
    """Its result shows the parameters without the contents (at -vvv, and when the parameters are refused)."""

    def exit_json(self, **kwargs: Any) -> NoReturn:
        super().exit_json(invocation=self.shown(), **kwargs)
        raise AssertionError("exit_json ends the program")

    def fail_json(self, msg: str, **kwargs: Any) -> NoReturn:
        kwargs["invocation"] = self.shown()
        super().fail_json(msg, **kwargs)
        raise AssertionError("fail_json ends the program")

    def shown(self) -> dict[str, Any]:
        files = self.params.get("files")
        entries = files if isinstance(files, list) else []
        paths = [entry.get("path") if isinstance(entry, dict) else None for entry in entries]
        return {"module_args": {**self.params, "files": paths}}


def main() -> NoReturn:
    module = Module(
        argument_spec={
            "root": {"type": "path", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "content": {"type": "raw", "required": True},
                    "mode": {"type": "raw", "default": "0644"},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "in_place": {"type": "bool", "default": False},
                },
            },
            "directory_mode": {"type": "raw", "default": "0755"},
            "prune": {"type": "bool", "default": False},
            "remember": {"type": "bool", "default": True},
            "validate": {"type": "str"},
            "validate_in_check": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
        no_log=True,  # keeps the contents out of the host's system log
    )
    try:
        module.exit_json(**run(module))
    except Refused as problem:
        module.fail_json(msg=str(problem))
    except OSError as problem:
        what = f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem)
        module.fail_json(msg=f"{what}; what stood there before was put back")


if __name__ == "__main__":
    main()
