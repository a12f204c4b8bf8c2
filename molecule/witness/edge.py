"""The edge as the internet sees it: TLS and HTTP under any name, at the address where the edge is published.

Only the name look-up is replaced. SNI, Host header and the verified name stay those of the URL, and the certificate
is verified against the connection's CA and nothing else.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

import httpx2
from cryptography import x509

from .connection import Connection

TIMEOUT = 30


@dataclass(frozen=True)
class Handshake:
    """What a TLS handshake agreed on."""

    version: str
    suite: str
    protocol: str | None
    certificate: x509.Certificate


class Edge:
    """The edge of one connection."""

    def __init__(self, connection: Connection) -> None:
        """Know where it is; nothing is opened yet."""
        self._connection = connection

    def client(self) -> httpx2.Client:
        """Give an HTTP client that finds every domain at the edge. It follows no redirect and no proxy variable."""
        return httpx2.Client(transport=_AtTheEdge(self._connection), timeout=TIMEOUT, trust_env=False)

    def trust(self) -> ssl.SSLContext:
        """Give a context that verifies name and chain against the connection's CA."""
        return ssl.create_default_context(cafile=str(self._connection.ca))

    def handshake(self, name: str | None, context: ssl.SSLContext | None = None) -> Handshake:
        """Shake hands under a name, or under none; raise ssl.SSLError where the edge refuses."""
        context = context or self.trust()
        context.check_hostname = context.check_hostname and name is not None
        with self._tls(name, context) as tls:
            certificate = tls.getpeercert(binary_form=True)
            cipher = tls.cipher()
            assert certificate is not None
            assert cipher is not None
            return Handshake(
                version=tls.version() or "",
                suite=cipher[0],
                protocol=tls.selected_alpn_protocol(),
                certificate=x509.load_der_x509_certificate(certificate),
            )

    def exchange(self, name: str, request: bytes) -> bytes:
        """Send raw bytes over TLS opened for `name`, and give all that comes until the edge closes."""
        with self._tls(name, self.trust()) as tls:
            tls.sendall(request)
            return b"".join(iter(lambda: tls.recv(65536), b""))

    def begin(self, name: str, request: bytes) -> ssl.SSLSocket:
        """Send raw bytes over TLS opened for `name`, and give the connection, which is open until it is closed."""
        tls = self._tls(name, self.trust())
        tls.sendall(request)
        return tls

    def _tls(self, name: str | None, context: ssl.SSLContext) -> ssl.SSLSocket:
        address = self._connection.https
        tcp = socket.create_connection((address.host, address.port), TIMEOUT)
        try:
            return context.wrap_socket(tcp, server_hostname=name)
        except BaseException:
            tcp.close()
            raise


class _AtTheEdge(httpx2.BaseTransport):
    """Sends a request for any name to the edge. Names do not share connections: the edge would rightly answer 421."""

    def __init__(self, connection: Connection) -> None:
        self._addresses = {"https": connection.https, "http": connection.http}
        self._ca = str(connection.ca)
        self._by_name: dict[str, httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        name, address = request.url.host, self._addresses[request.url.scheme]
        if name not in self._by_name:
            trust = ssl.create_default_context(cafile=self._ca)
            self._by_name[name] = httpx2.HTTPTransport(verify=trust, trust_env=False)
        at_the_edge = httpx2.Request(
            request.method,
            request.url.copy_with(host=address.host, port=address.port),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": name},
        )
        return self._by_name[name].handle_request(at_the_edge)

    def close(self) -> None:
        for transport in self._by_name.values():
            transport.close()
