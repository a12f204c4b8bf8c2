"""The modules that look at certificates, against real files, a real HTTP server, real TLS handshakes."""

from __future__ import annotations

import datetime
import http.server
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pytest

from ansible_collections.trollllm.gateway.plugins.module_utils import certificate as reader
from ansible_collections.trollllm.gateway.plugins.modules import (
    acme_probe,
    certificate_state,
    gateway_status,
    served_certificate,
)
from issued import Pair, issue
from real_ansible import REPOSITORY, Ansible
from small_server import Quiet, Serve

SERVER = "https://acme.example.net/dir"
CHAT, CHAT2 = "chat.example.org", "chat2.example.org"


# -- the lineage and its copy -----------------------------------------------------------------------------------------

RENEWAL = """\
version = 5.8.0
cert = /etc/letsencrypt/live/example.org/cert.pem
[renewalparams]
account = 0123
server = https://acme.example.net/dir
preferred_profile = tlsserver
webroot_path = /var/www/acme,
[[webroot_map]]
server = not.this.one
"""


@dataclass
class Host:
    config: Path
    deploy: Path
    pair: Pair

    def state(self) -> dict[str, Any]:
        return certificate_state.state("example.org", str(self.config), str(self.deploy), SERVER, 48)

    def deployed(self, pair: Pair | None = None) -> None:
        pair = pair or self.pair
        pair.write(self.deploy)
        (self.deploy / ".deployed").write_text(pair.fingerprint.upper() + "\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    pair = issue(CHAT2, CHAT)
    pair.write(tmp_path / "config/live/example.org")
    (tmp_path / "config/renewal").mkdir()
    (tmp_path / "config/renewal/example.org.conf").write_text(RENEWAL)
    return Host(tmp_path / "config", tmp_path / "deploy", pair)


def test_state_of_a_lineage(host: Host) -> None:
    state = host.state()
    assert state["present"]
    assert state["names"] == [CHAT, CHAT2]
    assert state["key_type"] == "ecdsa"
    assert state["days_left"] == pytest.approx(60, abs=0.1)
    assert state["lifetime_days"] == pytest.approx(90, abs=0.1)
    assert state["renewal"]["server"] == "https://acme.example.net/dir"
    assert state["renewal"]["preferred_profile"] == "tlsserver"
    assert state["renewal"]["webroot_path"] == "/var/www/acme"


def test_no_lineage_is_said_and_not_failed(tmp_path: Path) -> None:
    state = certificate_state.state("example.org", str(tmp_path / "none"), str(tmp_path), SERVER, 48)
    assert not state["present"]
    assert "live/example.org/fullchain.pem" in state["problem"]
    assert state["names"] == []


def refusals(host: Host, server: str, hours_ago: float) -> None:
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours_ago)
    (host.config / "renewal/example.org.refused").write_text(
        json.dumps({"server": server, "names": {"chat3.example.org": then.isoformat()}})
    )


def test_a_name_that_the_authority_refused_is_remembered_for_some_hours(host: Host) -> None:
    assert host.state()["refused"] == {}
    refusals(host, SERVER, hours_ago=47)
    assert list(host.state()["refused"]) == ["chat3.example.org"]
    refusals(host, SERVER, hours_ago=49)
    assert host.state()["refused"] == {}
    refusals(host, "https://another.example.net/dir", hours_ago=1)
    assert host.state()["refused"] == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", f'{{"server": "{SERVER}", "names": []}}', "\xff"])
def test_a_damaged_list_of_refusals_counts_as_none(host: Host, content: str) -> None:
    (host.config / "renewal/example.org.refused").write_text(content)
    assert host.state()["refused"] == {}


ORDER = {  # what roles/certbot/vars/main.yml says, in words of its own
    "ordered": "{{ __certbot_order }}",
    "request": "{{ __certbot_request }}",
    "waiting": "{{ __certbot_waiting }}",
    "remembered": "{{ __certbot_remembered }}",
}


