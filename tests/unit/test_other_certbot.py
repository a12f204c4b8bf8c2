"""A certbot that somebody else installed: the role says so, and touches nothing of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from issued import issue
from real_ansible import REPOSITORY, Ansible, Run

ROLE = REPOSITORY / "roles/certbot"


class Host:
    """The places where the role looks, below one folder."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.venv = place / "venv"
        for folder in ("acme", "tls", "cron.d", "letsencrypt"):
            (place / folder).mkdir()

    def foreign(self) -> Path:
        """A certbot as EFF's pip instructions make it; one of its files."""
        (self.venv / "bin").mkdir(parents=True)
        plugin = self.venv / "bin/certbot-dns-plugin"
        plugin.touch()
        return plugin

    def run(self, tasks: list[dict[str, Any]]) -> Run:
        given = {
            "certbot_lineage": "example.org",
            "certbot_domains": ["a.example.org"],
            "certbot_webroot": str(self.place / "acme"),
            "certbot_deploy_dir": str(self.place / "tls"),
            "certbot_venv": str(self.venv),
            "__certbot_config_dir": str(self.place / "letsencrypt"),
            "__certbot_foreign_timers": [str(self.place / "certbot.timer"), str(self.place / "snap.timer")],
            "__certbot_crontabs": [str(self.place / "crontab"), str(self.place / "cron.d")],
        }
        known = [{"include_vars": str(ROLE / f"{part}/main.yml")} for part in ("defaults", "vars")]
        return Ansible(self.place).play([*known, {"set_fact": given}, *tasks])

    def preflight(self) -> str:
        """What it refuses; empty: nothing."""
        run = self.run([{"import_tasks": str(ROLE / "tasks/preflight.yml")}])
        return str(run.result["msg"]) if run.result.get("failed") else ""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def task_of(file: str, name: str) -> dict[str, Any]:
    """A task of the role, also of a block."""
    tasks = yaml.safe_load((ROLE / "tasks" / file).read_text())
    (found,) = (each for task in tasks for each in [task, *task.get("block", [])] if each["name"] == name)
    return dict(found)


def test_a_folder_that_the_role_did_not_make_is_refused(host: Host) -> None:
    assert host.preflight() == "", "there is none"
    host.venv.mkdir()
    assert host.preflight() == "", "it is empty"
    host.foreign()
    said = host.preflight()
    assert f"{host.venv} (certbot_venv) is there, and not this role's" in said
    assert "Set certbot_venv to another path" in said
    (host.venv / "requirements.txt").touch()
    assert host.preflight() == "", "the role installed it"


# What makes an environment, and its pip: both programs hold the path, as real ones do.
PYTHON = """#!/bin/sh
mkdir -p "$3/bin" && ln -s /bin/sh "$3/bin/python3" && echo "command = $3" >"$3/pyvenv.cfg"
printf '#!%s/bin/python3\\n' "$3" | tee "$3/bin/certbot" >"$3/bin/pip"
echo '[ ! -e {place}/offline ] || exit 1; echo "echo certbot 5" >>"${{0%/pip}}/certbot"' >>"$3/bin/pip"
chmod 755 "$3/bin/pip" "$3/bin/certbot"
"""


def test_an_installation_that_fails_leaves_the_certbot_that_is_there(host: Host) -> None:
    """The index is away: that was no reason to renew nothing any more."""
    old = host.foreign()
    (host.venv / "requirements.txt").touch()
    tools = host.place / "tools"
    tools.mkdir()
    (tools / "python3").write_text(PYTHON.format(place=host.place))
    (tools / "python3").chmod(0o755)
    block = task_of("install.yml", "Install certbot")
    for task in block["block"]:
        task.pop("retries", None)
        if "ansible.builtin.copy" in task:
            task["ansible.builtin.copy"] |= {"owner": str(os.getuid()), "group": str(os.getgid())}
    install = {"block": block["block"], "environment": {"PATH": f"{tools}:{os.environ['PATH']}"}}
    given = {"set_fact": {"__certbot_requirements": "certbot==5\n"}}
    (host.place / "offline").touch()
    assert host.run([given, install]).code != 0
    assert old.exists()
    assert host.preflight() == ""

    (host.place / "offline").unlink()
    run = host.run([given, install])
    assert run.code == 0, run.output
    assert not old.exists()
    assert subprocess.check_output([host.venv / "bin/certbot"], text=True) == "certbot 5\n"
    assert (host.venv / "pyvenv.cfg").read_text() == f"command = {host.venv}\n"
    assert (host.venv / "requirements.txt").read_text() == "certbot==5\n"
    assert not (host.place / "venv.trollllm").exists()
    assert host.preflight() == ""


