"""A watched file's new content is seen, however it was replaced."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from goproxy.watched_file import WatchedFile


def settle(path: Path) -> None:
    """Make the file look untouched for a while; its change time cannot be set, so wait for that."""
    os.utime(path, (1, 1))
    time.sleep(0.15)


def test_the_content_is_given_once(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a")
    settle(path)
    watched = WatchedFile(path)
    assert [watched.changed(), watched.changed()] == [b"a", None]


def test_a_fresh_file_is_read_again_in_case_its_writer_is_still_at_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a")
    watched = WatchedFile(path)
    assert [watched.changed(), watched.changed()] == [b"a", b"a"]
    settle(path)
    assert [watched.changed(), watched.changed()] == [b"a", None]


@pytest.mark.parametrize("way", ["in place", "rename", "same size and time"])
def test_a_change_is_seen(tmp_path: Path, way: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a")
    settle(path)
    watched = WatchedFile(path)
    watched.changed()
    if way == "rename":
        (tmp_path / "g").write_bytes(b"b")
        os.utime(tmp_path / "g", (1, 1))
        (tmp_path / "g").rename(path)
    else:
        path.write_bytes(b"b")
        if way == "same size and time":
            os.utime(path, (1, 1))
    assert watched.changed() == b"b"


def test_a_file_of_the_future_is_settled_when_it_was_seen_untouched(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a")
    os.utime(path, (time.time() + 3600,) * 2)
    watched = WatchedFile(path)
    assert [watched.changed(), watched.changed()] == [b"a", b"a"]
    time.sleep(0.15)
    assert [watched.changed(), watched.changed()] == [b"a", None]
    path.write_bytes(b"b")
    assert watched.changed() == b"b"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    watched = WatchedFile(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        watched.changed()
