"""What an image is made of, as its own program tells it."""

from __future__ import annotations

import io
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from goproxy.cli import main

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 1:2.41-12+deb13u1
Description: a library
 with: a text

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1:2~rc1-1
"""


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["sbom", *arguments]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    return document


def test_the_packages_of_this_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of Debian's that are installed, and all of Python's; twice the same document."""
    (tmp_path / "status").write_text(STATUS)
    monkeypatch.setattr("goproxy.cli._DPKG_STATUS", str(tmp_path / "status"))
    document = told(capsys)
    purls = {each["purl"] for each in document["components"]}
    assert {purl for purl in purls if "deb/" in purl} == {"pkg:deb/debian/libc6@1:2.41-12%2Bdeb13u1?arch=amd64"}
    assert f"pkg:pypi/aiohttp@{metadata.version('aiohttp')}" in purls
    assert f"pkg:pypi/prometheus-client@{metadata.version('prometheus_client')}" in purls
    assert len(purls) == len(document["components"]), "none twice"
    assert told(capsys) == document


def test_the_packages_of_another_image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(STATUS))
    document = told(capsys, "--name", "edge", "--debian", "-")
    assert document["metadata"]["component"]["name"] == "edge"
    assert [each["name"] for each in document["components"]] == ["libc6"]


@pytest.mark.parametrize("content", [None, b"hello\n", b"\xff", b"Status: install ok installed\nVersion: 1\n"])
def test_a_list_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    path = tmp_path / "status"
    if content is not None:
        path.write_bytes(content)
    assert main(["sbom", "--debian", str(path)]) == 1
    said = capsys.readouterr()
    assert str(path) in said.err
    assert "Expected: Debian's list" in said.err
    assert not said.out
