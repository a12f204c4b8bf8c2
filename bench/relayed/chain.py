"""The whole chain: TLS from the client to the edge, the edge to the goproxy, TLS from there to the provider.

The edge is nginx with the tree that the role trollllm.gateway.nginx renders; but for addresses, its limits per client
address (all clients have one here) and the number of its workers it is what an operator has. Beside it stands one nginx
that does TLS on both sides and nothing else. HAProxy, on the core of the clients, puts their TLS on and takes the
provider's off: neither of them speaks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme

from relayed.edge import edge_tree, upstream
from relayed.gateway import running_gateway
from relayed.peers import passing_on, running_nginx_tree
from relayed.process import Process, free_port, running
from relayed.targets import CORE, OTHER_CORE, Bench, Target

_DOMAIN = "chat.example.org"
NAMES = ("edge and goproxy", "nginx alone")

_CLIENTS_TLS = """\
frontend plain_{name}
    bind 127.0.0.1:{plain}
    default_backend {name}
backend {name}
    server edge 127.0.0.1:{tls} ssl verify required ca-file {ca} sni str({domain}) verifyhost {domain}
"""

_HELPER = """\
global
    nbthread 1
    maxconn 4500
    tune.ssl.default-dh-param 2048
defaults
    mode http
    timeout connect 10s
    timeout client 600s
    timeout server 600s
    option http-no-delay
    http-reuse always
frontend provider_tls
    bind 127.0.0.1:{provider_tls} ssl crt {certificate}
    default_backend provider
backend provider
    server provider 127.0.0.1:{provider}
{clients}
"""


class _Certificates:
    """A certificate for all of them, and who vouches for it."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert(_DOMAIN, "127.0.0.1", "localhost")  # nginx verifies names only
        self.ca = directory / "ca"
        self.ca_file = self.ca / "ca.pem"
        self.chain = directory / "fullchain.pem"
        self.key = directory / "privkey.pem"
        self.both = directory / "both.pem"
        self.ca.mkdir(parents=True)
        authority.cert_pem.write_to_path(self.ca_file)
        self.chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.both.write_bytes(issued.private_key_and_cert_chain_pem.bytes())


@contextmanager
def running_chains(bench: Bench) -> Iterator[dict[str, Target]]:
    """Run both."""
    directory = bench.scratch / f"chain-{len(list(bench.scratch.glob('chain-*')))}"
    certificates = _Certificates(directory)
    provider_tls, edge, plain_nginx = free_port(), free_port(), free_port()
    ways_in = {"edge": (free_port(), edge), "nginx": (free_port(), plain_nginx)}
    with ExitStack() as stack:
        helper = stack.enter_context(_running_helper(directory, bench, certificates, provider_tls, ways_in))
        gateway = stack.enter_context(
            running_gateway(
                directory / "gateway",
                bench.provider,
                CORE,
                OTHER_CORE,
                base_url=f"https://127.0.0.1:{provider_tls}",
                ca=certificates.ca,
            )
        )
        served = upstream("measured", _DOMAIN, gateway.port)
        tree = edge_tree(directory / "edge", [served], edge, certificates.chain, certificates.key)
        edge_process = stack.enter_context(running_nginx_tree("edge", directory / "edge", tree, edge, CORE))
        tree = {"nginx.conf": _tls_on_both_sides(directory / "nginx", plain_nginx, provider_tls, certificates)}
        nginx = stack.enter_context(running_nginx_tree("nginx", directory / "nginx", tree, plain_nginx, CORE))
        own = {"provider": bench.provider.process, "helper": helper}
        watched = {"target": gateway.process, "edge": edge_process, "backend": gateway.backend, **own}
        yield {
            NAMES[0]: Target(NAMES[0], ways_in["edge"][0], gateway.keys, watched, gateway, host=_DOMAIN),
            NAMES[1]: Target(NAMES[1], ways_in["nginx"][0], gateway.keys, {"target": nginx, **own}, host=_DOMAIN),
        }
        bench.close_books(gateway)


@contextmanager
def _running_helper(
    directory: Path,
    bench: Bench,
    certificates: _Certificates,
    provider_tls: int,
    ways_in: Mapping[str, tuple[int, int]],
) -> Iterator[Process]:
    clients = "".join(
        _CLIENTS_TLS.format(name=name, plain=plain, tls=tls, ca=certificates.ca_file, domain=_DOMAIN)
        for name, (plain, tls) in ways_in.items()
    )
    config = directory / "helper.cfg"
    config.write_text(
        _HELPER.format(
            provider_tls=provider_tls,
            certificate=certificates.both,
            provider=bench.provider.port,
            clients=clients,
        )
    )
    with running("helper", ["haproxy", "-db", "-f", str(config)], OTHER_CORE) as helper:
        helper.await_port(provider_tls)
        yield helper


def _tls_on_both_sides(directory: Path, port: int, provider_tls: int, certificates: _Certificates) -> str:
    listen = f"listen 127.0.0.1:{port} ssl backlog=4096; ssl_certificate {certificates.chain};"
    way_in = f"{listen} ssl_certificate_key {certificates.key}; ssl_session_cache shared:tls:10m;"
    verified = f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificates.ca_file};"
    return passing_on(directory, way_in, provider_tls, f"https://provider; {verified} proxy_ssl_name localhost")
