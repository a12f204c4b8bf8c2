"""What the role dns asks and changes, against a name server on loopback that takes updates."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from real_ansible import Ansible, Run
from small_cloudflare import SmallCloudflare
from small_name_server import KEY, NameServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the list of records is root's")

CHAT, CHAT2 = "chat.example.org", "chat2.example.org"
HERE, ELSEWHERE = "192.0.2.10", "2001:db8::99"
ROLE = {"name": "Keep the records", "ansible.builtin.include_role": {"name": "trollllm.gateway.dns"}}


class Zone:
    """A zone, and the role that keeps the records of two upstreams in it."""

    def __init__(self, ansible: Ansible, server: NameServer) -> None:
        self.ansible, self.server = ansible, server
        self.records = server.table

    def run(self, *options: str, provider: str = "rfc2136", **more: Any) -> Run:
        variables = {
            "goproxy_upstreams": [{"name": name[:-12], "domain": name, "ttl": 300} for name in (CHAT, CHAT2)],
            "dns_provider": provider,
            "dns_zone": "example.org",
            "dns_ipv4": HERE,
            "dns_ipv6": "",
            "dns_extra_domains": [],
            "dns_credentials": {"server": "127.0.0.1", "port": self.server.port, **KEY},
            "dns_nameservers": [f"127.0.0.1:{self.server.port}"],
            "dns_wait_seconds": 2,
            "dns_state_file": str(self.ansible.directory / "records.json"),
        }
        self.ansible.write("group_vars/all.yml", variables | more)
        return self.ansible.play([ROLE], *options)

    @property
    def owned(self) -> list[str]:
        written = json.loads((self.ansible.directory / "records.json").read_text())
        return [record["label"] for record in written["records"]]


@pytest.fixture
def name_server(start: Callable[..., NameServer]) -> NameServer:
    return start(table={(name, "A"): (300, [HERE]) for name in (CHAT, CHAT2)})


@pytest.fixture
def zone(ansible: Ansible, name_server: NameServer) -> Zone:
    return Zone(ansible, name_server)


def test_an_aaaa_record_that_the_role_did_not_write_is_removed_where_the_host_has_no_ipv6(zone: Zone) -> None:
    """Or clients with IPv6, and the certificate authority, would still go to where the name led before."""
    zone.records[CHAT, "AAAA"] = (300, [ELSEWHERE, "2001:db8::98"])
    run = zone.run()
    assert run.code == 0, run.output
    assert f"remove {CHAT} AAAA (2001:db8::98 2001:db8::99) at rfc2136" in run.output
    assert zone.records == {(name, "A"): (300, [HERE]) for name in (CHAT, CHAT2)}
    assert zone.owned == [f"{CHAT} A", f"{CHAT2} A"]
    again = zone.run()
    assert (again.code, "at rfc2136" in again.output) == (0, False), again.output


def test_check_mode_names_the_aaaa_record_and_leaves_it(zone: Zone) -> None:
    zone.records[CHAT, "AAAA"] = (300, [ELSEWHERE])
    run = zone.run("--check")
    assert run.code == 0, run.output
    assert f"would remove {CHAT} AAAA ({ELSEWHERE}) at rfc2136" in run.output
    assert zone.records[CHAT, "AAAA"] == (300, [ELSEWHERE])


def test_an_aaaa_record_goes_when_the_host_has_no_ipv6_any_more(zone: Zone) -> None:
    assert zone.run(dns_ipv6="2001:db8::10").code == 0
    assert zone.records[CHAT2, "AAAA"] == (300, ["2001:db8::10"])
    assert zone.run().code == 0
    assert (CHAT2, "AAAA") not in zone.records
    assert zone.owned == [f"{CHAT} A", f"{CHAT2} A"]


def test_who_keeps_the_records_by_hand_is_told_of_the_aaaa_record(zone: Zone) -> None:
    zone.records[CHAT, "AAAA"] = (300, [ELSEWHERE])
    run = zone.run(provider="none")
    assert run.code != 0
    assert f"{CHAT} AAAA: 127.0.0.1:{zone.server.port} says {ELSEWHERE} with TTL 300, expected no such record" in (
        run.output
    )
    assert f"Not wanted, remove by hand: {CHAT} AAAA ({ELSEWHERE})" in run.output
    checked = zone.run("--check", provider="none")
    assert (checked.code, "remove by hand" in checked.output) == (0, True), checked.output
    del zone.records[CHAT, "AAAA"]
    assert zone.run(provider="none").code == 0


def test_nothing_here_is_done_as_another_user_though_the_hosts_are_reached_so(zone: Zone) -> None:
    """group_vars/all is localhost's, too, and there is no sudo here; on the gateway it is another one's business."""
    zone.ansible.write("hosts.yml", {"all": {"hosts": {"here": {"ansible_become": False}}}})
    zone.records.clear()
    run = zone.run(ansible_become=True, ansible_become_user="nobody", ansible_become_exe="/no/sudo/here")
    assert run.code == 0, run.output
    assert (CHAT, "A") in zone.records


@pytest.fixture
def moved(cloudflare: SmallCloudflare) -> SmallCloudflare:
    """The names lead to another host, which has IPv6."""
    for address in ("192.0.2.98", "192.0.2.99"):
        cloudflare.add("A", CHAT, address)
    for address in (ELSEWHERE, "2001:db8::98"):
        cloudflare.add("AAAA", CHAT, address)
    cloudflare.history.clear()
    return cloudflare


TOKEN = {"api_token": "a-token"}


def test_at_cloudflare_a_name_always_leads_somewhere(zone: Zone, moved: SmallCloudflare) -> None:
    run = zone.run(provider="cloudflare", dns_credentials=TOKEN)
    assert run.code == 0, run.output
    assert moved.history[-1] == {(CHAT, "A"): [HERE], (CHAT2, "A"): [HERE]}
    assert all(said.get((CHAT, "A")) for said in moved.history), moved.history


def test_what_cloudflare_refuses_leaves_the_name_where_it_was(zone: Zone, moved: SmallCloudflare) -> None:
    moved.refuses = "POST"
    run = zone.run(provider="cloudflare", dns_credentials=TOKEN)
    assert f"did not take 2 of 3 changes: {CHAT} A (set to {HERE})" in run.output
    assert moved.history[-1] == {(CHAT, "A"): ["192.0.2.98", "192.0.2.99"]}


def test_where_nothing_changes_each_question_is_asked_once(zone: Zone) -> None:
    run = zone.run()
    assert run.code == 0, run.output
    asked = [question for _, question in zone.server.asked]
    assert sorted(asked) == sorted(f"{name} {kind}" for name in (CHAT, CHAT2) for kind in ("A", "AAAA"))
