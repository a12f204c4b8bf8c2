"""A third upstream comes with one file, changes, and goes with the file; the two others do not notice.

The tests build on one another: they are the life of one upstream, in order.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest
from cryptography import x509
from testinfra.host import Host
from witness.connection import Connection
from witness.edge import Edge
from witness.ledger import Ledger
from witness.playbook import Operator
from witness.postgres import Postgres, of_the_testkit, running_postgres
from witness.stream import OpenStream
from witness.third import THIRD_FILE
from witness.user import User
from witness.vps import Vps
from witness.waiting import wait_until

THIRD = "chat3.trollllm.xyz"
OTHERS = ("goproxy-openhands", "goproxy-ohmygpt")

# Without the time of fixtures: `deployed` may have to begin with a bare host.
pytestmark = [pytest.mark.usefixtures("deployed"), pytest.mark.timeout(600, func_only=True)]


def container_id(vps: Vps, name: str) -> str:
    return str(vps.inspect(name)["Id"])


def files(vps: Vps, folders: str) -> str:
    """Every file below the folders with its content, mode and owner.

    Without store and journals: backend and proxies write to them whatever the playbook does.
    """
    told = "-type f -printf '%p %m %U %G ' -exec sha256sum {} ';'"
    return vps.run(f"find {folders} -path '/opt/trollllm/data/*/*' -prune -o {told} | sort")


def everything(vps: Vps) -> str:
    """All that the playbook could change: files and containers."""
    containers = vps.run("docker ps --all --no-trunc --format '{{.ID}} {{.Names}} {{.State}}'")
    return files(vps, "/opt/trollllm /etc/letsencrypt /etc/docker /var/www") + containers


def addresses(connection: Connection, name: str) -> list[str]:
    """What the zone's own name server says."""
    answer = dns.query.udp(dns.message.make_query(name, "A"), connection.dns.host, port=connection.dns.port, timeout=5)
    return [record.address for entry in answer.answer for record in entry]


def names_on_certificate(edge: Edge, name: str) -> set[str]:
    certificate = edge.handshake(name).certificate
    return set(
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
    )


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("operator"))


@pytest.fixture
def unnoticed(vps: Vps, open_stream: Callable[[str], OpenStream]) -> Iterator[None]:
    """While the test runs, a stream is open on each of the two other domains, and their containers stay the same."""
    before = [container_id(vps, name) for name in OTHERS]
    streams = [open_stream("chat.trollllm.xyz"), open_stream("chat2.trollllm.xyz")]
    for stream in streams:
        stream.wait_for_events(3)
    yield
    for stream in streams:
        stream.wait_for_more()
        stream.assert_complete()
    assert [container_id(vps, name) for name in OTHERS] == before


@pytest.fixture
def lead_astray(vps: Vps) -> Iterator[None]:
    """While the test runs, the third name leads from the VPS to an address where nobody answers."""
    vps.run("cp /etc/hosts /root/hosts && echo 198.18.78.99 %s >> /etc/hosts", THIRD)
    yield
    vps.run("cat /root/hosts > /etc/hosts")


@pytest.mark.usefixtures("unnoticed", "lead_astray")
def test_a_name_that_does_not_lead_here_yet_is_named_and_left_out_of_the_certificate(
    operator: Operator, edge: Edge, user: User
) -> None:
    (operator.upstreams / "third.yml").write_text(THIRD_FILE)
    run = operator.succeed("site.yml", "-e", "certbot_probe_patience=3")
    assert f"{THIRD} is left out of the certificate" in " ".join(run.output.split())  # wrapped to the terminal
    assert names_on_certificate(edge, "chat.trollllm.xyz") == {"chat.trollllm.xyz", "chat2.trollllm.xyz"}
    assert user.ask("chat2.trollllm.xyz").status_code == 200


@pytest.mark.usefixtures("unnoticed")
def test_adding_one_file_adds_record_name_on_the_certificate_virtual_host_configuration_and_container(
    operator: Operator, host: Host, vps: Vps, edge: Edge, user: User, connection: Connection
) -> None:
    (operator.upstreams / "third.yml").write_text(THIRD_FILE)
    run = operator.succeed("site.yml", "-vvv", "--diff")
    assert "https://chat3.trollllm.xyz" in run.output
    assert [name for name, secret in connection.marked_secrets.items() if secret in run.output] == []
    assert addresses(connection, THIRD) == [connection.vps_ipv4]
    assert names_on_certificate(edge, THIRD) == {"chat.trollllm.xyz", "chat2.trollllm.xyz", THIRD}
    assert host.file("/opt/trollllm/goproxy/config-third-prod.json").exists
    assert container_id(vps, "goproxy-third")
    assert user.ask(THIRD, model="claude-haiku-4-5").status_code == 200