@pytest.mark.parametrize(
    ("refused", "ordered", "request_", "waiting"),
    [
        ({}, True, [CHAT, "chat3.example.org"], []),
        ({"chat3.example.org": "2026-01-01T00:00:00+00:00"}, False, [CHAT], ["chat3.example.org"]),
        ({"gone.example.org": "2026-01-01T00:00:00+00:00"}, True, [CHAT, "chat3.example.org"], []),
    ],
)
def test_a_refused_name_is_not_ordered_again_while_it_is_remembered(
    tmp_path: Path, refused: dict[str, str], ordered: bool, request_: list[str], waiting: list[str]
) -> None:
    """Every order is a new certificate, and an authority issues the same names a few times a week only."""
    role = Path(__file__).parents[2] / "roles/certbot"
    given = {
        "certbot_domains": [CHAT, "chat3.example.org"],
        "certbot_lineage": "example.org",
        "certbot_probe": False,
        "__certbot_requested": [CHAT],
        "__certbot_before": [CHAT],
        "__certbot_reg_order": {"rc": 0},
        "__certbot_reg_certificate": {
            "present": True,
            "names": [CHAT],
            "days_left": 60.0,
            "lifetime_days": 90.0,
            "key_type": "ecdsa",
            "renewal": {
                "server": "https://acme-v02.api.letsencrypt.org/directory",
                "preferred_profile": "tlsserver",
            },
            "refused": refused,
        },
    }
    tasks: list[dict[str, Any]] = [
        {"include_vars": str(role / "defaults/main.yml")},
        {"include_vars": str(role / "vars/main.yml")},
        {"set_fact": given},
        {"debug": {"msg": ORDER}},
    ]
    said = Ansible(tmp_path).play(tasks).result["msg"]
    assert said == {"ordered": ordered, "request": request_, "waiting": waiting, "remembered": refused}


def test_a_key_of_another_certificate_is_no_lineage(host: Host) -> None:
    (host.config / "live/example.org/privkey.pem").write_bytes(issue(CHAT).key)
    assert not host.state()["present"]
    assert "does not belong" in host.state()["problem"]


def test_a_damaged_certificate_is_no_lineage(host: Host) -> None:
    (host.config / "live/example.org/fullchain.pem").write_text("-----BEGIN CERTIFICATE-----\nnot one\n")
    assert not host.state()["present"]
    assert "cannot be read" in host.state()["problem"]


def test_deployed_when_copy_and_stamp_are_of_this_certificate(host: Host) -> None:
    assert not host.state()["deployed"]
    host.deployed()
    assert host.state()["deployed"]


@pytest.mark.parametrize("spoilt", ["fullchain.pem", "privkey.pem", ".deployed"])
def test_not_deployed_when_a_part_is_missing_or_foreign(host: Host, spoilt: str) -> None:
    host.deployed()
    (host.deploy / spoilt).write_bytes(issue(CHAT, CHAT2).certificate)
    assert not host.state()["deployed"]
    (host.deploy / spoilt).unlink()
    assert not host.state()["deployed"]


def test_not_deployed_when_an_older_certificate_is_there(host: Host) -> None:
    host.deployed(issue(CHAT, CHAT2))
    assert not host.state()["deployed"]


# -- the probe --------------------------------------------------------------------------------------------------------


def files(directory: Path) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(Quiet):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(directory))

    return Handler


def probe(webroot: Path, domain: str, port: int) -> str:
    with acme_probe.challenge(str(webroot)) as (token, content):
        reason, _ = acme_probe.probe(domain, port, token, content, 0.5)
        return reason


def test_a_domain_that_serves_the_webroot_is_reachable(tmp_path: Path, serve: Serve) -> None:
    assert probe(tmp_path, "localhost", serve(files(tmp_path))) == ""
    assert list(tmp_path.iterdir()) == [], "the file and the folders are taken away again"


def test_folders_that_were_there_stay(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / ".well-known").mkdir()
    assert probe(tmp_path, "localhost", serve(files(tmp_path))) == ""
    assert [path.name for path in tmp_path.iterdir()] == [".well-known"]


def test_the_challenge_can_be_read_by_the_web_server(tmp_path: Path) -> None:
    with acme_probe.challenge(str(tmp_path)) as (token, _):
        place = tmp_path / ".well-known/acme-challenge"
        assert place.stat().st_mode & 0o777 == 0o755
        assert (place / token).stat().st_mode & 0o777 == 0o644


def test_a_redirect_is_followed_as_an_authority_does(tmp_path: Path, serve: Serve) -> None:
    target = serve(files(tmp_path))

    class Redirect(Quiet):
        def do_GET(self) -> None:  # noqa: N802  # http.server calls it so
            self.send_response(301)
            self.send_header("Location", f"http://127.0.0.1:{target}{self.path}")
            self.end_headers()

    assert probe(tmp_path, "localhost", serve(Redirect)) == ""


def test_another_webroot_is_named(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "mine").mkdir()
    reason = probe(tmp_path / "mine", "localhost", serve(files(tmp_path / "other")))
    assert "status 404" in reason
    assert "127.0.0.1" in reason


