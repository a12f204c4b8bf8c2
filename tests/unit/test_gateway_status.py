"""What the module gateway_status makes of what containers say of themselves. The engine's part is in Molecule."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trollllm.gateway.plugins.modules import gateway_status as subject

READY = '{"ready": true, "detail": "serving alpha"}'
METRICS = """# HELP goproxy_journal_unposted_rows Rows that the backend has not taken yet.
# TYPE goproxy_journal_unposted_rows gauge
goproxy_journal_unposted_rows{upstream="alpha"} 3.0
goproxy_journal_unposted_rows{upstream="alpha",process="2"} 1.0
goproxy_journal_unsettled_rows{upstream="alpha"} 2.0
goproxy_journal_damaged{upstream="alpha"} 0.0
goproxy_journal_unposted_age_seconds{upstream="alpha"} 0.15
goproxy_keys_age_seconds{upstream="alpha"} 12.34
goproxy_wallets_balance_nanodollars 1e+12
goproxy_store_available 1.0
"""


class Service:
    """Something that answers on the private network, and how the engine describes its container."""

    def __init__(self) -> None:
        self.readyz, self.metrics, self.status = READY, METRICS, 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(service.status if self.path == "/readyz" else 200)
                self.end_headers()
                self.wfile.write((service.readyz if self.path == "/readyz" else service.metrics).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def container(self) -> dict[str, Any]:
        return {
            "Config": {"ExposedPorts": {f"{self.server.server_port}/tcp": {}}, "Env": ["BACKEND_PORT=8000"]},
            "NetworkSettings": {"Networks": {"trollllm-network": {"IPAddress": "127.0.0.1"}}},
        }


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


def test_a_journal_tells_what_it_still_has_to_post(service: Service) -> None:
    """Of all processes of the proxy together."""
    found = subject.look_at_journal("goproxy-alpha", service.container, 5)
    assert found == {
        "ready": True,
        "detail": "serving alpha",
        "unposted_rows": 4,
        "unsettled_rows": 2,
        "damaged": 0,
        "keys_age_seconds": 12.3,
        "unposted_age_seconds": 0.1,
    }


def test_a_proxy_that_is_not_ready_says_why(service: Service) -> None:
    service.readyz, service.status = '{"ready": false, "detail": "the journal cannot be written"}', 503
    found = subject.look_at_journal("goproxy-alpha", service.container, 5)
    assert found["problem"] == "goproxy-alpha is not ready: the journal cannot be written"


def test_damage_is_a_problem(service: Service) -> None:
    service.metrics = METRICS.replace('damaged{upstream="alpha"} 0.0', 'damaged{upstream="alpha"} 1.0')
    found = subject.look_at_journal("goproxy-alpha", service.container, 5)
    assert found["problem"] == "the journal of goproxy-alpha has 1 damaged places, whose rows are lost"


@pytest.mark.parametrize(
    ("said", "instead", "problem"),
    [
        (
            "serving alpha",
            "serving alpha at a.test; the backend is away: it answers with status 503",
            "goproxy-alpha is serving alpha at a.test; the backend is away: it answers with status 503",
        ),
        (
            'keys_age_seconds{upstream="alpha"} 12.34',
            'keys_age_seconds{upstream="alpha"} 301.0',
            "goproxy-alpha was told its keys 301.0 s ago: docker logs --tail 50 backend",
        ),
        (
            'unposted_age_seconds{upstream="alpha"} 0.15',
            'unposted_age_seconds{upstream="alpha"} 4000.0',
            "rows of goproxy-alpha have waited for the backend for 4000.0 s; its log says why",
        ),
    ],
)
def test_a_proxy_that_the_backend_leaves_alone_is_a_problem(
    service: Service, said: str, instead: str, problem: str
) -> None:
    """It serves on for as long as keys, leases and disk last; then is too late."""
    service.readyz, service.metrics = READY.replace(said, instead), METRICS.replace(said, instead)
    assert subject.look_at_journal("goproxy-alpha", service.container, 5)["problem"] == problem


def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n{script}\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


PARAMS = {
    "upstreams": [
        {"name": name, "service": f"goproxy-{name}", "domain": f"{name}.test", "endpoints": []} for name in ("a", "b")
    ],
    "services": ["backend"],
    "backend": "backend",
    "address": "127.0.0.1",
    "port": 1,
    "min_days_left": 14,
    "renewal_failed": None,
    "restore_unfinished": None,
    "timeout": 5,
}


def test_an_engine_that_does_not_answer_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its containers may serve on (live-restore): it is not known that there are none."""
    said = "dial unix /var/run/docker.sock: connect: no such file or directory"
    engine(tmp_path, monkeypatch, f"echo '{said}' >&2; echo '[]'; exit 1")
    found = subject.look(PARAMS)
    assert found["docker.service"] == {
        "engine": {"problem": f"the Docker engine does not answer: {said} (journalctl -u docker)"}
    }
    assert {name: list(parts) for name, parts in found.items() if name != "docker.service"} == {
        "a": ["certificate"],
        "b": ["certificate"],
    }