def remove(host: Host) -> Run:
    """What it does to files, without systemd and certbot."""
    names = ("Look for what is there", "Look whether the certificate is this role's", "Look for what else certbot has")
    looks = [task_of("remove.yml", name) for name in names]
    removes = task_of("remove.yml", "Remove the files")
    mine = {f"__certbot_{name}": str(host.place / "absent" / name) for name in ("renew", "check", "state", "hook")}
    # What it names by itself is the system's.
    removes["loop"] = removes["loop"].replace("'/etc/", f"'{host.place}/etc/").replace("'/var/", f"'{host.place}/var/")
    assert str(host.place) in removes["loop"]
    run = host.run([{"set_fact": mine}, *looks, removes])
    assert run.code == 0, run.output
    return run


@pytest.mark.parametrize("is_ours", [True, False])
def test_only_a_folder_of_the_roles_own_is_removed(host: Host, is_ours: bool) -> None:
    plugin = host.foreign()
    if is_ours:
        (host.venv / "requirements.txt").touch()
    remove(host)
    assert plugin.exists() is not is_ours
    assert (host.place / "letsencrypt").exists() is not is_ours


def test_what_another_program_put_beside_the_certificate_keeps_the_folder(host: Host) -> None:
    """A certificate that was copied there has no renewal; the key that is gone with it is gone for good."""
    config = host.place / "letsencrypt"
    ours = ("renewal/example.org.conf", "renewal/example.org.refused", "live/README", "live/example.org/cert.pem")
    for other in ("live/mail.example.org", "renewal-hooks/post/mail", ""):
        for name in ours:
            (config / name).parent.mkdir(parents=True, exist_ok=True)
            (config / name).touch()
        (config / other).mkdir(parents=True, exist_ok=True)
        host.venv.mkdir()
        (host.venv / "requirements.txt").touch()
        remove(host)
        assert config.exists() is bool(other)
        assert not (config / "renewal/example.org.refused").exists()
        if other:
            assert (config / other).exists()
            (config / other).rmdir()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("certbot.timer", ""),
        ("snap.timer", ""),
        ("crontab", "0 0,12 * * * root /opt/certbot/bin/python -c 'import random' && sudo certbot renew -q\n"),
        ("cron.d/renewal", "MAILTO=root\n5 4 * * * root certbot -q renew\n"),
    ],
)
def test_what_renews_for_another_certbot_is_refused(host: Host, file: str, content: str) -> None:
    (host.place / file).write_text(content)
    said = host.preflight()
    assert "Another certbot is installed on this host" in said
    assert str(host.place / file) in said


def test_what_renews_nothing_is_not_refused(host: Host) -> None:
    """Debian's package leaves its line when it is removed; it does nothing where there is systemd."""
    (host.place / "crontab").write_text("# 0 0 * * * root certbot renew\n17 * * * * root run-parts /etc/cron.hourly\n")
    (host.place / "cron.d/certbot").write_text(
        "0 */12 * * * root test -x /usr/bin/certbot -a \\! -d /run/systemd/system && certbot -q renew\n"
    )
    assert host.preflight() == ""


def test_a_certificate_of_somebody_else_is_neither_taken_over_nor_removed(host: Host) -> None:
    """The zone's own, of a web server that was here before: its names would go with the first order."""
    config = host.place / "letsencrypt"
    lineage, conf = config / "live/example.org", config / "renewal/example.org.conf"
    lineage.mkdir(parents=True)
    conf.parent.mkdir()
    (lineage / "cert.pem").write_bytes(issue("a.example.org", "www.example.org", "example.org").certificate)
    conf.write_text("[renewalparams]\nauthenticator = webroot\nwebroot_path = /var/www/html,\n")
    said = host.preflight()
    assert f"The certificate example.org ({lineage}) was not made by this role" in said
    assert "without example.org, www.example.org. " in said
    assert "certbot_lineage: gateway.example.org" in said
    host.venv.mkdir()
    (host.venv / "requirements.txt").touch()
    remove(host)
    assert conf.exists()
    assert (lineage / "cert.pem").exists()

    conf.write_text(f"[renewalparams]\nauthenticator = webroot\nwebroot_path = {host.place}/acme,\n")
    assert host.preflight() == "", "one of a release that noted nothing; www is of an upstream that is gone"
    conf.unlink()
    (config / "renewal/example.org.refused").touch()
    assert host.preflight() == "", "the role noted what was refused"
    (config / "renewal/example.org.refused").unlink()
    (lineage / "cert.pem").write_bytes(issue("a.example.org").certificate)
    assert host.preflight() == "", "it loses nothing"
