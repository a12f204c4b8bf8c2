"""Cloudflare's API for one zone, behind a proxy's CONNECT on loopback, so that the real module talks to it."""

from __future__ import annotations

import http.server
import itertools
import json
import ssl
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import trustme

from small_name_server import NameServer
from small_server import Serve


class SmallCloudflare:
    """What it is told is in the name server's table at once."""

    def __init__(self, server: NameServer) -> None:
        self.server = server
        self.identities = map(str, itertools.count())
        self.records: dict[str, dict[str, Any]] = {}
        self.refuses = ""
        """A method that always fails."""
        self.history: list[dict[tuple[str, str], list[str]]] = []
        """What the name server said after each change."""

    def add(self, kind: str, name: str, address: str) -> None:
        self.keep(next(self.identities), {"type": kind, "name": name, "content": address, "ttl": 300})

    def keep(self, identity: str, record: dict[str, Any] | None) -> None:
        if record is None:
            del self.records[identity]
        else:
            self.records[identity] = {"comment": None, "tags": [], "proxied": False} | record | {"id": identity}
        self.server.table.clear()
        for each in self.records.values():
            _, addresses = self.server.table.setdefault((each["name"], each["type"]), (each["ttl"], []))
            addresses.append(each["content"])
        self.history.append({key: list(addresses) for key, (_, addresses) in self.server.table.items()})

    def answer(self, method: str, path: str, given: dict[str, Any]) -> Any:
        place = urllib.parse.urlsplit(path)
        _, _, _, _zones, *rest = place.path.split("/")
        if not rest:
            return [{"id": "the-zone"}]
        identity = rest[2] if len(rest) > 2 else next(self.identities)
        if method == "GET":
            wanted = dict(urllib.parse.parse_qsl(place.query))
            return [each for each in self.records.values() if all(each[key] == value for key, value in wanted.items())]
        self.keep(identity, None if method == "DELETE" else given)
        return {"id": identity}


def handler(api: SmallCloudflare, context: ssl.SSLContext) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:  # http.server calls it so
            self.send_response(200)
            self.end_headers()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
            self.close_connection = False

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            given = json.loads(self.rfile.read(length)) if length else {}
            refused = self.command == api.refuses
            told: dict[str, Any] = {"success": not refused, "errors": [{"code": 1, "message": "no"}] if refused else []}
            told["result"] = None if refused else api.answer(self.command, self.path, given)
            body = json.dumps(told).encode()
            self.send_response(400 if refused else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  # http.server calls them so

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Handler


@pytest.fixture
def cloudflare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name_server: NameServer, serve: Serve
) -> SmallCloudflare:
    """The modules of a run find it where they look for Cloudflare."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.cloudflare.com").configure_cert(context)
    api = SmallCloudflare(name_server)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{serve(handler(api, context))}")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return api
