"""The module folders, run by the real ansible-playbook; the engine is a script that notes what it is told."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from real_ansible import Ansible

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders away")

DOCKER = """#!/bin/sh
# Notes each stop, and whose the journal is at that moment.
case "$1" in
  ps) printf '/%s\\n' proxy proxy.leaving-1 other | grep --extended-regexp "${4#name=}" | tr --delete / ;;
  stop) shift; echo "stop $*, owner $(stat --format %u {journal})" >> {notes} ;;
esac
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal of user 18004, with a segment in it and a link that leads out of it."""
    folder = tmp_path / "data" / "alpha"
    (folder / "segments").mkdir(parents=True)
    (folder / "segments" / "1").write_text("row")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("not the journal's")
    for place in (folder, *folder.rglob("*")):
        os.lchown(place, 18004, 18000)
    folder.chmod(0o700)
    return folder


@pytest.fixture
def stops(tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of notes of an engine in which the container `proxy` runs, and no other."""
    notes, program = tmp_path / "stops", tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER.replace("{journal}", str(journal)).replace("{notes}", str(notes)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return notes


def call(ansible: Ansible, *folders: dict[str, Any], flags: tuple[str, ...] = ()) -> dict[str, Any]:
    return ansible.play([{"trollllm.gateway.folders": {"folders": list(folders)}}], *flags).result


def of(path: Path, owner: int, container: str = "proxy") -> dict[str, Any]:
    return {
        "path": str(path),
        "mode": "0700",
        "owner": str(owner),
        "group": "18000",
        "contents": True,
        "container": container,
    }


def owners(folder: Path) -> set[int]:
    return {place.lstat().st_uid for place in (folder, *folder.rglob("*"))}


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a host's administrator has chosen for root."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_makes_all_folders_in_one_call_and_then_nothing(ansible: Ansible, tmp_path: Path) -> None:
    """The modes are those that were asked for, whatever the umask."""
    wanted = [of(tmp_path / "new" / "deep" / name, 18000 + number) for number, name in enumerate("abc")]
    assert call(ansible, *wanted)["changed_files"] == [each["path"] for each in wanted]
    found = (tmp_path / "new" / "deep" / "b").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o700, 18001, 18000)
    for above in (tmp_path / "new", tmp_path / "new" / "deep"):
        assert stat.S_IMODE(above.stat().st_mode) == 0o755
    again = call(ansible, *wanted)
    assert (again["changed"], again["changed_files"]) == (False, [])


def test_what_changes_hands_is_stopped_first_and_then_handed_over_whole(
    ansible: Ansible, tmp_path: Path, journal: Path, stops: Path
) -> None:
    """The note of the stop says who owned the journal at that moment: still the old user, who wrote until then."""
    call(ansible, of(journal, 18044))
    assert stops.read_text() == "stop proxy proxy.leaving-1, owner 18004\n"
    assert owners(journal) == {18044}
    assert (tmp_path / "elsewhere").stat().st_uid == 0, "a link is given away, not what it leads to"


def test_a_container_that_is_not_there_need_not_be_stopped(ansible: Ansible, journal: Path, stops: Path) -> None:
    call(ansible, of(journal, 18044, container="gone"))
    assert not stops.exists()
    assert owners(journal) == {18044}


def test_what_stays_with_its_user_is_not_stopped(ansible: Ansible, journal: Path, stops: Path) -> None:
    """Also where its mode is put right."""
    journal.chmod(0o755)
    assert call(ansible, of(journal, 18004))["changed"] is True
    assert stat.S_IMODE(journal.stat().st_mode) == 0o700
    assert not stops.exists()


def test_check_mode_says_it_and_stops_nothing(ansible: Ansible, journal: Path, stops: Path) -> None:
    result = call(ansible, of(journal, 18044), of(journal.parent / "new", 18005), flags=("--check", "--diff"))
    assert result["changed_files"] == [str(journal), str(journal.parent / "new")]
    assert result["diff"][0]["before"] == "mode: 0700\nowner: 18004\ngroup: 18000\n"
    assert result["diff"][0]["after"] == "mode: 0700\nowner: 18044\ngroup: 18000\n"
    assert owners(journal) == {18004}
    assert not (journal.parent / "new").exists()
    assert not stops.exists()


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"path": "data/alpha"}, "path is 'data/alpha'; give an absolute path"),
        ({"mode": 448}, "mode is 448; give a quoted octal number such as '0750'"),
        ({"owner": "nobody-of-this-name"}, "'nobody-of-this-name', which this host does not know"),
        ({"path": "/etc/passwd"}, "/etc/passwd is there, and is no folder; move it away"),
    ],
)
def test_what_cannot_be_is_said(ansible: Ansible, tmp_path: Path, spoiled: dict[str, Any], said: str) -> None:
    result = call(ansible, of(tmp_path / "new", 18004) | spoiled)
    assert result["failed"] is True
    assert said in result["msg"]
    assert not (tmp_path / "new").exists()
