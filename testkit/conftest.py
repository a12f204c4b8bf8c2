"""Fixtures of the testkit's own tests. That this file lies here puts `provider` on the path."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

MODELS = ["claude-opus-4-5-20251101", "gpt-5"]
KEY = "sk-simulated-key"
_NEVER_GIVEN = range(20_000, 32_768)
"""Below the ports that Linux gives by itself."""


@dataclass
class Running:
    """A provider in a process of its own, as the testkit runs it."""

    port: int
    ca: Path
    control: httpx2.Client

    @property
    def url(self) -> str:
        """Where its clients reach it."""
        return f"https://localhost:{self.port}"

    def behave(self, **settings: Any) -> None:
        """Set the standing behaviour."""
        self.control.put("/_behaviour", json=settings).raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """Give what it received."""
        received: list[dict[str, Any]] = self.control.get("/_requests").json()
        return received


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start one provider for all tests."""
    folder = tmp_path_factory.mktemp("provider")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    port, control_port = _free_port(), _free_port()
    config = {
        "name": "openhands",
        "hosts": ["localhost"],
        "certificate": str(folder / "server.pem"),
        "key": str(folder / "server.pem"),
        "api_key": KEY,
        "models": MODELS,
        "paths": {"anthropic": "/v1/messages", "openai": "/v1/chat/completions", "responses": "/v1/responses"},
        "listen": "127.0.0.1",
        "port": port,
        "control_port": control_port,
        "behaviour": {"events": 12, "gap_ms": 1},
    }
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "provider", "--config", str(folder / "config.json")]
    with subprocess.Popen(command, cwd=Path(__file__).parent) as process:
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{control_port}", trust_env=False) as control:
                _wait_for(control, process)
                yield Running(port, folder / "ca.pem", control)
        finally:
            process.terminate()  # Popen waits for its end


@pytest.fixture
def provider(running: Running) -> Running:
    """Give the provider with nothing received and nothing wrong."""
    running.control.delete("/_behaviour")
    running.control.delete("/_requests")
    return running


def _wait_for(control: httpx2.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            control.get("/_requests")
            return
        except httpx2.ConnectError:
            assert process.poll() is None, f"the provider ended with code {process.returncode}"
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    """A port that is free, and that no connection is given for its own end until somebody listens on it."""
    while True:
        port = secrets.choice(_NEVER_GIVEN)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
