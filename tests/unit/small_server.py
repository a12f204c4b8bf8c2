"""HTTP and HTTPS servers on loopback, for as long as a test takes. Their fixtures are in conftest.py."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # conftest.py has this file before it can have the collection
    from issued import Pair


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve HTTP on loopback, on a free port unless one is given; gives the port."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(handler: type[http.server.BaseHTTPRequestHandler], address: str = "127.0.0.1", port: int = 0) -> int:
        server = http.server.ThreadingHTTPServer((address, port), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve_tls(serve: Serve, tmp_path: Path) -> Callable[[Pair], int]:
    """Present that pair on a free port of loopback; gives the port."""

    def start(pair: Pair) -> int:
        directory = pair.write(tmp_path / f"tls-{pair.fingerprint[:8]}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "fullchain.pem", directory / "privkey.pem")

        class Handler(Quiet):
            def setup(self) -> None:
                self.request = context.wrap_socket(self.request, server_side=True)
                super().setup()

        return serve(Handler)

    return start
