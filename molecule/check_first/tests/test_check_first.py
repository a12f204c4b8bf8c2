"""Check mode on a bare host: `site.yml --check --diff` says what it would do, does not fail, and does nothing."""

from __future__ import annotations

import dns.message
import dns.query
import dns.rcode
import pytest
from testinfra.host import Host
from witness.connection import Connection
from witness.playbook import Operator, Run

# Where the roles put things; what Ansible itself leaves (its temporary files) is not looked at.
PLACES = "/etc /opt /usr/local /var/lib /var/www /root/.config"


def fingerprint(host: Host) -> str:
    """Files with their contents, folders and links, modes and owners of all, the installed packages, and the units."""
    which = f"{PLACES} -xdev -not -path '/var/lib/systemd/*'"
    entries = "-printf '%y %p %m %U %G %l\\n' -type f -exec sha256sum {} ';'"
    files = f"find {which} {entries} 2>/dev/null | sort"
    packages = host.check_output("dpkg-query --show")
    return str(host.run(files).stdout + packages + host.check_output("systemctl list-unit-files --no-legend"))


@pytest.fixture(scope="module")
def before(host: Host) -> str:
    return fingerprint(host)


@pytest.fixture(scope="module")
def run(before: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    assert before
    return Operator(tmp_path_factory.mktemp("operator")).run("site.yml", "--check", "--diff")


def test_the_host_is_bare(host: Host) -> None:
    assert not host.exists("docker")
    assert not host.file("/opt/trollllm").exists


def test_check_mode_does_not_fail(run: Run) -> None:
    assert run.code == 0, run.output


def test_check_mode_says_what_would_be_done(run: Run) -> None:
    assert run.changed > 0
    assert "docker.io" in run.output
    assert "chat2.trollllm.xyz" in run.output


@pytest.mark.usefixtures("run")
def test_check_mode_changes_nothing(before: str, host: Host) -> None:
    assert fingerprint(host) == before


@pytest.mark.usefixtures("run")
def test_check_mode_sends_nothing_to_the_name_server(connection: Connection) -> None:
    query = dns.message.make_query("chat.trollllm.xyz", "A")
    answer = dns.query.udp(query, connection.dns.host, port=connection.dns.port, timeout=5)
    assert answer.rcode() == dns.rcode.NXDOMAIN


def test_check_mode_shows_no_secret(run: Run, connection: Connection) -> None:
    assert [name for name, secret in connection.marked_secrets.items() if secret in run.output] == []
