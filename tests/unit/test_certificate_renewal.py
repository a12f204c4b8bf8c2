"""certbot-renew and the deploy hook, the scripts themselves, with a certbot and an edge that do as they are told."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from issued import Pair, issue
from real_ansible import REPOSITORY, Ansible

CERTBOT = """#!/bin/sh
for word; do case $last in --cert-name) name=$word ;; esac; last=$word; done
conf={place}/letsencrypt/renewal/$name.conf
echo "$name $(grep -c '^allow_subset_of_names' "$conf") $*" >>{place}/renewals
if [ -e {place}/fails.$name ]; then
    cat {place}/fails.$name >&2
    exit 1
fi
"""


@dataclass
class Host:
    """Where the scripts run. They succeed, until `fails` says what certbot says of a certificate."""

    place: Path

    def __post_init__(self) -> None:
        self.config = self.place / "letsencrypt"
        self.lineage = self.config / "live/example.org"
        self.deploy = self.place / "tls"
        (self.config / "renewal").mkdir(parents=True)
        self.deploy.mkdir()
        self.program("venv/bin/certbot", CERTBOT.format(place=self.place))
        self.program("check", "#!/bin/sh\n")
        self.program("hook", "#!/bin/sh\n")
        self.holds(issue("a.example.org"))
        self.renewal("example.org")

    def program(self, path: str, text: str) -> None:
        place = self.place / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o755)

    def holds(self, pair: Pair) -> None:
        pair.write(self.lineage)
        shutil.copy(self.lineage / "fullchain.pem", self.lineage / "cert.pem")

    def renewal(self, name: str, options: str = "") -> Path:
        path = self.config / f"renewal/{name}.conf"
        path.write_text(f"[renewalparams]\nserver = https://acme.example.net/dir\n{options}")
        return path

    def fails(self, name: str, said: str) -> None:
        (self.place / f"fails.{name}").write_text(said)

    @property
    def renewals(self) -> list[str]:
        return (self.place / "renewals").read_text().splitlines()

    @property
    def failed(self) -> str:
        path = self.place / "state/failed"
        return path.read_text() if path.exists() else ""

    def script(self, name: str, **given: Any) -> subprocess.CompletedProcess[str]:
        environment = jinja2.Environment()
        environment.filters["quote"] = lambda value: shlex.quote(str(value))
        lock = {"__certbot_patience": 1, "__certbot_state": self.place / "state"}
        alone = yaml.safe_load((REPOSITORY / "roles/certbot/vars/main.yml").read_text())["__certbot_alone"]
        template = REPOSITORY / f"roles/certbot/templates/{name}.sh.j2"
        script = environment.from_string(template.read_text()).render(
            {
                "ansible_managed": "",
                "certbot_ca_bundle": "/etc/ssl/certs/ca-certificates.crt",
                "certbot_lineage": "example.org",
                "certbot_deploy_dir": self.deploy,
                "certbot_venv": self.place / "venv",
                "__certbot_live": self.lineage,
                "__certbot_state": self.place / "state",
                "__certbot_config_dir": self.config,
                "__certbot_hook": self.place / "hook",
                "__certbot_check": self.place / "check",
                "__certbot_alone": [environment.from_string(word).render(lock) for word in alone],
            }
            | given
        )
        path = f"{self.place}/bin:{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "RENEWED_LINEAGE": str(self.lineage)}
        command = ["sh", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, start_new_session=True)

    def deployed(self, port: int) -> subprocess.CompletedProcess[str]:
        return self.script(
            "deploy-edge",
            certbot_deploy_owner=os.getuid(),
            certbot_deploy_group=os.getgid(),
            certbot_reload_command="true",
            certbot_check_address="127.0.0.1",
            certbot_check_port=port,
        )

    def renew(self) -> subprocess.CompletedProcess[str]:
        return self.script("certbot-renew")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_renewal_asks_for_all_names_whatever_the_last_order_was_allowed(host: Host) -> None:
    """A run that was killed behind its order left that it may drop names, and nobody took it back."""
    conf = host.renewal("example.org", "allow_subset_of_names = True\n")
    assert host.renew().returncode == 0
    assert [line.split()[:2] for line in host.renewals] == [["example.org", "0"]]
    assert "allow_subset_of_names" not in conf.read_text()
    assert "server = " in conf.read_text()


def test_another_certificate_that_is_not_renewed_is_said_where_ours_would_be(host: Host) -> None:
    """One that the distribution's certbot made by a plugin: this one has none."""
    host.renewal("old.example.org")
    said = "Failed to renew certificate old.example.org with error: Could not select or initialize the installer nginx."
    host.fails("old.example.org", said)
    ended = host.renew()
    assert [line.split()[0] for line in host.renewals] == ["example.org", "old.example.org"], "ours first"
    assert ended.returncode == 1
    assert said in ended.stderr
    assert said in host.failed
    assert f"{host.place}/venv/bin/certbot delete --cert-name old.example.org" in host.failed
    (host.place / "fails.old.example.org").unlink()
    assert (host.renew().returncode, host.failed) == (0, "")


def test_an_edge_that_does_not_take_it_keeps_no_other_certificate_from_being_renewed(host: Host) -> None:
    host.program("hook", "#!/bin/sh\necho 'deploy-edge: no' >&2\nexit 1\n")
    host.renewal("old.example.org")
    assert host.renew().returncode == 1
    assert [line.split()[0] for line in host.renewals] == ["example.org", "old.example.org"]
    assert "deploy-edge: no" in host.failed