@pytest.mark.usefixtures("unnoticed")
def test_changing_its_file_recreates_its_container_only(
    operator: Operator, host: Host, vps: Vps, user: User, ledger: Ledger
) -> None:
    """Its port too, which makes it another user's: the journal goes with it, whole, and goes on."""
    third, backend = container_id(vps, "goproxy-third"), container_id(vps, "backend")
    before = user.ask(THIRD, model="claude-haiku-4-5").headers["request-id"]
    changed = THIRD_FILE.replace("multiplier: 1.1", "multiplier: 1.15").replace("port: 8006", "port: 8007")
    (operator.upstreams / "third.yml").write_text(changed)
    operator.succeed("site.yml")
    assert container_id(vps, "goproxy-third") != third
    assert container_id(vps, "backend") == backend
    assert '"billing_multiplier": 1.15' in host.file("/opt/trollllm/goproxy/config-third-prod.json").content_string
    assert vps.run("find /opt/trollllm/data/third -printf '%U\\n' | sort -u") == "18007"
    after = user.ask(THIRD, model="claude-haiku-4-5")
    assert after.status_code == 200
    for request_id in (before, after.headers["request-id"]):
        assert ledger.row(request_id, timeout=30)["upstream"] == "third"


@pytest.mark.usefixtures("unnoticed")
@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (THIRD_FILE.replace("multiplier: 1.1", "multiplier: 1.5"), "1.5"),
        (THIRD_FILE.replace("port: 8006", "port: 8004"), "8004"),
        (THIRD_FILE.replace("  multiplier_band", " multiplier_band"), "third.yml"),
    ],
    ids=["multiplier out of its band", "port of another upstream", "not YAML"],
)
def test_a_broken_file_changes_nothing_on_the_host(operator: Operator, vps: Vps, broken: str, named: str) -> None:
    before = everything(vps)
    (operator.upstreams / "third.yml").write_text(broken)
    run = operator.run("site.yml")
    assert run.code != 0
    assert "third" in run.output
    assert named in run.output
    assert "Traceback" not in run.output
    assert everything(vps) == before


@pytest.mark.usefixtures("unnoticed")
def test_another_name_for_the_same_domain_is_refused_and_both_are_named(operator: Operator, vps: Vps) -> None:
    (operator.upstreams / "third.yml").unlink()
    (operator.upstreams / "fourth.yml").write_text(THIRD_FILE.replace("__third", "__fourth"))
    before = vps.containers()
    run = operator.run("site.yml")
    (operator.upstreams / "fourth.yml").unlink()
    assert run.code != 0
    said = " ".join(run.output.split())
    assert f"{THIRD} is served by third on this host, and by fourth in the inventory" in said
    assert "-e goproxy_may_rename=true" in said
    assert vps.containers() == before


@pytest.mark.usefixtures("unnoticed")
def test_an_edge_configuration_that_nginx_refuses_leaves_the_old_one(operator: Operator, vps: Vps, user: User) -> None:
    (operator.upstreams / "third.yml").write_text(THIRD_FILE)
    before = files(vps, "/opt/trollllm/edge")
    run = operator.run("site.yml", "--extra-vars", "nginx_error_log_level=loud")
    assert run.code != 0
    assert "loud" in run.output
    assert files(vps, "/opt/trollllm/edge") == before
    assert user.ask("chat.trollllm.xyz").status_code == 200


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres(of_the_testkit()) as server:
        yield server


