"""What is rolled out while people use the gateway, and what does not become ready: nobody notices any of it.

The tests build on one another: they are an evening of an operator's, in order.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from witness.connection import Connection
from witness.crowd import Crowd
from witness.edge import Edge
from witness.interruption import Interruptions, Point
from witness.playbook import Operator, Run, release
from witness.provider import Provider
from witness.vps import Vps
from witness.waiting import wait_until

STREAMS = 20
PROXIES = ("goproxy-openhands", "goproxy-ohmygpt")
DEPLOY = "molecule/rollout/proxies.yml"

pytestmark = [pytest.mark.usefixtures("deployed"), pytest.mark.timeout(600, func_only=True)]

Across = Callable[[Callable[[], Run]], Run]


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Has a copy of the project, in which the next release can be made."""
    folder = tmp_path_factory.mktemp("operator")
    return Operator(folder, release(folder))


@pytest.fixture(scope="module")
def interruptions(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Interruptions:
    """The same operator has bad luck."""
    return Interruptions(operator, tmp_path_factory.mktemp("interruptions"))


@pytest.fixture
def crowd(connection: Connection, edge: Edge, providers: dict[str, Provider]) -> Crowd:
    """A small one, patient enough for three runs."""
    return Crowd(connection, edge, providers, 4, gap=0.5)


@pytest.fixture
def across(connection: Connection, edge: Edge, providers: dict[str, Provider], vps: Vps) -> Across:
    """Do something while streams are open and requests come; nobody may notice."""

    def do(act: Callable[[], Run]) -> Run:
        crowd = Crowd(connection, edge, providers, STREAMS)
        run, noticed = crowd.across(act, is_leaving=lambda: any(".leaving" in name for name in vps.containers()))
        assert noticed.is_nothing, f"{noticed}\n{run.output}"
        assert noticed.streams == STREAMS
        assert noticed.answers.total() > STREAMS
        return run

    return do


def running(vps: Vps) -> dict[str, str]:
    """Container ids by name, of all that there are."""
    lines = vps.run("docker ps --all --no-trunc --format '{{.Names}} {{.ID}}'").splitlines()
    return dict(line.split() for line in lines)


def image(vps: Vps, container: str) -> str:
    return str(vps.inspect(container)["Config"]["Image"])


def lock(vps: Vps) -> str:
    """Who changes the host, or nothing."""
    return vps.run("cat /run/trollllm-gateway.lock 2>/dev/null || true")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_new_image_replaces_the_proxies_and_the_backend_and_nothing_else(
    operator: Operator, vps: Vps, across: Across
) -> None:
    before, old = running(vps), image(vps, PROXIES[0])
    with (operator.project / "proxy_app/goproxy/__init__.py").open("a") as source:
        source.write(f"# The next release: {uuid.uuid4()}.\n")
    run = across(lambda: operator.run(DEPLOY))
    assert run.code == 0, run.output
    after = running(vps)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {*PROXIES, "backend"}
    assert {image(vps, name) for name in PROXIES} != {old}
    assert operator.succeed(DEPLOY).changed == 0


def test_a_changed_configuration_and_a_rotated_secret(operator: Operator, vps: Vps, across: Across) -> None:
    before = running(vps)
    edit(operator.upstreams / "openhands.yml", "multiplier_band:", "max_body_mib: 31\n  multiplier_band:")
    edit(operator.upstreams / "ohmygpt.yml", "vault_ohmygpt_api_key }}", "vault_ohmygpt_api_key }}-next")
    run = across(lambda: operator.run(DEPLOY))
    assert run.code == 0, run.output
    after = running(vps)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == set(PROXIES)


def test_only_what_changed_is_replaced(operator: Operator, vps: Vps, across: Across) -> None:
    """And one rollback of that one, which goes back the same way."""
    before = running(vps)
    edit(operator.upstreams / "openhands.yml", "max_body_mib: 31", "max_body_mib: 30")
    assert operator.succeed(DEPLOY).changed > 0
    between = running(vps)
    assert {name for name in between if between[name] != before[name]} == {"goproxy-openhands"}
    run = across(lambda: operator.run("playbooks/rollback.yml", "-e", "upstream=openhands"))
    assert run.code == 0, run.output
    after = running(vps)
    assert {name for name in after if after[name] != between[name]} == {"goproxy-openhands"}
    assert '"max_body_bytes": 32505856' in vps.run("cat /opt/trollllm/goproxy/config-openhands-prod.json")


def test_reloads_of_the_edge(vps: Vps, across: Across) -> None:
    def reload() -> Run:
        for _ in range(3):
            vps.run("docker exec trollllm-edge nginx -t -q && docker exec trollllm-edge nginx -s reload && sleep 1")
        return Run(0, "")

    across(reload)


def test_a_broken_image_is_not_let_in(operator: Operator, vps: Vps, across: Across) -> None:
    """The play fails and says why; files and containers are those of before."""
    edit(operator.upstreams / "openhands.yml", "max_body_mib: 30", "max_body_mib: 31")  # what was rolled back
    before, files = running(vps), vps.run("sha256sum /opt/trollllm/goproxy/* /opt/trollllm/docker-compose.prod.yml")
    source = operator.project / "proxy_app/goproxy/data_plane/server.py"
    whole = source.read_text()
    source.write_text(whole + '\nraise RuntimeError("this release is broken")\n')
    run = across(lambda: operator.run(DEPLOY))
    source.write_text(whole)
    assert run.code != 0
    for said in (
        "What ran before goes on serving",
        "goproxy-openhands: the new container did not become ready",
        "Health log:",
        "RuntimeError: this release is broken",
    ):
        assert said in run.output
    assert running(vps) == before
    assert vps.run("sha256sum /opt/trollllm/goproxy/* /opt/trollllm/docker-compose.prod.yml") == files


def test_a_backend_that_does_not_come_up_is_put_back(operator: Operator, vps: Vps, across: Across) -> None:
    """The play fails and says what became of it; the proxies run on the new image."""
    before = {name: image(vps, name) for name in (*PROXIES, "backend")}
    source = operator.project / "proxy_app/goproxy/control_plane/server.py"
    whole = source.read_text()
    source.write_text(whole + '\nraise RuntimeError("this backend is broken")\n')
    run = across(lambda: operator.run(DEPLOY))
    source.write_text(whole)
    assert run.code != 0
    for said in ("RuntimeError: this backend is broken", "The backend of before is back, and healthy."):
        assert said in run.output
    after = {name: image(vps, name) for name in before}
    assert after["backend"] == before["backend"]
    assert not {after[name] for name in PROXIES} & set(before.values())
    record = json.loads(vps.run("cat /opt/trollllm/releases.json"))
    assert {name: record[name.removeprefix("goproxy-")]["current"]["image"] for name in after} == after


def test_a_configuration_that_leads_nowhere_is_not_let_in(operator: Operator, vps: Vps, across: Across) -> None:
    """One upstream does not reach its provider; the other one, changed as well, is rolled out all the same.

    Also where the operator's token, of which those of the proxies are made, changes with it: the backend that goes on
    serving knows both.
    """
    before = running(vps)
    edit(operator.vault, "vault_operator_token: tg-", "vault_operator_token: next-")
    edit(operator.upstreams / "openhands.yml", "llm-proxy.app.all-hands.dev", "nobody.trollllm.xyz")
    edit(operator.upstreams / "ohmygpt.yml", "multiplier_band:", "max_body_mib: 31\n  multiplier_band:")
    run = across(lambda: operator.run(DEPLOY, "-e", "goproxy_ready_seconds=10"))
    assert run.code != 0
    assert "goproxy-openhands: the new container did not become ready" in run.output
    assert "its name does not resolve" in run.output
    after = running(vps)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"goproxy-ohmygpt"}
    assert "nobody" not in vps.run("cat /opt/trollllm/goproxy/config-openhands-prod.json")
    edit(operator.upstreams / "openhands.yml", "nobody.trollllm.xyz", "llm-proxy.app.all-hands.dev")
    edit(operator.vault, "vault_operator_token: next-", "vault_operator_token: tg-")