@pytest.mark.parametrize("signal", ["HUP", "INT", "TERM"])
def test_a_renewal_that_is_stopped_has_failed(host: Host, signal: str) -> None:
    """dash runs no trap of EXIT at a signal: an hour in which nobody answered looked like a success."""
    host.program("venv/bin/certbot", f"#!/bin/sh\nkill -{signal} 0\nsleep 1\n")
    assert host.renew().returncode == 143
    assert "certbot-renew: stopped before it had ended" in host.failed
    assert not (host.place / "state/said").exists()
    host.program("venv/bin/certbot", CERTBOT.format(place=host.place))
    assert (host.renew().returncode, host.failed) == (0, "")


def test_a_renewal_waits_for_the_certbot_that_is_at_work(host: Host) -> None:
    """An order of site.yml, say: one of the two failed, and the renewal was told as failed."""
    lock = host.place / "state/certbot.lock"
    assert host.renew().returncode == 0
    assert lock.stat().st_mode & 0o777 == 0o600, "who can open it can hold it"
    with subprocess.Popen(["flock", lock, "sleep", "0.5"]):
        assert (host.renew().returncode, host.failed) == (0, "")
    with subprocess.Popen(["flock", lock, "sleep", "3"]) as other:
        assert host.renew().returncode == 1
        other.kill()
    assert "another certbot has been at work for 1 s" in host.failed


def test_removing_the_gateway_names_the_certificates_that_nothing_renews_then(ansible: Ansible) -> None:
    *_, task = yaml.safe_load((REPOSITORY / "roles/certbot/tasks/remove.yml").read_text())
    known = {"include_vars": str(REPOSITORY / "roles/certbot/vars/main.yml")}
    ours = ["live/README", "live/example.org", "renewal/example.org.conf", "accounts/acme.example.net/directory"]
    others = ["live/old.example.org", "renewal/old.example.org.conf", "renewal/mail.conf"]
    task["vars"] |= {"certbot_lineage": "example.org", "certbot_webroot": "/var/www/acme"}
    task["vars"] |= {"__certbot_reg_places": {"stdout_lines": ["/etc/letsencrypt/renewal/example.org.conf"]}}
    found: list[dict[str, Any]] = [
        {"files": [{"path": f"/etc/letsencrypt/{name}"} for name in names]} for names in ([*ours, *others], ours)
    ]
    found.append({"skipped": True})
    tasks = [task | {"vars": task["vars"] | {"__certbot_reg_found": each}} for each in found]
    said, *nothing = [run["hosts"]["here"] for run in ansible.play([known, *tasks]).tasks[1:]]
    assert said["msg"].startswith("WARNING: mail, old.example.org stays in /etc/letsencrypt without ")
    assert all(result["skipped"] for result in nothing)


def test_a_certificate_that_the_edge_shows_is_deployed(host: Host, serve_tls: Callable[[Pair], int]) -> None:
    """Under any name: the edge may know one of them no longer."""
    pair = issue("gone.example.org", "a.example.org")
    host.holds(pair)
    ended = host.deployed(serve_tls(pair))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (host.deploy / ".deployed").read_text().strip().lower() == pair.fingerprint


def test_nobody_but_root_can_hold_the_lock_of_a_deployment(host: Host, serve_tls: Callable[[Pair], int]) -> None:
    """It was in a folder of everybody's and could be read: any user of the host could keep a new certificate away."""
    pair = issue("a.example.org")
    host.holds(pair)
    assert host.deployed(serve_tls(pair)).returncode == 0
    assert (host.place / "state/deploy-edge.lock").stat().st_mode & 0o777 == 0o600
    assert (host.deploy / "fullchain.pem").stat().st_mode & 0o777 == 0o444


EVERYBODYS = re.compile(r"/run/lock\b|/var/lock\b|(?<![\w/])(/var)?/tmp\b|/dev/shm\b")
"""Folders in which every user of a host can make files, and so can be first."""


def test_no_script_of_a_role_has_anything_in_a_folder_of_everybodys() -> None:
    places = [*REPOSITORY.glob("roles/*/templates/**/*"), *REPOSITORY.glob("roles/*/files/**/*")]
    scripts = [path for path in places if path.is_file() and path.read_bytes().startswith(b"#!")]
    assert "deploy-edge.sh.j2" in {path.name for path in scripts}
    assert [path.name for path in scripts if EVERYBODYS.search(path.read_text())] == []
    assert EVERYBODYS.search("exec 9>/run/lock/certbot-deploy-edge")


def test_one_that_the_edge_does_not_show_is_not(host: Host, serve_tls: Callable[[Pair], int]) -> None:
    """nginx liked its configuration and could not load it all the same: the hook is to be run again."""
    host.program("bin/date", f"#!/bin/sh\necho >>{host.place}/clock\nexpr $(wc -l <{host.place}/clock) '*' 5\n")
    ended = host.deployed(serve_tls(issue("a.example.org")))
    assert ended.returncode == 1
    assert "does not show it; it goes on with the one before" in ended.stderr
    assert not (host.deploy / ".deployed").exists()
