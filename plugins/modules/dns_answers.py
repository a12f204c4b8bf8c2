#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE)
"""Asks every authoritative name server of a zone for some records, and waits until all of them say the same.

It only asks: what changes a zone is the provider's own module. It runs on the controller.
"""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dns_answers
short_description: What every authoritative name server of a zone says about some records
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Asks each authoritative name server of O(zone), without recursion, for each of O(records); over UDP, then over TCP.
  - A record is right when every server has exactly its values, and its TTL where one is given.
  - With O(state=wait) it asks again until every record is right.
    When the time is over it fails with what is still different.
  - Changes nothing.
requirements:
  - dnspython
options:
  zone:
    description:
      - The zone that the records are in.
      - When O(nameservers) is empty, its name servers are found through the system's resolver, from this name upwards.
    type: str
    required: true
  nameservers:
    description:
      - The servers to ask, each an IP address or V(ADDRESS:PORT) (V([ADDRESS]:PORT) for IPv6).
      - Empty means the name servers of the zone, each by its IPv4 addresses, or its IPv6 addresses if it has no other.
    type: list
    elements: str
    default: []
  records:
    description: What the servers shall say.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The record's full name.
        type: str
        required: true
      type:
        description: The record's type.
        type: str
        choices: [A, AAAA]
        required: true
      values:
        description:
          - The addresses. Empty means that no such record shall be there.
          - A wildcard that goes on answering for the name is no such record.
        type: list
        elements: str
        required: true
      ttl:
        description: The TTL in seconds. Left out, any TTL is right, and so is a name that leads there by CNAME.
        type: int
  state:
    description: V(query) asks once and never fails because of an answer. V(wait) asks until every record is right.
    type: str
    choices: [query, wait]
    default: query
  wait_seconds:
    description: How long O(state=wait) waits.
    type: int
    default: 120
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Wait until every name server of example.org knows the gateway
  trollllm.gateway.dns_answers:
    state: wait
    zone: example.org
    records:
      - name: chat.example.org
        type: A
        values: [192.0.2.10]
        ttl: 300
  delegate_to: localhost
"""

RETURN = r"""
servers:
  description: The servers that were asked.
  returned: success
  type: list
  elements: str
  sample: ["192.0.2.53 (ns1.example.org)"]
records:
  description: The records as they were given, each with what was found.
  returned: success
  type: list
  elements: dict
  contains:
    status:
      description: V(right), V(different) (a server says something else), or V(unknown) (no server could be asked).
      type: str
    found:
      description: All the values that any server gave.
      type: list
      elements: str
    present:
      description: Whether some server gave one of the values, or no server could be asked.
      type: bool
    label:
      description: The record's name and type.
      type: str
different:
  description: Those of RV(records) that are not right.
  returned: success
  type: list
  elements: dict
differences:
  description: One sentence per record and server that is not as expected.
  returned: always
  type: list
  elements: str
  sample: ["chat.example.org A: 192.0.2.53 (ns1.example.org) says no such record, expected 192.0.2.10 with TTL 300"]
"""

import ipaddress
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DNSPYTHON_PROBLEM: str | None = None
try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.query
    import dns.rcode
    import dns.rdatatype
    import dns.resolver
except ImportError:
    DNSPYTHON_PROBLEM = traceback.format_exc()

# Seconds that one question may take, over UDP and over TCP each.
TIMEOUT = 3.0

# The pause between two rounds of questions grows from the first to the longest, in seconds.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0


class NoNameServers(Exception):
    """The servers of a zone cannot be told; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    address: str
    port: int = 53
    name: str = ""

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address and self.port != 53 else self.address
        port = "" if self.port == 53 else f":{self.port}"
        return f"{address}{port}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True)
class Record:
    name: str
    type: str
    values: frozenset[str]
    ttl: int | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.type}"


@dataclass(frozen=True)
class Answer:
    """What one server said about one record. With a problem it said nothing that counts."""

    values: frozenset[str] = frozenset()
    ttl: int | None = None
    alias: str = ""
    problem: str = ""
    # The server itself cannot be reached, so asking it for the next record is a waste of time.
    unreachable: bool = False


