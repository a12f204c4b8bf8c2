"""The end of `make demo`: one message streamed through each domain, word by word, and what to try next.

Usage: show.py CONNECTION.json   (written by up.yml). Standard library only; connects as any client would.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

QUESTION = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 200,
    "stream": True,
    "messages": [{"role": "user", "content": "Say something, slowly."}],
}


class Through(http.client.HTTPSConnection):
    """HTTPS to a domain whose address here is a port on loopback. The certificate is checked against the domain."""

    def __init__(self, domain: str, address: str, ca: str) -> None:
        super().__init__(domain, context=ssl.create_default_context(cafile=ca), timeout=30)
        self._address, self._ca_context = address, ssl.create_default_context(cafile=ca)

    def connect(self) -> None:
        host, _, port = self._address.rpartition(":")
        self.sock = self._ca_context.wrap_socket(
            socket.create_connection((host, int(port)), 30), server_hostname=self.host
        )


def show(upstream: str, domain: str, connection: dict[str, Any]) -> bool:
    """Stream one message and print each piece as it comes. False if it did not come to its end."""
    print(f"\n  {upstream}: POST https://{domain}/v1/messages\n    ", end="")
    client = Through(domain, connection["https"], connection["ca"])
    headers = {
        "x-api-key": connection["api_key"],
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
    }
    began, first, events, ended = time.monotonic(), 0.0, 0, False
    client.request("POST", "/v1/messages", json.dumps(QUESTION), headers)
    answer = client.getresponse()
    if answer.status != 200:
        print(f"{answer.status}: {answer.read().decode(errors='replace')}")
        return False
    for line in answer:
        if not line.startswith(b"data:"):
            continue
        event = json.loads(line[5:])
        events += 1
        first = first or time.monotonic() - began
        ended = ended or event["type"] == "message_stop"
        if event["type"] == "content_block_delta":
            print(event["delta"].get("text", "").replace("\n", " "), end="", flush=True)
    took = time.monotonic() - began
    print(f"\n    {events} events; the first after {first * 1000:.0f} ms, the last after {took * 1000:.0f} ms")
    return ended


def main(path: Path) -> int:
    """Show each domain, then the commands to copy. 1 if a stream was not whole."""
    connection = json.loads(path.read_text("utf-8"))
    whole = [show(upstream, domain, connection) for upstream, domain in connection["domains"].items()]
    domain = next(iter(connection["domains"].values()))
    sudo = "" if os.geteuid() == 0 else "sudo "
    authorities = shlex.quote(connection["ca"])
    port = connection["https"].rpartition(":")[2]
    dns_host, _, dns_port = connection["dns"].rpartition(":")
    provider = next(iter(connection["providers"].values()))
    print(f"""
Running now: the VPS (container {connection["vps"]}) with its own Docker engine, and around it a name server, an ACME
authority and two simulated providers. Where everything is: {path}

Try:
  curl -N --cacert {authorities} --connect-to {domain}:443:127.0.0.1:{port} https://{domain}/v1/messages \\
    -H 'x-api-key: {connection["api_key"]}' -H 'anthropic-version: 2023-06-01' \\
    -d '{{"model":"claude-sonnet-4-5","max_tokens":100,"stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'
  curl {provider}/_requests                                    # what the provider got
  dig @{dns_host} -p {dns_port} {domain}
  {sudo}docker exec {connection["vps"]} docker ps
  {sudo}env LC_ALL=C.UTF-8 .venv/bin/ansible-playbook playbooks/status.yml -i inventory/demo
  make demo-down                                               # removes all of it""")
    return 0 if whole and all(whole) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
