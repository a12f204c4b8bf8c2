"""What the operator sees: a second look changes nothing, the table tells the truth, and no secret is shown.

(The most verbose output of a run that changes something is looked through in the scenario lifecycle.)
"""

from __future__ import annotations

import json

import pytest
from witness.connection import Connection
from witness.playbook import Operator
from witness.vps import Vps


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("operator"))


def test_check_mode_on_the_converged_host_shows_no_change_and_no_secret(
    operator: Operator, connection: Connection
) -> None:
    run = operator.succeed("site.yml", "--check", "--diff", "-vvv")
    assert run.changed == 0, run.output
    assert [name for name, secret in connection.marked_secrets.items() if secret in run.output] == []


def test_status_shows_a_row_per_upstream(operator: Operator) -> None:
    run = operator.succeed("playbooks/status.yml")
    assert run.changed == 0
    for name, domain in (("openhands", "chat"), ("ohmygpt", "chat2")):
        row = next(line for line in run.output.splitlines() if line.startswith(name))
        assert f"https://{domain}.trollllm.xyz" in row
        assert "TTL 300" in row
        assert "until 20" in row
        assert "running, healthy" in row
        assert "trollllm/goproxy:" in row
        assert " unposted" in row
        assert "reachable" in row
        assert "NOT" not in row
    assert "backend: SQLite, reachable" in run.output


def test_status_tells_programs_the_same(operator: Operator) -> None:
    run = operator.succeed("playbooks/status.yml", "-e", "json=true")
    told = json.loads(run.output[run.output.index("{") : run.output.rindex("}") + 1])
    assert told["problems"] == []
    assert told["found"]["openhands"]["journal"]["ready"] is True
    assert told["found"]["ohmygpt"]["journal"]["damaged"] == 0
    assert (told["found"]["backend"]["store"]["kind"], told["found"]["backend"]["store"]["available"]) == (
        "SQLite",
        True,
    )


def test_status_fails_when_a_row_is_not_well(operator: Operator, vps: Vps) -> None:
    vps.run("docker stop --time 5 goproxy-ohmygpt")
    try:
        run = operator.run("playbooks/status.yml")
        assert run.code != 0
        assert "ohmygpt: goproxy-ohmygpt is exited" in run.output
        assert "openhands:" not in run.output
    finally:
        vps.run("docker start goproxy-ohmygpt")
        health = "docker inspect --format '{{.State.Health.Status}}' goproxy-ohmygpt"
        vps.run(f'until [ "$({health})" = healthy ]; do sleep 0.5; done')


def test_validate_needs_no_host(operator: Operator) -> None:
    """The same inventory, with a host that nobody can reach."""
    run = operator.succeed("playbooks/validate.yml", "--extra-vars", "ansible_connection=ssh ansible_host=198.18.0.1")
    assert run.changed == 0