def test_one_that_is_not_rolled_out_keeps_no_other_waiting(operator: Operator, vps: Vps, across: Across) -> None:
    """The whole of site.yml: the edge follows the other one, and waits on for as long as the one that stays."""
    before = running(vps)
    edit(operator.upstreams / "openhands.yml", "llm-proxy.app.all-hands.dev", "nobody.trollllm.xyz")
    edit(operator.upstreams / "openhands.yml", "multiplier_band:", "timeouts: {first_byte: 100}\n  multiplier_band:")
    edit(operator.upstreams / "ohmygpt.yml", "multiplier_band:", "timeouts: {first_byte: 400}\n  multiplier_band:")
    run = across(lambda: operator.run("site.yml", "-e", "goproxy_ready_seconds=10"))
    assert run.code != 0
    said = " ".join(run.output.split())
    assert "Not rolled out: goproxy-openhands." in said
    reason = "goproxy-openhands: the new container did not become"
    assert said.index(reason) < said.index("https://chat2.trollllm.xyz") < said.rindex(reason)
    after = running(vps)
    assert after.keys() == before.keys()
    # The backend was put back onto the configuration of before (above): it has that of the proxies again.
    assert {name for name in after if after[name] != before[name]} == {"backend", "goproxy-ohmygpt"}
    assert "goproxy-former" not in vps.run("cat /opt/trollllm/docker-compose.prod.yml")
    for name, seconds in (("openhands", 300), ("ohmygpt", 400)):
        assert f"{seconds} s for the first byte" in vps.run(f"cat /opt/trollllm/edge/conf/conf.d/{name}.conf")
    edit(operator.upstreams / "openhands.yml", "nobody.trollllm.xyz", "llm-proxy.app.all-hands.dev")
    for name, seconds in (("openhands", 100), ("ohmygpt", 400)):
        edit(operator.upstreams / f"{name}.yml", f"timeouts: {{first_byte: {seconds}}}\n  ", "")