def parse_server(text: str) -> Server:
    """Read "ADDRESS", "ADDRESS:PORT" or "[ADDRESS]:PORT"."""
    address, port = text.strip(), "53"
    if address.startswith("["):
        address, _, rest = address[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif address.count(":") == 1:
        address, _, port = address.partition(":")
    try:
        ipaddress.ip_address(address)
        number = int(port)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise NoNameServers(f"nameservers: '{text}' is not an IP address with an optional port, such as 192.0.2.53:53.")
    return Server(address, number)


def find_nameservers(zone: str, resolver: dns.resolver.Resolver | None = None) -> list[Server]:
    """The authoritative servers of the zone, or of the nearest one above it that has any."""
    remedy = "Check the zone's name and its delegation, or name the servers (dns_nameservers)."
    try:
        resolver = resolver or dns.resolver.Resolver()
        names = _nameserver_names(dns.name.from_text(zone), resolver)
    except (dns.exception.DNSException, OSError) as error:
        raise NoNameServers(f"The name servers of zone {zone} could not be found: {_said(error)}. {remedy}") from error
    if not names:
        raise NoNameServers(f"Neither zone {zone} nor one above it has name servers. {remedy}")
    servers = [server for name in names for server in _addresses(name, resolver)]
    if not servers:
        raise NoNameServers(f"The name servers of zone {zone} ({', '.join(names)}) have no address. {remedy}")
    return servers


def _nameserver_names(zone: dns.name.Name, resolver: dns.resolver.Resolver) -> list[str]:
    # A top-level domain's servers know nothing of the operator's names: the walk ends below it.
    while len(zone.labels) > 2:
        try:
            return sorted(str(rdata.target).rstrip(".") for rdata in resolver.resolve(zone, "NS", search=False))
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            zone = zone.parent()
    return []


def _addresses(name: str, resolver: dns.resolver.Resolver) -> list[Server]:
    # IPv6 only where there is no IPv4: a controller without IPv6 must not see a fault that is its own.
    for kind in ("A", "AAAA"):
        try:
            found = resolver.resolve(name + ".", kind, search=False)
        except dns.exception.DNSException:
            continue
        return [Server(address, name=name) for address in sorted(str(rdata.address) for rdata in found)]
    return []


def ask(server: Server, record: Record, timeout: float) -> Answer:
    """One question to one server: UDP, then TCP when UDP brings nothing or not all."""
    question = dns.message.make_query(record.name, record.type)
    question.flags &= ~dns.flags.RD
    try:
        reply = dns.query.udp(question, server.address, timeout, server.port)
    except (dns.exception.DNSException, OSError):
        reply = None
    if reply is None or reply.flags & dns.flags.TC:
        try:
            reply = dns.query.tcp(question, server.address, timeout, server.port)
        except (dns.exception.DNSException, OSError) as error:
            return Answer(problem=f"does not answer ({_said(error)})", unreachable=True)
    if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(problem=f"answers {dns.rcode.to_text(reply.rcode())}")
    if not reply.flags & dns.flags.AA:
        return Answer(problem="is not authoritative for this name")
    return _read(reply, record)


def ask_whether_gone(server: Server, record: Record, timeout: float) -> Answer:
    """What the name has of its own: what a name beside it that nobody ever wrote has as well is a wildcard's."""
    answer = ask(server, record, timeout)
    if not answer.values:
        return answer
    beside = replace(record, name=f"{secrets.token_hex(16)}.{record.name.partition('.')[2]}")
    return Answer() if ask(server, beside, timeout) == answer else answer


def _read(reply: dns.message.Message, record: Record) -> Answer:
    name, alias, seen = dns.name.from_text(record.name), "", set()
    wanted = dns.rdatatype.from_text(record.type)
    while name not in seen:
        seen.add(name)
        for rrset in reply.answer:
            if rrset.name == name and rrset.rdtype == wanted:
                values = frozenset(_address(rdata.to_text()) for rdata in rrset)
                return Answer(values, rrset.ttl, alias)
        for rrset in reply.answer:
            if rrset.name == name and rrset.rdtype == dns.rdatatype.CNAME:
                name = rrset[0].target
                alias = str(name).rstrip(".")
                break
    return Answer(alias=alias)


def difference(record: Record, answer: Answer) -> str:
    """What is wrong with the answer, in words that come after the server's name; empty when it is right."""
    expected = " and ".join(sorted(record.values)) or "no such record"
    if record.values and record.ttl is not None:
        expected += f" with TTL {record.ttl}"
    if answer.problem:
        return f"{answer.problem}, expected {expected}"
    strict = record.ttl is not None or not record.values
    if answer.values == record.values and not (answer.alias and strict) and record.ttl in (None, answer.ttl):
        return ""
    if not record.values and not answer.values:
        return ""
    said = " and ".join(sorted(answer.values)) or "no such record"
    if answer.values and answer.ttl is not None:
        said += f" with TTL {answer.ttl}"
    if answer.alias:
        said += f" by CNAME {answer.alias}"
    return f"says {said}, expected {expected}"


@dataclass
class Survey:
    """The last answer of each server to each question. Only what is not right yet is asked again."""

    servers: Sequence[Server]
    records: Sequence[Record]
    timeout: float
    answers: dict[tuple[Server, Record], Answer]

    def ask(self) -> None:
        with ThreadPoolExecutor(max_workers=16) as pool:
            for answers in pool.map(self._ask_server, self.servers):
                self.answers.update(answers)

    def _ask_server(self, server: Server) -> dict[tuple[Server, Record], Answer]:
        answers: dict[tuple[Server, Record], Answer] = {}
        silent: Answer | None = None
        for record in self.records:
            last = self.answers.get((server, record))
            if last is not None and not difference(record, last):
                continue
            answer = silent or (ask if record.values else ask_whether_gone)(server, record, self.timeout)
            silent = answer if answer.unreachable else None
            answers[server, record] = answer
        return answers

    def differences(self) -> list[str]:
        pairs = [(server, record) for record in self.records for server in self.servers]
        told = [(server, record, difference(record, self.answers[server, record])) for server, record in pairs]
        return [f"{record}: {server} {said}" for server, record, said in told if said]

    def found(self, record: Record) -> list[str]:
        return sorted(set().union(*(self.answers[server, record].values for server in self.servers)))

    def status(self, record: Record) -> str:
        answers = [self.answers[server, record] for server in self.servers]
        if all(answer.problem for answer in answers):
            return "unknown"
        return "different" if any(difference(record, answer) for answer in answers) else "right"


def wait(
    survey: Survey,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Ask until every answer is right or the time is over."""
    end, pause = clock() + seconds, FIRST_PAUSE
    survey.ask()
    while survey.differences() and clock() < end:
        sleep(max(0.0, min(pause, end - clock())))
        pause = min(pause * 2, LONGEST_PAUSE)
        survey.ask()


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _said(error: BaseException) -> str:
    return str(error).rstrip(".") or type(error).__name__


def read_records(given: Sequence[dict[str, Any]]) -> list[Record]:
    records = []
    for entry in given:
        try:
            values = frozenset(_address(value) for value in entry["values"])
        except ValueError as error:
            message = f"records: {entry['name']} {entry['type']}: {_said(error)}. Write an address."
            raise ValueError(message) from error
        records.append(Record(entry["name"].rstrip("."), entry["type"], values, entry.get("ttl")))
    return records


def report(survey: Survey, given: Sequence[dict[str, Any]]) -> dict[str, Any]:
    records = []
    for entry, record in zip(given, survey.records, strict=True):
        status, found = survey.status(record), survey.found(record)
        present = status == "unknown" or not record.values.isdisjoint(found)
        records.append({**entry, "label": str(record), "status": status, "found": found, "present": present})
    return {
        "servers": [str(server) for server in survey.servers],
        "records": records,
        "different": [record for record in records if record["status"] != "right"],
        "differences": survey.differences(),
    }


def unreachable(given: Sequence[dict[str, Any]], reason: str) -> dict[str, Any]:
    """The report when there is no server to ask."""
    records = [
        {**entry, "label": f"{entry['name']} {entry['type']}", "status": "unknown", "found": [], "present": True}
        for entry in given
    ]
    return {"servers": [], "records": records, "different": records, "differences": [reason] if records else []}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "zone": {"type": "str", "required": True},
            "nameservers": {"type": "list", "elements": "str", "default": []},
            "records": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "type": {"type": "str", "choices": ["A", "AAAA"], "required": True},
                    "values": {"type": "list", "elements": "str", "required": True},
                    "ttl": {"type": "int"},
                },
            },
            "state": {"type": "str", "choices": ["query", "wait"], "default": "query"},
            "wait_seconds": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    if DNSPYTHON_PROBLEM is not None:
        module.fail_json(msg=missing_required_lib("dnspython"), exception=DNSPYTHON_PROBLEM)
    given: list[dict[str, Any]] = module.params["records"]
    waiting = module.params["state"] == "wait"
    try:
        records = read_records(given)
        servers = [parse_server(text) for text in module.params["nameservers"]]
    except (NoNameServers, ValueError) as error:
        module.fail_json(msg=str(error))
    if not records:
        module.exit_json(changed=False, servers=[], records=[], different=[], differences=[])
    try:
        servers = servers or find_nameservers(module.params["zone"])
    except NoNameServers as error:
        if waiting:
            module.fail_json(msg=str(error), differences=[str(error)])
        module.exit_json(changed=False, **unreachable(given, str(error)))
    survey = Survey(servers, records, TIMEOUT, {})
    wait(survey, module.params["wait_seconds"] if waiting else 0)
    result = report(survey, given)
    if waiting and result["different"]:
        seconds, different = module.params["wait_seconds"], "; ".join(result["differences"])
        module.fail_json(
            msg=f"After {seconds} seconds not every name server is right. {different}. "
            "One that is slow needs a longer wait_seconds; one that never follows, a repair or to leave the zone's NS.",
            differences=result["differences"],
        )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
