"""dns_answers against real sockets: small name servers on loopback that say what each test lets them say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from ansible_collections.trollllm.gateway.plugins.modules import dns_answers as subject
from ansible_collections.trollllm.gateway.plugins.modules.dns_answers import Record, Server, Survey
from small_name_server import NameServer

CHAT = {"name": "chat.example.org", "type": "A", "values": ["192.0.2.10"], "ttl": 300}
MODULE = Path(subject.__file__)


def knows(ttl: int = 300, *values: str) -> dict[tuple[str, str], tuple[int, list[str]]]:
    return {("chat.example.org", "A"): (ttl, list(values) or ["192.0.2.10"])}


def survey(servers: list[NameServer], *records: dict[str, Any]) -> Survey:
    asked = Survey([Server("127.0.0.1", each.port) for each in servers], subject.read_records(records), 1, {})
    asked.ask()
    return asked


def run(arguments: dict[str, Any], check: bool = False) -> tuple[int, dict[str, Any]]:
    given = json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check}})
    done = subprocess.run([sys.executable, str(MODULE)], input=given, capture_output=True, text=True, check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


def test_a_record_is_right_when_every_server_has_its_value_and_ttl(start: Callable[..., NameServer]) -> None:
    servers = [start(table=knows()), start(table=knows())]
    asked = survey(servers, CHAT)
    assert asked.differences() == []
    assert subject.report(asked, [CHAT])["different"] == []
    assert [each.asked for each in servers] == [[("udp", "chat.example.org A")]] * 2


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "says no such record"),
        (knows(300, "192.0.2.99"), "says 192.0.2.99 with TTL 300"),
        (knows(3600), "says 192.0.2.10 with TTL 3600"),
        (knows(300, "192.0.2.10", "192.0.2.99"), "says 192.0.2.10 and 192.0.2.99 with TTL 300"),
    ],
    ids=["missing", "another address", "another TTL", "one address too many"],
)
def test_one_server_that_differs_is_enough(
    start: Callable[..., NameServer], table: dict[tuple[str, str], tuple[int, list[str]]], said: str
) -> None:
    behind = start(table=table)
    asked = survey([start(table=knows()), behind], CHAT)
    assert asked.differences() == [
        f"chat.example.org A: 127.0.0.1:{behind.port} {said}, expected 192.0.2.10 with TTL 300"
    ]
    [different] = subject.report(asked, [CHAT])["different"]
    assert (different["label"], different["status"]) == ("chat.example.org A", "different")
    assert "192.0.2.10" in different["found"]
    assert different["present"] is True


def test_without_a_ttl_any_ttl_and_a_cname_are_right(start: Callable[..., NameServer]) -> None:
    table = {("chat.example.org", "CNAME"): (60, ["vps.example.org"]), ("vps.example.org", "A"): (9, ["192.0.2.10"])}
    server = start(table=table)
    assert survey([server], {**CHAT, "ttl": None}).differences() == []
    [said] = survey([server], CHAT).differences()
    assert "by CNAME vps.example.org" in said


def test_a_cname_that_leads_to_itself_ends() -> None:
    answer = dns.message.make_response(dns.message.make_query("chat.example.org", "A"))
    answer.answer.append(dns.rrset.from_text("chat.example.org.", 60, "IN", "CNAME", "chat.example.org."))
    assert subject._read(answer, Record("chat.example.org", "A", frozenset())).values == frozenset()


def test_no_values_means_that_the_record_is_gone(start: Callable[..., NameServer]) -> None:
    gone = {"name": "chat.example.org", "type": "A", "values": []}
    assert survey([start()], gone).differences() == []
    [said] = survey([start(table=knows())], gone).differences()
    assert said.endswith("says 192.0.2.10 with TTL 300, expected no such record")


WILDCARD = {("*.example.org", "A"): (300, ["192.0.2.80"])}


def test_a_wildcard_that_answers_for_a_name_that_is_gone_is_no_record_of_it(start: Callable[..., NameServer]) -> None:
    gone = {"name": "chat.example.org", "type": "A", "values": []}
    assert survey([start(table=WILDCARD)], gone).differences() == []
    [said] = survey([start(table=WILDCARD | knows())], gone).differences()
    assert said.endswith("says 192.0.2.10 with TTL 300, expected no such record")


def test_a_wildcard_beside_the_record_is_told_from_it_by_the_ttl(start: Callable[..., NameServer]) -> None:
    gone = {"name": "chat.example.org", "type": "A", "values": []}
    [said] = survey([start(table=WILDCARD | knows(60, "192.0.2.80"))], gone).differences()
    assert said.endswith("says 192.0.2.80 with TTL 60, expected no such record")


def test_ipv6_is_compared_as_addresses_and_not_as_text(start: Callable[..., NameServer]) -> None:
    wanted = {"name": "chat.example.org", "type": "AAAA", "values": ["2001:DB8:0:0::10"], "ttl": 300}
    assert survey([start(table={("chat.example.org", "AAAA"): (300, ["2001:db8::10"])})], wanted).differences() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rcode": dns.rcode.REFUSED}, "answers REFUSED"),
        ({"rcode": dns.rcode.SERVFAIL}, "answers SERVFAIL"),
        ({"authoritative": False, "table": knows()}, "is not authoritative for this name"),
        ({"silent": True}, "does not answer"),
    ],
    ids=["refused", "servfail", "a resolver", "silent"],
)
def test_a_server_that_cannot_tell_is_named(
    start: Callable[..., NameServer], options: dict[str, Any], said: str
) -> None:
    asked = survey([start(**options)], CHAT)
    [difference] = asked.differences()
    assert said in difference
    assert difference.endswith("expected 192.0.2.10 with TTL 300")
    [reported] = subject.report(asked, [CHAT])["records"]
    assert (reported["status"], reported["found"], reported["present"]) == ("unknown", [], True)


def test_an_address_that_somebody_else_put_there_is_told_apart(start: Callable[..., NameServer]) -> None:
    [reported] = subject.report(survey([start(table=knows(300, "192.0.2.99"))], CHAT), [CHAT])["records"]
    assert (reported["found"], reported["present"]) == (["192.0.2.99"], False)


def test_a_silent_server_is_asked_once_and_not_once_a_record(start: Callable[..., NameServer]) -> None:
    records = [{**CHAT, "name": f"chat{number}.example.org"} for number in range(5)]
    asked = Survey([Server("127.0.0.1", start(silent=True).port)], subject.read_records(records), 1, {})
    questions: list[Record] = []
    original = subject.ask

    def count(server: Server, record: Record, timeout: float) -> subject.Answer:
        questions.append(record)
        return original(server, record, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "ask", count)
        asked.ask()
    assert len(questions) == 1
    assert len(asked.differences()) == 5


def test_what_does_not_fit_udp_is_asked_over_tcp(start: Callable[..., NameServer]) -> None:
    server = start(table=knows(), truncates=True)
    assert survey([server], CHAT).differences() == []
    assert [over for over, _ in server.asked] == ["udp", "tcp"]


def test_waiting_ends_when_the_last_server_follows(start: Callable[..., NameServer]) -> None:
    quick, slow = start(table=knows()), start()

    def follow(count: int) -> None:
        if count == 3:
            slow.table.update(knows())

    slow.before = follow
    asked = Survey([Server("127.0.0.1", each.port) for each in (quick, slow)], subject.read_records([CHAT]), 1, {})
    pauses: list[float] = []
    subject.wait(asked, 60, sleep=pauses.append)
    assert asked.differences() == []
    assert pauses == [0.5, 1.0]
    assert len(quick.asked) == 1, "what is right is not asked again"


def test_waiting_stops_at_its_end(start: Callable[..., NameServer]) -> None:
    now = [0.0]
    asked = Survey([Server("127.0.0.1", start().port)], subject.read_records([CHAT]), 1, {})
    subject.wait(asked, 7, sleep=lambda pause: now.append(now[-1] + pause), clock=lambda: now[-1])
    assert now[-1] == 7
    assert asked.differences() != []


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.53", Server("192.0.2.53")),
        ("192.0.2.53:5353", Server("192.0.2.53", 5353)),
        ("2001:db8::53", Server("2001:db8::53")),
        ("[2001:db8::53]:5353", Server("2001:db8::53", 5353)),
        ("[2001:db8::53]", Server("2001:db8::53")),
    ],
)
def test_a_server_is_an_address_with_an_optional_port(text: str, server: Server) -> None:
    assert subject.parse_server(text) == server
    assert str(server) in (text, text.strip("[]"))


@pytest.mark.parametrize("text", ["ns1.example.org", "192.0.2.53:", "192.0.2.53:dns", "192.0.2.53:70000", ""])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(subject.NoNameServers, match=f"'{text}' is not an IP address"):
        subject.parse_server(text)


class Resolver:
    """Stands in for the system's resolver: the one thing here that no test may ask for real."""

    def __init__(self, table: dict[tuple[str, str], list[str]]) -> None:
        self.table = table

    def resolve(self, name: Any, kind: str, **_: Any) -> dns.rrset.RRset:
        found = self.table.get((str(name).rstrip("."), kind))
        if found is None:
            raise dns.resolver.NXDOMAIN
        return dns.rrset.from_text_list(str(name), 60, "IN", kind, found)


