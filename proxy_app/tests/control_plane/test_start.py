"""`goproxy backend` as the container starts it: on an empty database, on one that is there, and on none."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from goproxy import cli
from goproxy.control_plane.catalogue import Catalogue
from goproxy.control_plane.metrics import Metrics
from tests.control_plane.postgres import Postgres
from tests.gateway import config_document
from tests.process import free_port

TOKEN = "operator"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.json").write_text(json.dumps(config_document()))
    (tmp_path / "operator_token").write_text(hashlib.sha256(TOKEN.encode()).hexdigest())
    return {
        "PATH": os.environ["PATH"],
        "GOPROXY_OPENHANDS_CONFIG_PATH": str(tmp_path / "config.json"),
        "BACKEND_DATABASE_URL": f"sqlite:///{tmp_path}/backend.sqlite3",
        "OPERATOR_TOKEN_PATH": str(tmp_path / "operator_token"),
        "PROXY_TOKENS_PATH": str(tmp_path / "proxy_tokens"),
        "KEYS_PATH": str(tmp_path / "keys.json"),
        "BACKEND_PORT": str(free_port()),
    }


@contextmanager
def running(environment: dict[str, str]) -> Iterator[list[Any]]:
    """A backend in a process of its own; its log lines, those after the end too."""
    command = [sys.executable, "-m", "goproxy.cli", "backend"]
    lines: list[Any] = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as backend:
        assert backend.stdout is not None
        for line in backend.stdout:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "listening":
                break
        try:
            yield lines
        finally:
            backend.send_signal(signal.SIGTERM)
            lines += map(json.loads, backend.stdout)
            assert backend.wait(timeout=30) == 0


def ask(environment: dict[str, str], path: str, document: Any = None) -> Any:
    url = f"http://127.0.0.1:{environment['BACKEND_PORT']}{path}"
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_what_is_stored_is_there_after_a_restart(environment: dict[str, str], tmp_path: Path) -> None:
    with running(environment) as lines:
        ask(environment, "/admin/v1/accounts", {"name": "alice"})
    assert [line["event"] for line in lines[-2:]] == ["leaving", "left"]
    assert (tmp_path / "backend.sqlite3").stat().st_mode & 0o777 == 0o600
    with running(environment):
        assert [each["name"] for each in ask(environment, "/admin/v1/accounts")["accounts"]] == ["alice"]


@pytest.mark.postgresql
def test_on_postgresql_with_its_url_in_a_file(environment: dict[str, str], tmp_path: Path, postgres: Postgres) -> None:
    del environment["BACKEND_DATABASE_URL"]
    (tmp_path / "url").write_text(postgres.new_database() + "\n")
    environment["BACKEND_DATABASE_URL_PATH"] = str(tmp_path / "url")
    with running(environment):
        assert ask(environment, "/admin/v1/accounts") == {"accounts": []}


def test_a_backend_that_is_polled_leaves_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "proxy_tokens").mkdir()
    (tmp_path / "proxy_tokens" / "openhands").write_text(hashlib.sha256(TOKEN.encode()).hexdigest())
    answers: list[int] = []

    def poll() -> None:
        url = f"http://127.0.0.1:{environment['BACKEND_PORT']}/proxy/v1/keys?instance=i&after=0&wait=60"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            answers.append(answer.status)

    thread = threading.Thread(target=poll)
    with running(environment):
        thread.start()
        time.sleep(1)
        began = time.monotonic()
    assert time.monotonic() - began < 30  # the poll waits for a minute
    thread.join()
    assert answers == [204]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root:CANARY@h/x", "expected sqlite with the path of a file, or postgresql"),
        ("sqlite:////nowhere/at/all", "unable to open database file"),
        ("postgresql://backend:CANARY@127.0.0.1:1/x", "127.0.0.1"),
        ("postgresql://backend:x@127.0.0.1/x?canary=CANARY", "canary"),
        ("postgresql://backend:x@A:CANARY@127.0.0.1/x", "cannot be read"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_and_the_end(environment: dict[str, str], url: str, said: str) -> None:
    metrics = Metrics()
    with pytest.raises(cli.CannotStart) as raised:
        cli._control_plane(Catalogue({}), cli._database(url, metrics), metrics, environment)
    assert said in str(raised.value)
    assert "CANARY" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_store_is_in_its_own_directory_unless_told_otherwise(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del environment["BACKEND_DATABASE_URL"]
    monkeypatch.setattr(cli, "_STORE_PATH", tmp_path / "nowhere")
    with pytest.raises(cli.CannotStart, match="a writable directory, or set BACKEND_DATABASE_URL"):
        cli._database_url(environment)
    monkeypatch.setattr(cli, "_STORE_PATH", tmp_path)
    assert cli._database_url(environment) == f"sqlite:///{tmp_path}/backend.sqlite3"