def test_another_folder_begins_no_other_ledger(operator: Operator, vps: Vps) -> None:
    before = running(vps)
    run = operator.run(DEPLOY, "-e", "gateway_dir=/srv/elsewhere")
    assert run.code != 0
    assert (
        "The ledger of this host is in /opt/trollllm/data/backend, and gateway_dir leads to /srv/elsewhere"
        in run.output
    )
    assert running(vps) == before
    assert vps.run("ls /srv") == ""


@pytest.mark.parametrize(
    ("chosen", "said"),
    [("third", "There is no upstream third; there are ohmygpt, openhands"), ("", "Say which upstream goes back")],
)
def test_a_rollback_of_nothing_says_so(operator: Operator, chosen: str, said: str) -> None:
    run = operator.run("playbooks/rollback.yml", "-e", f"upstream={chosen}")
    assert run.code != 0
    assert said in run.output


@pytest.mark.timeout(1800, func_only=True)  # three runs of site.yml, and as many rollouts
@pytest.mark.parametrize(
    "point",
    [
        pytest.param(Point("Write the configuration of each upstream, once", 0.4), id="files"),
        pytest.param(Point("Start the new container of each proxy", 8), id="containers"),
        pytest.param(Point("Order the certificate", 1), id="certificate"),
    ],
)
def test_a_run_that_is_killed_is_made_up_for_by_the_next(
    interruptions: Interruptions, vps: Vps, crowd: Crowd, point: Point
) -> None:
    """And the one after has nothing to do. `make torture ONLY=ansible` kills at each task."""
    after, noticed = crowd.across(
        lambda: interruptions.aftermath(point), is_leaving=lambda: any(".leaving" in name for name in vps.containers())
    )
    assert after.killed_in, "the run was over before"
    assert not after.problems, "\n".join(after.problems)
    assert noticed.is_nothing, noticed
    wait_until(lambda: lock(vps) == "", 10)


def test_of_two_runs_at_once_one_is_told_who_is_at_it(
    operator: Operator, interruptions: Interruptions, vps: Vps
) -> None:
    """Also of another playbook; and the one that waits for longer gets through, with nothing left to do."""
    interruptions.change()  # back to the upstreams of before
    first: list[Run] = []
    running = threading.Thread(target=lambda: first.append(operator.run("site.yml")))
    running.start()
    wait_until(lambda: lock(vps) != "", 60)
    refused = operator.run("playbooks/rollback.yml", "-e", "upstream=openhands", "-e", "lock_patience=0")
    waited = operator.run("site.yml", "-e", "lock_patience=300")
    running.join()
    assert refused.code != 0
    assert "Another run changes this host: site.yml by" in " ".join(refused.output.split())
    assert (first[0].code, waited.code) == (0, 0), first[0].output + waited.output
    assert waited.changed == 0
    assert "for another run: site.yml by" in " ".join(waited.output.split())


def test_streams_outlast_the_run_and_every_grace_period(operator: Operator, vps: Vps, crowd: Crowd) -> None:
    """The old containers finish them, then go by themselves. Another run leaves them alone, and has nothing to do."""

    def leaving() -> set[str]:
        return {name.partition(".leaving-")[0] for name in vps.containers() if ".leaving-" in name}

    def deploy(grace: int) -> Run:
        return operator.run(DEPLOY, "-e", f"goproxy_stop_grace_seconds={grace}")

    def twice() -> tuple[Run, Run]:
        runs = deploy(4), deploy(4)
        assert leaving() == set(PROXIES)
        return runs

    assert deploy(3).code == 0
    wait_until(lambda: not leaving(), 60)
    (first, second), noticed = crowd.across(twice, is_leaving=lambda: False)
    assert (first.code, second.code, second.changed) == (0, 0, 0), first.output + second.output
    assert noticed.is_nothing, noticed
    wait_until(lambda: not leaving(), 60)


def test_what_is_noticed_is_counted(
    connection: Connection, edge: Edge, providers: dict[str, Provider], vps: Vps
) -> None:
    """The crowd is no blind witness: a proxy that is killed is noticed by streams and requests."""

    def kill() -> Run:
        vps.run("docker kill --signal KILL goproxy-ohmygpt && sleep 1 && docker start goproxy-ohmygpt")
        return Run(0, "")

    _, noticed = Crowd(connection, edge, providers, 4).across(kill, is_leaving=lambda: False)
    assert noticed.cut_streams == 2
    assert noticed.lost_events >= 2
    assert noticed.gateway_errors > 0