def test_the_zones_servers_are_found_by_walking_up() -> None:
    resolver = Resolver(
        {
            ("example.org", "NS"): ["ns2.example.net.", "ns1.example.net."],
            ("ns1.example.net", "A"): ["192.0.2.1"],
            ("ns1.example.net", "AAAA"): ["2001:db8::1"],
            ("ns2.example.net", "AAAA"): ["2001:db8::2"],
        }
    )
    assert subject.find_nameservers("gateway.example.org", resolver) == [  # type: ignore[arg-type]
        Server("192.0.2.1", name="ns1.example.net"),
        Server("2001:db8::2", name="ns2.example.net"),
    ]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({("org", "NS"): ["a.nic.example."]}, "Neither zone example.org nor one above it has name servers"),
        ({("example.org", "NS"): ["ns1.example.net."]}, r"\(ns1.example.net\) have no address"),
    ],
    ids=["the registry is not asked", "no address"],
)
def test_a_zone_whose_servers_cannot_be_found_says_what_to_do(
    table: dict[tuple[str, str], list[str]], said: str
) -> None:
    with pytest.raises(subject.NoNameServers, match=said + ".*dns_nameservers"):
        subject.find_nameservers("example.org", Resolver(table))  # type: ignore[arg-type]


def test_the_module_reports_and_does_not_fail_when_it_only_asks(start: Callable[..., NameServer]) -> None:
    server = start()
    arguments = {"zone": "example.org", "nameservers": [f"127.0.0.1:{server.port}"], "records": [CHAT]}
    code, answer = run(arguments, check=True)
    assert code == 0
    assert answer["changed"] is False
    assert answer["servers"] == [f"127.0.0.1:{server.port}"]
    assert [(each["name"], each["status"], each["found"]) for each in answer["different"]] == [
        ("chat.example.org", "different", [])
    ]


def test_the_module_fails_with_record_server_expected_and_got_when_the_time_is_over(
    start: Callable[..., NameServer],
) -> None:
    server = start(table=knows(60, "192.0.2.99"))
    code, answer = run(
        {
            "zone": "example.org",
            "nameservers": [f"127.0.0.1:{server.port}"],
            "records": [CHAT],
            "state": "wait",
            "wait_seconds": 1,
        }
    )
    assert code == 1
    assert answer["msg"].startswith(
        "After 1 seconds not every name server is right. chat.example.org A: "
        f"127.0.0.1:{server.port} says 192.0.2.99 with TTL 60, expected 192.0.2.10 with TTL 300."
    )


def test_the_module_names_a_value_that_is_no_address() -> None:
    code, answer = run({"zone": "example.org", "records": [{**CHAT, "values": ["vps"]}]})
    assert code == 1
    assert answer["msg"].startswith("records: chat.example.org A: 'vps' does not appear to be")


def test_nothing_to_ask_is_no_failure() -> None:
    code, answer = run({"zone": "example.org", "records": [], "state": "wait"})
    assert (code, answer["different"]) == (0, [])
