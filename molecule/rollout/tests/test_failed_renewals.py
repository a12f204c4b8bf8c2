"""What keeps a certificate from being renewed: the one of before is served, streams go on, and it is said.

Each test breaks one thing, puts it right, and sees the renewal come through.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import dns.query
import dns.tsigkeyring
import dns.update
import pytest
from testinfra.host import Host
from witness.connection import Connection
from witness.edge import Edge
from witness.playbook import Operator
from witness.specification import OHMYGPT, OPENHANDS
from witness.stream import OpenStream

RENEWAL = "/etc/letsencrypt/renewal/trollllm.xyz.conf"
DUE = "renew_before_expiry = 36500 days"
RENEW = "systemctl start certbot-renew.service"
CHECK = "/usr/local/sbin/certificate-check"
METRICS = "/var/lib/certbot-renew/certificate.prom"
BROKEN_CONF = "/opt/trollllm/edge/conf/conf.d/broken.conf"

pytestmark = [pytest.mark.usefixtures("deployed"), pytest.mark.timeout(600, func_only=True)]

Breaking = Callable[[], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def due(host: Host) -> Iterator[None]:
    """The certificate counts as due for renewal."""
    host.check_output(f"sed -i '1i {DUE}' {RENEWAL}")
    yield
    host.check_output(f"sed -i '/^{DUE}$/d' {RENEWAL}")


@pytest.fixture
def no_renewal_while(
    host: Host, edge: Edge, open_stream: Callable[[str], OpenStream], operator: Operator
) -> Callable[[Breaking, str], None]:
    """Renew while something is broken, and once more when it is not."""

    def do(breaking: Breaking, said: str) -> None:
        before = [edge.handshake(domain).certificate for domain in (OPENHANDS.domain, OHMYGPT.domain)]
        streams = [open_stream(OPENHANDS.domain), open_stream(OHMYGPT.domain)]
        with breaking():
            assert host.run(RENEW).rc != 0
            told = host.run("journalctl --unit certbot-renew.service --since -5min --output cat").stdout
            check = host.run(CHECK)
        assert said in told
        assert [edge.handshake(domain).certificate for domain in (OPENHANDS.domain, OHMYGPT.domain)] == before
        assert check.rc == 1
        assert said in " ".join(check.stdout.split("the last renewal failed: ")[1:])
        assert "gateway_certificate_renewal_failed 1" in host.file(METRICS).content_string
        status = operator.run("playbooks/status.yml")
        assert status.code != 0
        assert "certbot-renew.service: the renewal of 2" in " ".join(status.output.split())

        host.check_output(RENEW)
        assert edge.handshake(OPENHANDS.domain).certificate != before[0]
        check = host.run(CHECK)
        assert (check.rc, check.stdout) == (0, "")
        metrics = host.file(METRICS).content_string
        assert "gateway_certificate_renewal_failed 0" in metrics
        assert f'gateway_certificate_not_after_seconds{{domain="{OHMYGPT.domain}"}} ' in metrics
        for stream in streams:
            stream.wait_for_more()
            stream.assert_complete()

    return do


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("operator"))


NoRenewalWhile = Callable[[Breaking, str], None]


def test_the_authority_is_down(host: Host, no_renewal_while: NoRenewalWhile) -> None:
    @contextmanager
    def down() -> Iterator[None]:
        rule = "OUTPUT --protocol tcp --dport 14000 --jump REJECT --reject-with tcp-reset"
        host.check_output(f"iptables --insert {rule}")
        try:
            yield
        finally:
            host.check_output(f"iptables --delete {rule}")

    no_renewal_while(down, "refused")


def test_the_name_servers_do_not_answer(connection: Connection, no_renewal_while: NoRenewalWhile) -> None:
    server = connection.vps.replace("-vps", "-dns")

    @contextmanager
    def paused() -> Iterator[None]:
        subprocess.run(["docker", "pause", server], check=True, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            subprocess.run(["docker", "unpause", server], check=True, stdout=subprocess.DEVNULL)

    no_renewal_while(paused, "acme.test")


def test_one_name_leads_nowhere(connection: Connection, no_renewal_while: NoRenewalWhile) -> None:
    """There is time to put it right, so the certificate is not renewed without it."""
    keys = dns.tsigkeyring.from_text({"gateway": connection.secrets["dns"]})

    def update(*address: str) -> None:
        change = dns.update.UpdateMessage("trollllm.xyz", keyring=keys, keyalgorithm="hmac-sha256")
        change.replace("chat2", 300, "A", *address) if address else change.delete("chat2", "A")
        answer = dns.query.tcp(change, connection.dns.host, port=connection.dns.port, timeout=10)
        assert answer.rcode() == 0

    @contextmanager
    def astray() -> Iterator[None]:
        update()
        try:
            yield
        finally:
            update(connection.vps_ipv4)

    no_renewal_while(astray, OHMYGPT.domain)


def test_the_edge_does_not_take_it(host: Host, no_renewal_while: NoRenewalWhile) -> None:
    """The deploy hook fails: certbot has the new one, the edge the old one, until nginx accepts its configuration."""

    @contextmanager
    def broken() -> Iterator[None]:
        host.check_output(f"echo 'no directive;' > {BROKEN_CONF}")
        try:
            yield
        finally:
            host.check_output(f"rm {BROKEN_CONF}")

    no_renewal_while(broken, "the edge did not take the new certificate; it goes on with the one before")


def test_another_certificate_of_the_host_that_cannot_be_renewed(host: Host) -> None:
    """Ours is renewed, and the other one is said until it is gone."""
    other = "/etc/letsencrypt/renewal/old.example.org.conf"
    host.check_output(f"echo broken > {other}")
    failed, check = host.run(RENEW), host.run(CHECK)
    host.check_output(f"rm {other}")
    assert (failed.rc != 0, check.rc) == (True, 1)
    assert "certbot delete --cert-name old.example.org" in check.stdout
    host.check_output(RENEW)
    assert host.run(CHECK).rc == 0


@pytest.fixture
def refuses_nonces(host: Host, connection: Connection) -> Iterator[str]:
    """The directory of another authority, which finds every nonce bad."""
    acme, other = connection.vps.replace("-vps", "-acme"), connection.vps.replace("-vps", "-acme-nonces")
    known = json.loads(subprocess.check_output(["docker", "inspect", acme]))[0]
    (network, details), *_ = known["NetworkSettings"]["Networks"].items()
    mounts = [word for bind in known["HostConfig"]["Binds"] for word in ("--volume", bind)]
    command = ["docker", "run", "--detach", "--rm", "--name", other, "--network", network, *mounts]
    more = ["--env", "PEBBLE_WFE_NONCEREJECT=100", known["Config"]["Image"], *known["Config"]["Cmd"]]
    subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)
    address = json.loads(subprocess.check_output(["docker", "inspect", other]))[0]
    there = address["NetworkSettings"]["Networks"][network]["IPAddress"]
    rule = (
        f"OUTPUT --protocol tcp --dest {details['IPAddress']} --dport 14001 --jump DNAT --to-destination {there}:14000"
    )
    host.check_output(f"iptables --table nat --insert {rule}")
    yield "https://acme.test:14001/dir"
    host.check_output(f"iptables --table nat --delete {rule}")
    subprocess.run(["docker", "rm", "--force", other], check=True, stdout=subprocess.DEVNULL)


def test_an_authority_that_refuses_every_nonce(operator: Operator, edge: Edge, refuses_nonces: str) -> None:
    """A run that orders there fails, and says so; the certificate of the one before is served, and kept."""
    before = edge.handshake(OPENHANDS.domain).certificate
    run = operator.run("molecule/rollout/certificate.yml", "-e", f"gateway_acme_directory={refuses_nonces}")
    assert run.code != 0
    assert "nonce" in run.output
    assert edge.handshake(OPENHANDS.domain).certificate == before
    assert operator.succeed("molecule/rollout/certificate.yml").changed == 0
    assert edge.handshake(OPENHANDS.domain).certificate == before