@pytest.fixture(scope="module")
def of_sqlite(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the store as it is until the gateway gets another one."""
    folder = tmp_path_factory.mktemp("of-sqlite")
    operator.succeed("playbooks/backup.yml", "-e", f"backup_dir={folder}")
    (file,) = folder.iterdir()
    return file


@pytest.mark.usefixtures("unnoticed", "of_sqlite")
def test_the_admin_api_gets_a_domain_of_its_own_where_one_is_given(
    operator: Operator, edge: Edge, user: User, connection: Connection, postgres: Postgres
) -> None:
    """With the operator's token only, and nothing else of the backend. The next run, without it, takes it away.

    The same run gives the backend a PostgreSQL, for the next test.
    """
    admin = "admin.trollllm.xyz"
    more = ("-e", f"gateway_admin_domain={admin}", "-e", f"gateway_database_url={postgres.url}")
    run = operator.succeed("site.yml", *more, "-vvv")
    assert postgres.password not in run.output
    assert addresses(connection, admin) == [connection.vps_ipv4]
    assert admin in names_on_certificate(edge, admin)
    token = {"authorization": f"Bearer {connection.secrets['operator']}"}
    accounts = f"https://{admin}/admin/v1/accounts"
    assert [user.http.get(accounts, headers=headers).status_code for headers in ({}, token)] == [401, 200]
    for path in ("admin/v1/catalogue", "proxy/v1/keys", "metrics", "healthz", "v1/models"):
        assert user.http.get(f"https://{admin}/{path}", headers=token).status_code == 404
    assert user.http.get("https://chat.trollllm.xyz/admin/v1/accounts", headers=token).status_code == 404


def test_postgresql_keeps_accounts_and_ledger_where_one_is_given(
    operator: Operator, edge: Edge, user: User, ledger: Ledger, postgres: Postgres, of_sqlite: Path, tmp_path: Path
) -> None:
    """Rows, keys, backup and restore as with SQLite; and a backup of SQLite brings all of it over."""
    for domain in ("chat.trollllm.xyz", "chat2.trollllm.xyz", THIRD):
        wait_until(lambda domain=domain: user.ask(domain, model="claude-haiku-4-5").status_code == 200, 30)  # type: ignore[misc]
    row = ledger.row(user.ask("chat.trollllm.xyz").headers["request-id"], timeout=30)
    assert postgres.rows("SELECT account, cost_nanodollars FROM ledger_rows WHERE id = %s", row["id"]) == [
        ("demo", row["cost_nanodollars"])
    ]
    assert "backend: PostgreSQL, reachable" in operator.succeed("playbooks/status.yml").output

    run = operator.succeed("playbooks/keys.yml", "-e", "account=dora", "-e", "credit=1")
    (key,) = re.findall(r"tg-[0-9A-Za-z]{49}", run.output)
    wait_until(lambda: User(edge, key).ask("chat.trollllm.xyz", max_tokens=5).status_code == 200, 30)
    operator.succeed("playbooks/backup.yml", "-e", f"backup_dir={tmp_path}")
    (of_postgres,) = tmp_path.iterdir()

    for file, known in ((of_sqlite, False), (of_postgres, True)):
        operator.succeed("playbooks/restore.yml", "-e", f"file={file}", "-e", "restore=trollllm.xyz")
        accounts = [name for (name,) in postgres.rows("SELECT name FROM accounts")]
        assert "demo" in accounts
        assert ("dora" in accounts) == known
    assert ledger.row(row["id"]) == row
    wait_until(lambda: User(edge, key).ask("chat.trollllm.xyz", max_tokens=5).status_code == 200, 30)


@pytest.mark.usefixtures("unnoticed")
def test_deleting_the_file_takes_all_of_it_away(
    operator: Operator, host: Host, vps: Vps, edge: Edge, connection: Connection
) -> None:
    (operator.upstreams / "third.yml").unlink()
    operator.succeed("site.yml")
    assert addresses(connection, THIRD) == []
    assert names_on_certificate(edge, "chat.trollllm.xyz") == {"chat.trollllm.xyz", "chat2.trollllm.xyz"}
    with pytest.raises(ssl.SSLError):
        edge.handshake(THIRD)
    assert not host.file("/opt/trollllm/goproxy/config-third-prod.json").exists
    assert not host.file("/opt/trollllm/secrets/third").exists
    assert "goproxy-third" not in vps.containers()
    assert operator.succeed("site.yml").changed == 0


def test_no_trace_of_it_is_left(vps: Vps) -> None:
    left = vps.run("grep -rl third /opt/trollllm --include=*.conf --include=*.json --include=*.yml || true")
    assert left == ""


def test_removing_the_gateway_wants_its_zone_said(operator: Operator, vps: Vps) -> None:
    run = operator.run("playbooks/remove.yml")
    assert run.code != 0
    assert "-e remove=trollllm.xyz" in run.output
    assert "goproxy-openhands" in vps.containers()


TRACES = "find / -xdev \\( -path '*trollllm*' -o -path '*certbot*' -o -path '*letsencrypt*' \\) -not -path '/proc/*'"


def test_removing_the_gateway_leaves_nothing_but_the_engine(
    operator: Operator, vps: Vps, connection: Connection
) -> None:
    """And the note of what the engine was installed with, for docker_remove_engine."""
    removal = ("playbooks/remove.yml", "-e", "remove=trollllm.xyz", "-e", "goproxy_remove_data=true")
    operator.succeed(*removal)
    assert vps.run("docker ps --all --quiet; docker images --quiet; docker network ls -q --filter type=custom") == ""
    assert vps.run(TRACES).split() == ["/etc/docker/trollllm.json"]
    assert addresses(connection, "chat.trollllm.xyz") == addresses(connection, "chat2.trollllm.xyz") == []
    assert operator.succeed(*removal).changed == 0
