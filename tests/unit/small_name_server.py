"""Authoritative name servers on loopback, for as long as a test takes. Their fixture is in conftest.py."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsigkeyring
import dns.update
import pytest

KEY = {"key_name": "gateway", "key_secret": "c2VjcmV0LW9mLXRoZS10ZXN0cw=="}
KEYRING = dns.tsigkeyring.from_text({KEY["key_name"]: KEY["key_secret"]})


@dataclass
class NameServer:
    """Authoritative for whatever is in its table: (name, type) -> (ttl, values). It knows wildcards.

    Whoever has the key may change the table (RFC 2136).
    """

    table: dict[tuple[str, str], tuple[int, list[str]]] = field(default_factory=dict)
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    authoritative: bool = True
    truncates: bool = False
    silent: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    # Called before each answer, with the number of questions so far.
    before: Callable[[int], None] = lambda _: None
    port: int = 0

    def answer(self, wire: bytes, over: str) -> bytes:
        question = dns.message.from_wire(wire, keyring=KEYRING)
        if isinstance(question, dns.update.UpdateMessage):
            return self.update(question)
        name = question.question[0].name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.question[0].rdtype)
        self.asked.append((over, f"{name} {kind}"))
        assert not question.flags & dns.flags.RD, "an authoritative server is asked without recursion"
        self.before(len(self.asked))
        reply = dns.message.make_response(question)
        reply.set_rcode(self.rcode)
        if self.authoritative:
            reply.flags |= dns.flags.AA
        if over == "udp" and self.truncates:
            reply.flags |= dns.flags.TC
            return reply.to_wire()
        while (name, "CNAME") in self.table and (name, kind) not in self.table:
            ttl, [target] = self.table[name, "CNAME"]
            reply.answer.append(dns.rrset.from_text(name + ".", ttl, "IN", "CNAME", target + "."))
            name = target
        wildcard = f"*.{name.partition('.')[2]}"
        known = name if any(name == each for each, _ in self.table) else wildcard
        if (known, kind) in self.table:
            ttl, values = self.table[known, kind]
            reply.answer.append(dns.rrset.from_text_list(name + ".", ttl, "IN", kind, values))
        return reply.to_wire()

    def update(self, message: dns.update.UpdateMessage) -> bytes:
        reply = dns.message.make_response(message)
        if any(not self.has(rrset) for rrset in message.prerequisite):
            reply.set_rcode(dns.rcode.NXRRSET)
            return reply.to_wire()
        for rrset in message.update:
            known = key(rrset)
            if rrset.deleting is None:
                _, values = self.table.get(known, (0, []))
                self.table[known] = (rrset.ttl, [*values, *(rdata.to_text() for rdata in rrset)])
            else:
                assert rrset.deleting == dns.rdataclass.ANY, "single addresses are not taken away here"
                self.table.pop(known, None)
        return reply.to_wire()

    def has(self, rrset: dns.rrset.RRset) -> bool:
        return {rdata.to_text() for rdata in rrset} <= set(self.table.get(key(rrset), (0, []))[1]) and (
            key(rrset) in self.table
        )


def key(rrset: dns.rrset.RRset) -> tuple[str, str]:
    return rrset.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(rrset.rdtype)


@pytest.fixture
def start() -> Iterator[Callable[..., NameServer]]:
    sockets: list[socket.socket] = []

    def serve_udp(server: NameServer, udp: socket.socket) -> None:
        while True:
            try:
                wire, client = udp.recvfrom(4096)
            except OSError:
                return
            if not server.silent:
                udp.sendto(server.answer(wire, "udp"), client)

    def serve_tcp(server: NameServer, tcp: socket.socket) -> None:
        while True:
            try:
                connection, _ = tcp.accept()
            except OSError:
                return
            with connection:
                length = struct.unpack("!H", connection.recv(2))[0]
                wire = server.answer(connection.recv(length), "tcp")
                connection.sendall(struct.pack("!H", len(wire)) + wire)

    def start_server(**options: Any) -> NameServer:
        server = NameServer(**options)
        udp, tcp = one_port()
        server.port = udp.getsockname()[1]
        sockets.append(udp)
        threading.Thread(target=serve_udp, args=(server, udp), daemon=True).start()
        if server.silent:
            tcp.close()
        else:
            sockets.append(tcp)
            threading.Thread(target=serve_tcp, args=(server, tcp), daemon=True).start()
        return server

    yield start_server
    for each in sockets:
        each.close()


def one_port() -> tuple[socket.socket, socket.socket]:
    """A port for both: one that is free for UDP may be taken for TCP."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
        else:
            return udp, tcp