@pytest.mark.parametrize("said", ["Error: No such container: goproxy-a", "error: no such object: goproxy-a"])
def test_a_container_that_the_engine_does_not_know_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    engine(tmp_path, monkeypatch, f"echo '{said}' >&2; echo '[]'; exit 1")
    found = subject.look(PARAMS)
    assert "docker.service" not in found
    assert found["a"]["container"] == {"problem": "there is no container goproxy-a"}
    assert list(found["backend"]) == ["container", "store"]


@pytest.mark.parametrize(
    ("variables", "kind"),
    [([], "SQLite"), (["BACKEND_DATABASE_URL_PATH=/run/secrets/backend_database_url"], "PostgreSQL")],
)
def test_the_store_is_named_by_what_the_container_was_started_with(
    service: Service, variables: list[str], kind: str
) -> None:
    container = service.container
    container["Config"]["Env"] += variables
    assert subject.look_at_store("backend", container, 5) == {
        "kind": kind,
        "ready": True,
        "detail": "serving alpha",
        "available": True,
    }


def test_a_store_that_cannot_be_used_is_a_problem(service: Service) -> None:
    service.metrics = METRICS.replace("store_available 1.0", "store_available 0.0")
    found = subject.look_at_store("backend", service.container, 5)
    assert found["problem"] == "backend cannot use its store (SQLite): serving alpha"


@pytest.mark.parametrize("look", [subject.look_at_journal, subject.look_at_store])
def test_what_does_not_run_has_no_address(look: Any) -> None:
    assert look("goproxy-alpha", {}, 5)["problem"] == "goproxy-alpha has no address, as it does not run"


def test_what_says_nonsense_is_a_problem(service: Service) -> None:
    service.readyz = "<html>"
    assert (
        "goproxy-alpha does not answer at" in subject.look_at_journal("goproxy-alpha", service.container, 5)["problem"]
    )


def upstream(name: str, *hosts: str) -> dict[str, Any]:
    endpoints = [{"name": f"{name}-{number}", "base_url": f"https://{host}/v1"} for number, host in enumerate(hosts)]
    return {"name": name, "service": f"goproxy-{name}", "endpoints": endpoints}


def test_upstreams_of_one_provider_are_asked_about_once() -> None:
    """And what one container says is told of each upstream's own endpoints."""
    assert subject.provider_of(upstream("a", "x.test", "y.test")) == subject.provider_of(
        upstream("b", "y.test", "x.test")
    )
    assert subject.provider_of(upstream("a", "x.test")) != subject.provider_of(upstream("a", "x.test:8443"))
    asked = {
        "tried": {
            ("x.test", 443): {
                "endpoint": "a-0",
                "host": "x.test",
                "port": 443,
                "reachable": False,
                "detail": "refused",
            },
            ("x.test", 8443): {"endpoint": "a-1", "host": "x.test", "port": 8443, "reachable": True, "detail": "TLS"},
        }
    }
    found = subject.look_at_provider(upstream("b", "x.test", "x.test:8443"), asked)
    assert found["endpoints"] == [
        {"endpoint": "b-0", "host": "x.test", "port": 443, "reachable": False, "detail": "refused"},
        {"endpoint": "b-1", "host": "x.test", "port": 8443, "reachable": True, "detail": "TLS"},
    ]
    assert found["problem"] == "b-0 at x.test:443: refused"
    assert subject.look_at_provider(upstream("b", "z.test"), asked)["problem"] == "b-0 at z.test:443: it was not tried"


def test_two_ports_of_one_host_are_two_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        f'{{"endpoint": "a-{port}", "host": "x.test", "port": {port}, "reachable": true, "detail": ""}}'
        for port in (443, 8443)
    ]
    engine(tmp_path, monkeypatch, "\n".join(f"echo '{line}'" for line in lines))
    assert set(subject.ask_provider("goproxy-a", 5)["tried"]) == {("x.test", 443), ("x.test", 8443)}


def test_a_restore_that_did_not_end_is_told_with_its_backup(tmp_path: Path) -> None:
    begun = tmp_path / "restore-unfinished"
    assert subject.look_at_restore(str(begun)) == {}
    begun.write_text("2026-01-02 03:04:05 UTC\nbackups/example.org.tar.gz\n")
    problem = subject.look_at_restore(str(begun))["problem"]
    assert problem.startswith("the restore of 2026-01-02 03:04:05 UTC from backups/example.org.tar.gz did not end, so ")
    assert "run restore.yml again" in problem


def test_a_renewal_that_failed_is_told_with_its_reason(tmp_path: Path) -> None:
    failed = tmp_path / "failed"
    assert subject.look_at_renewal(str(failed)) == {}
    failed.write_text("2026-01-02 03:04:05 UTC\nno authority answers\n")
    assert subject.look_at_renewal(str(failed)) == {
        "problem": "the renewal of 2026-01-02 03:04:05 UTC failed, and what it could not renew is as before: "
        "no authority answers"
    }
