"""The module file_tree: as a program in this process; what Ansible makes of it, run by the real ansible-playbook; its
failures half-way, called directly."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.trollllm.gateway.plugins.modules import file_tree as subject
from real_ansible import Ansible, Run

MANIFEST = ".manifest.json"
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")


class Call:
    """One call of the module on a root in the test's directory."""

    def __init__(self, ansible: Ansible, capture: pytest.CaptureFixture[str]) -> None:
        self.ansible = ansible
        self.capture = capture
        self.root = ansible.directory / "host" / "conf"
        self.root.parent.mkdir()

    def task(self, *files: dict[str, Any], **options: Any) -> dict[str, Any]:
        given = {"root": str(self.root), "files": list(files), **options}
        return {"name": "Write the tree", "trollllm.gateway.file_tree": given}

    def __call__(
        self, *files: dict[str, Any], check: bool = False, diff: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Its result, as the program prints it."""
        given = {"root": str(self.root), "files": list(files), **options}
        with patch_module_args({"_ansible_check_mode": check, "_ansible_diff": diff, **given}):
            self.capture.readouterr()
            with pytest.raises(SystemExit):
                subject.main()
        result: dict[str, Any] = json.loads(self.capture.readouterr().out)
        return result

    def lay(self, *files: dict[str, Any]) -> None:
        """What an earlier call left behind, without the time that it takes through Ansible."""
        defaults = {"mode": "0644", "owner": None, "group": None, "in_place": False}
        wanted = subject.wanted_files(({**defaults, **file} for file in files), check_mode=False)
        tree = subject.Tree(str(self.root), wanted, subject.Attributes(0o755, None, None), prune=False)
        tree.apply(tree.plan())

    def run(self, task: dict[str, Any], *flags: str, callback: str = "ansible.posix.json") -> Run:
        return self.ansible.play([task], *flags, callback=callback)

    def program(self, text: str) -> str:
        """A command for `validate`."""
        place = self.ansible.write("program", f"#!/bin/sh\n{text}\n")
        place.chmod(0o755)
        return f"{place} %s"

    def snapshot(self) -> dict[str, tuple[int, int, float, bytes]]:
        """Everything that a failed or a checking run must not touch, inodes included."""
        found = {}
        for place in sorted(self.root.parent.rglob("*")):
            status = place.lstat()
            content = place.read_bytes() if place.is_file() else b""
            found[str(place)] = (status.st_ino, status.st_mode, status.st_mtime, content)
        return found


@pytest.fixture
def tree(ansible: Ansible, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    call = Call(ansible, capsys)
    yield call
    names = [place.name for place in call.root.parent.rglob("*")]
    assert not [name for name in names if ".stage-" in name or name.endswith(".new")]  # nothing is left lying about


def text(path: str, content: str = "one\n", **more: Any) -> dict[str, Any]:
    return {"path": path, "content": content, **more}


def mode(place: Path) -> str:
    return f"{stat.S_IMODE(place.lstat().st_mode):04o}"


def test_makes_files_and_directories(tree: Call) -> None:
    result = tree(text("a.conf", mode="0440"), text("sites/chat/b.conf"), directory_mode="0750")
    assert result["changed"] is True
    assert result["changed_files"] == ["a.conf", "sites/chat/b.conf"]
    assert result["removed_files"] == []
    assert (tree.root / "a.conf").read_text() == "one\n"
    assert mode(tree.root / "a.conf") == "0440"
    assert mode(tree.root / "sites/chat/b.conf") == "0644"
    assert [mode(tree.root / path) for path in ("", "sites", "sites/chat")] == ["0750"] * 3
    assert mode(tree.root / MANIFEST) == "0600"
    assert json.loads((tree.root / MANIFEST).read_text()) == {
        "directories": [".", "sites", "sites/chat"],
        "files": ["a.conf", "sites/chat/b.conf"],
    }


@as_root
def test_owners_by_name_and_number(tree: Call) -> None:
    files = [text("a", owner="18004", group="18000"), text("d/b", owner="nobody", group="daemon")]
    tree(*files)
    assert ((tree.root / "a").stat().st_uid, (tree.root / "a").stat().st_gid) == (18004, 18000)
    assert ((tree.root / "d/b").owner(), (tree.root / "d/b").group()) == ("nobody", "daemon")
    assert (tree.root / MANIFEST).stat().st_uid == 0


def test_a_second_run_changes_nothing(tree: Call) -> None:
    files = [text("a", mode="0400"), text("d/b", in_place=True), text("d/c", "")]
    tree(*files, prune=True)
    before = tree.snapshot()
    for check in (False, True):
        result = tree(*files, prune=True, validate="/bin/false %s", validate_in_check=True, check=check, diff=True)
        assert (result["changed"], result["changed_files"]) == (False, [])
        assert result.get("diff", []) == []
    assert tree.snapshot() == before


@pytest.mark.parametrize("bare", [True, False], ids=["bare host", "there already"])
def test_check_mode_tells_and_touches_nothing(tree: Call, bare: bool) -> None:
    if not bare:
        tree.lay(text("a", "old\n"), text("stale"))
    before = tree.snapshot()
    result = tree(text("a"), text("d/b"), prune=True, check=True)
    assert result["changed"] is True
    assert result["changed_files"] == ["a", "d/b"]
    assert result["removed_files"] == ([] if bare else ["stale"])
    assert tree.snapshot() == before


def test_check_mode_on_a_host_that_lacks_even_the_parents(tree: Call) -> None:
    tree.root = tree.root / "not" / "yet" / "there"
    assert tree(text("a"), check=True, validate="/bin/true %s", validate_in_check=True)["changed"] is True
    assert not tree.root.parents[2].exists()
    tree(text("a"), directory_mode="0711")
    assert mode(tree.root.parent) == "0711"


def test_the_diff_is_per_file(tree: Call) -> None:
    tree.lay(text("a", "old\n"), text("same"), text("gone"))
    result = tree(text("a", "new\n", mode="0600"), text("same"), text("b"), prune=True, diff=True)
    root = tree.root
    assert result["diff"] == [
        {"before_header": f"{root}/a", "after_header": f"{root}/a", "before": "old\n", "after": "new\n"},
        {
            "before_header": f"{root}/a (permissions)",
            "after_header": f"{root}/a (permissions)",
            "before": "mode: 0644\n",
            "after": "mode: 0600\n",
        },
        {"before_header": f"{root}/b", "after_header": f"{root}/b", "before": "", "after": "one\n"},
        {"before_header": f"{root}/gone", "after_header": f"{root}/gone (removed)", "before": "(file)\n", "after": ""},
    ]


def test_the_diff_as_it_is_printed(tree: Call) -> None:
    tree.lay(text("a", "same\nold\n"))
    printed = tree.run(tree.task(text("a", "same\nnew\n")), "--diff", callback="default").output
    assert f"--- before: {tree.root}/a" in printed
    assert " same\n-old\n+new\n" in printed


def test_no_diff_where_it_is_off(tree: Call) -> None:
    assert "diff" not in tree(text("a"))
    task = {**tree.task(text("a", "two\n")), "diff": False}
    assert "diff" not in tree.run(task, "--diff").result


@pytest.mark.parametrize("option", [{}, {"mode": "u=r"}, {"unknown": 1}], ids=["fine", "refused", "unknown option"])
def test_contents_are_not_in_the_result(tree: Call, option: dict[str, Any]) -> None:
    run = tree.run(tree.task(text("key", "MARKED\n", **option)), "-vvvv", callback="default")
    assert (run.code == 0) is (option == {})
    assert '"root":' in run.output  # the other parameters are shown
    assert "MARKED" not in run.output


def test_replaces_by_rename(tree: Call) -> None:
    tree.lay(text("a", "old\n"))
    place = tree.root / "a"
    inode = place.stat().st_ino
    with place.open() as held:
        tree(text("a", "new\n"))
        assert held.read() == "old\n"  # whoever has it open reads all of the old one
    assert place.read_text() == "new\n"
    assert place.stat().st_ino != inode


@pytest.mark.parametrize("content", ["longer than before\n", "x", ""])
def test_in_place_keeps_the_inode(tree: Call, content: str) -> None:
    tree.lay(text("a", "before\n", in_place=True))
    place = tree.root / "a"
    inode = place.stat().st_ino
    result = tree(text("a", content, in_place=True, mode="0600"))
    assert result["changed_files"] == ["a"]
    assert place.read_text() == content
    assert (place.stat().st_ino, mode(place)) == (inode, "0600")


def test_permissions_that_drifted_are_set_right(tree: Call) -> None:
    tree.lay(text("a", mode="0640"), text("b", mode="0640", in_place=True))
    for name in ("a", "b"):
        (tree.root / name).chmod(0o666)
    assert tree(text("a", mode="0640"), text("b", mode="0640", in_place=True))["changed_files"] == ["a", "b"]
    assert [mode(tree.root / name) for name in ("a", "b")] == ["0640", "0640"]


def test_prune_removes_its_own_files_and_the_directories_they_leave_empty(tree: Call) -> None:
    tree.lay(text("a"), text("d/e/f"), text("d/g"), text("h/i"), text("j/k"))
    (tree.root / "foreign").write_text("not ours\n")
    (tree.root / "h/foreign").write_text("not ours\n")
    (tree.root / "j/k").unlink()  # somebody was quicker
    result = tree(text("a"), text("d/g"), prune=True)
    assert result["removed_files"] == ["d/e/f", "h/i"]
    assert sorted(str(place.relative_to(tree.root)) for place in tree.root.rglob("*")) == [
        MANIFEST,
        "a",
        "d",
        "d/g",
        "foreign",
        "h",
        "h/foreign",
    ]
    assert json.loads((tree.root / MANIFEST).read_text()) == {"directories": [".", "d", "h"], "files": ["a", "d/g"]}
    assert tree(text("a"), text("d/g"), prune=True)["changed"] is False


def test_without_prune_nothing_is_removed_or_forgotten(tree: Call) -> None:
    tree.lay(text("a"), text("b"))
    result = tree(text("a"))
    assert (result["changed"], result["removed_files"], result["stale_files"]) == (False, [], ["b"])
    result = tree(text("a"), prune=True)
    assert (result["removed_files"], result["stale_files"]) == (["b"], [])


def test_directories_that_were_there_before_stay(tree: Call) -> None:
    (tree.root / "d").mkdir(parents=True, mode=0o700)
    tree.root.chmod(0o711)
    tree.lay(text("d/a"))
    assert (mode(tree.root), mode(tree.root / "d")) == ("0711", "0700")
    tree(prune=True)
    assert [place.name for place in tree.root.rglob("*")] == ["d"]


def test_pruning_everything_leaves_nothing(tree: Call) -> None:
    tree.lay(text("a"), text("d/b"))
    result = tree(prune=True)
    assert result["removed_files"] == ["a", "d/b"]
    assert not tree.root.exists()
    assert tree(prune=True)["changed"] is False
    assert tree()["changed"] is False


def test_the_check_sees_the_whole_tree_as_it_would_be(tree: Call) -> None:
    tree.lay(text("a", "old\n"), text("d/stale"), text("d/kept"))
    (tree.root / "foreign.conf").write_text("not ours\n")
    (tree.root / "foreign.conf").chmod(0o604)
    (tree.root / "link").symlink_to("../elsewhere")
    seen_file = tree.root.parent.parent / "seen"
    command = tree.program(
        f'exec > {seen_file}; cd "$1"; pwd; find . -printf "%P %m %l\\n" | sort; cat a foreign.conf {tree.root}/a'
    )
    files = [text("a", "new\n", mode="0400"), text("d/kept"), text("e/b", mode="0640")]
    result = tree(*files, prune=True, directory_mode="0751", validate=command)
    assert result["changed"] is True
    where, *seen = seen_file.read_text().splitlines()
    assert Path(where).parent == tree.root.parent
    assert seen == [
        " 755 ",
        "a 400 ",
        "d 755 ",
        "d/kept 644 ",
        "e 751 ",
        "e/b 640 ",
        "foreign.conf 604 ",
        "link 777 ../elsewhere",
        "new",
        "not ours",
        "old",  # while the check runs, the old one stands
    ]
    assert not Path(where).exists()
    assert (tree.root / "foreign.conf").read_text() == "not ours\n"


@as_root
def test_the_check_sees_the_owners(tree: Call) -> None:
    command = tree.program('test "$(stat -c %u:%g "$1" "$1/a" "$1/d" | tr "\\n" " ")" = "0:0 5:6 0:0 "')
    files = [text("a", owner="5", group="6"), text("d/b")]
    assert tree(*files, validate=command)["changed"] is True


@pytest.mark.parametrize("bare", [True, False], ids=["bare host", "there already"])
def test_a_check_that_fails_leaves_all_untouched(tree: Call, bare: bool) -> None:
    if not bare:
        tree.lay(text("a", "old\n"), text("stale"), text("p", "old\n", in_place=True))
    before = tree.snapshot()
    command = tree.program('echo "looked at $1"; echo "line 3: unknown directive" >&2; exit 9')
    result = tree(text("a"), text("p", in_place=True), text("d/b"), prune=True, validate=command)
    assert result["failed"] is True
    assert result["msg"] == (
        "validate failed with exit code 9; nothing was changed. It said:\n"
        f"line 3: unknown directive\nlooked at {tree.root}"
    )
    assert tree.snapshot() == before


def test_the_check_in_check_mode(tree: Call) -> None:
    command = tree.program(f"echo ran >> {tree.root.parent}/../ran; exit 1")
    assert tree(text("a"), validate=command, check=True)["changed"] is True
    assert not (tree.root.parent / "../ran").exists()
    assert tree(text("a"), validate=command, validate_in_check=True, check=True)["failed"] is True
    assert (tree.root.parent / "../ran").read_text() == "ran\n"
    assert not tree.root.exists()


def test_a_link_in_a_files_place_is_replaced_and_not_followed(tree: Call) -> None:
    tree.root.mkdir()
    victim = tree.root.parent / "victim"
    victim.write_text("old\n")
    for name in ("a", "b"):
        (tree.root / name).symlink_to(victim)
    assert tree(text("a"), text("b", in_place=True))["changed_files"] == ["a", "b"]
    assert victim.read_text() == "old\n"
    assert not (tree.root / "a").is_symlink()
    assert (tree.root / "b").read_text() == "one\n"


def test_prune_does_not_reach_through_a_link(tree: Call) -> None:
    tree.lay(text("d/a"), text("b"))
    (tree.root / "d/a").unlink()
    (tree.root / "d").rmdir()
    elsewhere = tree.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").write_text("not ours\n")
    (tree.root / "d").symlink_to(elsewhere)
    assert tree(text("b"), prune=True)["removed_files"] == []
    assert (elsewhere / "a").read_text() == "not ours\n"


def test_an_owner_that_is_still_to_be_made_does_not_fail_check_mode(tree: Call) -> None:
    files = [text("a", owner="nobody-yet", group="nogroup-yet")]
    result = tree(*files, validate="/bin/true %s", validate_in_check=True, check=True, diff=True)
    assert result["changed"] is True
    assert "which this host does not know; make it first" in tree(*files)["msg"]


REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "absolute path": ([text("/etc/passwd")], {}, "files[0].path is '/etc/passwd'; give a path relative to root"),
    "way out": ([text("a/../../b")], {}, "files[0].path is 'a/../../b'; give a path relative to root"),
    "empty path": ([text("")], {}, "files[0].path is ''; give a path relative to root"),
    "final slash": ([text("a/")], {}, "files[0].path is 'a/'; give a path relative to root"),
    "the manifest": ([text(MANIFEST)], {}, f"files[0] ({MANIFEST}): this name is the module's own; use another one"),
    "twice": ([text("a"), text("a")], {}, "files[1] (a): the path is given twice; leave one of them"),
    "file below a file": ([text("a"), text("a/b")], {}, "files: a is a file, and a/b shall be below it; rename one"),
    "content no text": (
        [{"path": "a", "content": {"b": 1}}],
        {},
        "files[0] (a): content is of type dict, not text; use a filter such as to_nice_json",
    ),
    "mode a number": (
        [text("a", mode=416)],
        {},
        "files[0] (a): mode is 416; give a quoted octal number such as '0640'",
    ),
    "mode in letters": ([text("a", mode="u=rw")], {}, "files[0] (a): mode is 'u=rw'; give a quoted octal number"),
    "directory mode": ([text("a")], {"directory_mode": "999"}, "directory_mode is '999'; give a quoted octal number"),
    "owner unknown": ([text("a", owner="nobody-here")], {}, "files[0] (a): owner is 'nobody-here', which this host"),
    "group unknown": ([text("a", group="nobody-here")], {}, "files[0] (a): group is 'nobody-here', which this host"),
    "check without %s": ([text("a")], {"validate": "nginx -t"}, "validate is 'nginx -t', without %s; put %s where"),
    "check with an open quote": ([text("a")], {"validate": "nginx '%s"}, 'validate is "nginx \'%s", no command line'),
    "check that is not there": (
        [text("a")],
        {"validate": "/nonexistent %s"},
        "validate: /nonexistent cannot be run: No such file or directory; nothing was changed",
    ),
    "a directory in the file's place": (
        [text("directory")],
        {},
        "is a directory, and a file shall be there; remove it",
    ),
    "a file in a directory's place": ([text("file/a")], {}, "is not a directory, and files shall go below it"),
    "a link in a directory's place": (
        [text("link/a")],
        {},
        "is a symbolic link, and files are not written through one",
    ),
}


@pytest.mark.parametrize(("files", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_refused_and_changes_nothing(
    tree: Call, files: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    (tree.root / "directory").mkdir(parents=True)
    (tree.root / "file").touch()
    (tree.root / "link").symlink_to(tree.root / "directory")
    before = tree.snapshot()
    result = tree(*files, **options)
    assert result.get("failed") is True
    assert message in result["msg"]
    assert tree.snapshot() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"files": ["../../etc/passwd"], "directories": []}', '{"files": 1}'])
def test_a_damaged_manifest_removes_nothing(tree: Call, content: str) -> None:
    tree.root.mkdir()
    (tree.root / MANIFEST).write_text(content)
    result = tree(text("a"), prune=True)
    assert result["failed"] is True
    assert f"{tree.root}/{MANIFEST} is damaged" in result["msg"]
    assert not (tree.root / "a").exists()


def test_a_root_that_is_a_file(tree: Call) -> None:
    tree.root.touch()
    assert tree(text("a"))["msg"] == f"{tree.root} is not a directory; move it away"


# -- failures half-way, which no inventory provokes --


def planned(root: Path, *files: tuple[str, str, bool]) -> tuple[subject.Tree, subject.Plan]:
    normal = subject.Attributes(0o644, None, None)
    wanted = [subject.File(path, text.encode(), normal, in_place) for path, text, in_place in files]
    tree = subject.Tree(str(root), wanted, subject.Attributes(0o755, None, None), prune=True)
    return tree, tree.plan()


def fails_at(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The same, but its nth call finds the disk full."""
    count = 0

    def wrapper(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return call(*given, **named)

    return wrapper


@pytest.mark.parametrize(
    ("function", "number"),
    [
        *(("replace", number) for number in (1, 2, 3)),  # two files, then the manifest
        *(("fsync", number) for number in (1, 2, 3, 4)),  # two files prepared, one written in place, the manifest
        ("unlink", 1),
        *(("mkdir", number) for number in (1, 2)),
        *(("chown", number) for number in (1, 2, 3, 4)),
    ],
)
def test_a_failure_half_way_puts_everything_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    root = tmp_path / "conf"
    tree, plan = planned(root, ("a", "old\n", False), ("p", "old, and longer\n", True), ("stale", "stale\n", False))
    tree.apply(plan)
    (root / "a").chmod(0o600)
    inode = (root / "p").stat().st_ino

    def state() -> list[tuple[str, int, bytes]]:
        places = sorted(place for place in tmp_path.rglob("*"))
        return [(str(place), place.stat().st_mode, place.read_bytes() if place.is_file() else b"") for place in places]

    before = state()
    tree, plan = planned(root, ("a", "new\n", False), ("p", "new\n", True), ("d/e/b", "new\n", False))
    with monkeypatch.context() as broken:
        broken.setattr(os, function, fails_at(getattr(os, function), number))
        with pytest.raises(OSError, match="No space left"):
            tree.apply(plan)
    assert state() == before
    assert (root / "p").stat().st_ino == inode

    tree.apply(tree.plan())
    assert (root / "d/e/b").read_text() == "new\n"
    assert not (root / "stale").exists()


def test_a_link_is_put_back_as_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "conf"
    root.mkdir()
    (root / "a").symlink_to("nowhere")
    tree, plan = planned(root, ("a", "new\n", False), ("b", "new\n", False))
    monkeypatch.setattr(os, "replace", fails_at(os.replace, 2))
    with pytest.raises(OSError, match="No space left"):
        tree.apply(plan)
    assert (root / "a").readlink() == Path("nowhere")
    assert [place.name for place in root.iterdir()] == ["a"]


def test_the_check_gets_copies_where_there_can_be_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "conf"
    root.mkdir()
    (root / "foreign").write_text("not ours\n")
    (root / "foreign").chmod(0o604)
    os.mkfifo(root / "fifo")
    tree, plan = planned(root, ("a", "new\n", False))

    def elsewhere(source: str, copy: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link", source, None, copy)

    monkeypatch.setattr(os, "link", elsewhere)
    with tree.staged(plan) as stage:
        found = {place.name: (mode(place), place.read_text()) for place in Path(stage).iterdir()}
    assert found == {"foreign": ("0604", "not ours\n"), "a": ("0644", "new\n")}
    assert not Path(stage).exists()


def test_what_is_not_to_be_remembered_leaves_no_manifest(tree: Call) -> None:
    """Single files among those of others: written once, put right, and never noted."""
    assert tree(text("sub/a.conf"), remember=False)["changed"] is True
    assert [place.name for place in tree.root.rglob("*")] == ["sub", "a.conf"]
    assert tree(text("sub/a.conf"), remember=False)["changed"] is False
    assert tree(text("sub/a.conf", "two\n"), remember=False)["changed_files"] == ["sub/a.conf"]
    assert (tree.root / "sub/a.conf").read_text() == "two\n"


@pytest.mark.parametrize("options", [{"prune": True}, {"validate": "true %s"}])
def test_what_is_not_remembered_cannot_be_pruned_or_checked_as_a_tree(tree: Call, options: dict[str, Any]) -> None:
    result = tree(text("a.conf"), remember=False, **options)
    assert result["msg"] == "remember is false, and so prune and validate cannot be used; leave them out"
    assert not tree.root.exists()