def test_another_machine_is_named(tmp_path: Path, serve: Serve) -> None:
    class Parking(Quiet):
        def do_GET(self) -> None:  # noqa: N802  # http.server calls it so
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"this domain is for sale")

    assert "another machine" in probe(tmp_path, "localhost", serve(Parking))


@pytest.fixture
def leads_to(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every name lead to those addresses."""
    return lambda *there: monkeypatch.setattr(acme_probe, "addresses", lambda *_: list(there))


def test_each_address_of_a_name_is_asked_and_the_one_that_leads_elsewhere_is_named(
    tmp_path: Path, serve: Serve, leads_to: Callable[..., None]
) -> None:
    """An authority asks whichever it likes, and IPv6 first."""
    port = serve(files(tmp_path))
    serve(files(tmp_path / "other"), "127.0.0.2", port)
    leads_to("127.0.0.1", "127.0.0.2")
    assert "127.0.0.2 answers with status 404" in probe(tmp_path, CHAT, port)
    leads_to("127.0.0.1")
    assert probe(tmp_path, CHAT, port) == ""


def test_an_address_that_cannot_be_reached_from_here_is_told_and_is_no_proof(
    tmp_path: Path, serve: Serve, leads_to: Callable[..., None]
) -> None:
    port = serve(files(tmp_path))
    leads_to("::ffff:127.0.0.9", "127.0.0.1")
    with acme_probe.challenge(str(tmp_path)) as (token, content):
        reason, silent = acme_probe.probe(CHAT, port, token, content, 0.5)
    assert reason == ""
    assert f"no answer on port {port} of ::ffff:127.0.0.9" in silent


def test_a_closed_port_is_named(tmp_path: Path) -> None:
    assert "no answer on port 1 of" in probe(tmp_path, "localhost", 1)


def test_a_name_that_does_not_resolve_is_named(tmp_path: Path) -> None:
    assert "does not resolve" in probe(tmp_path, "nowhere.invalid", 80)


# -- what is served ---------------------------------------------------------------------------------------------------


def test_in_check_mode_every_domain_counts(tmp_path: Path, ansible: Ansible) -> None:
    """Else --check would not tell that a certificate is going to be ordered for them."""
    arguments = {"domains": [CHAT, CHAT2, CHAT], "webroot": str(tmp_path / "not-there-yet")}
    run = ansible.play([{"trollllm.gateway.acme_probe": arguments}], "--check")
    assert run.code == 0, run.output
    assert (run.result["changed"], run.result["reachable"], run.result["left_out"]) == (False, [CHAT, CHAT2], [])


def look(port: int, name: str, **other: Any) -> dict[str, Any]:
    params = {"address": "127.0.0.1", "port": port, "fingerprint": None, "min_days_left": 14, "patience": 0}
    return served_certificate.look(params | other, name)


def test_the_certificate_that_is_served_is_well(serve_tls: Callable[[Pair], int]) -> None:
    pair = issue(CHAT, CHAT2)
    seen = look(serve_tls(pair), CHAT2, fingerprint=pair.fingerprint.upper())
    assert seen["problem"] == ""
    assert seen["fingerprint"] == pair.fingerprint
    assert seen["names"] == [CHAT, CHAT2]


def test_a_name_that_it_does_not_cover(serve_tls: Callable[[Pair], int]) -> None:
    problem = look(serve_tls(issue(CHAT)), CHAT2)["problem"]
    assert f"for {CHAT}," in problem
    assert f"does not cover {CHAT2}" in problem


def test_an_older_one_is_still_served(serve_tls: Callable[[Pair], int]) -> None:
    assert "not the one that was issued last" in look(serve_tls(issue(CHAT)), CHAT, fingerprint="00" * 32)["problem"]


@pytest.mark.parametrize(
    ("left", "lifetime", "word"),
    [
        (15, 90, ""),
        (13, 90, "13.0 more days only"),
        (1.6, 6.6, "1.6 more days only"),  # a short-lived one: a quarter of the lifetime counts
        (1.7, 6.6, ""),
        (-1, 90, "ended"),
    ],
)
def test_it_must_be_valid_for_long_enough(left: float, lifetime: float, word: str) -> None:
    certificate = reader.from_pem(issue(CHAT, left=left + 0.001, lifetime=lifetime).certificate)
    problem = served_certificate.judge(certificate, CHAT, None, 14)
    assert (word in problem) if word else problem == ""


def test_nobody_listens() -> None:
    assert "no TLS handshake with 127.0.0.1:1:" in look(1, CHAT)["problem"]


def test_a_wildcard_covers_one_label() -> None:
    certificate = reader.from_pem(issue("*.example.org").certificate)
    assert certificate.covers("Chat.Example.org")
    assert not certificate.covers("a.chat.example.org")
    assert not certificate.covers("example.org")


# -- the certificate in the status table ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "left", "min_days_left", "said"),
    [
        ((CHAT, CHAT2), 60, 14, ""),
        (("*.example.org",), 60, 14, ""),
        (("*.chat.example.org", "example.org"), 60, 14, "is for *.chat.example.org, example.org"),
        ((CHAT,), 13, 14, "and was not renewed"),
        ((CHAT,), 13, 7, ""),
    ],
    ids=["its names", "a wildcard", "other names", "it ends soon", "not so soon as to matter"],
)
def test_what_the_status_says_of_it(
    serve_tls: Callable[[Pair], int], names: tuple[str, ...], left: float, min_days_left: int, said: str
) -> None:
    port = serve_tls(issue(*names, left=left))
    problem = gateway_status.look_at_certificate(CHAT, "127.0.0.1", port, 5, min_days_left).get("problem", "")
    assert said in problem
    assert bool(said) == bool(problem)


# -- the check for monitoring -----------------------------------------------------------------------------------------


def check(tmp_path: Path, port: int, *arguments: str, names: tuple[str, ...] = (CHAT,)) -> tuple[int, str]:
    """The role's script: exit code, and what it says."""
    environment = jinja2.Environment()
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    template = REPOSITORY / "roles/certbot/templates/certificate-check.sh.j2"
    script = environment.from_string(template.read_text()).render(
        ansible_managed="",
        certbot_check_address="127.0.0.1",
        certbot_check_port=port,
        certbot_min_days_left=14,
        __certbot_state=tmp_path,
        __certbot_wanted=names,
    )
    ended = subprocess.run(["sh", "-c", script, "check", *arguments], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_certificate_that_lasts_is_well(tmp_path: Path, serve_tls: Callable[[Pair], int]) -> None:
    port = serve_tls(issue(CHAT, CHAT2))
    assert check(tmp_path, port, names=(CHAT, CHAT2)) == (0, "")
    code, metrics = check(tmp_path, port, "--metrics", names=(CHAT, CHAT2))
    assert code == 0
    end = re.search(rf'^gateway_certificate_not_after_seconds{{domain="{CHAT2}"}} (\d+)$', metrics, re.MULTILINE)
    assert end is not None
    assert 59 < (int(end[1]) - time.time()) / 86400 <= 60
    assert "\ngateway_certificate_renewal_failed 0\n" in metrics
    assert metrics.endswith("\ngateway_certificate_problems 0\n")


@pytest.mark.parametrize(
    ("left", "lifetime", "said"),
    [(13, 90, "ends on"), (1.6, 6.6, "and was not renewed"), (-1, 90, "ended on")],
)
def test_one_that_does_not_last_is_said(
    tmp_path: Path, serve_tls: Callable[[Pair], int], left: float, lifetime: float, said: str
) -> None:
    port = serve_tls(issue(CHAT, left=left, lifetime=lifetime))
    code, told = check(tmp_path, port)
    assert code == 1
    assert told.startswith(f"{CHAT}: the certificate served ")
    assert said in told
    assert check(tmp_path, port, "--metrics")[1].endswith("\ngateway_certificate_problems 1\n")


def test_a_name_without_a_certificate_and_a_failed_renewal_are_said(
    tmp_path: Path, serve_tls: Callable[[Pair], int]
) -> None:
    (tmp_path / "failed").write_text("2026-01-02 03:04:05 UTC\nno authority answers\n")
    code, told = check(tmp_path, serve_tls(issue(CHAT)), names=(CHAT, CHAT2))
    assert code == 1
    assert told.splitlines() == [
        f"{CHAT2}: the certificate served is not for this name",
        "the last renewal failed: 2026-01-02 03:04:05 UTC no authority answers ",
    ]
    assert check(tmp_path, 1) == (
        1,
        f"{CHAT}: no certificate is served at 127.0.0.1:1\n"
        "the last renewal failed: 2026-01-02 03:04:05 UTC no authority answers \n",
    )
    code, told = check(tmp_path, 1, "--metric")
    assert (code, "there is no option --metric" in told) == (2, True)
