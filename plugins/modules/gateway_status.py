#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE)
"""Looks at what runs on a host: each upstream's container, the certificate that is served for it, its provider."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_status
short_description: What runs on a gateway host, per upstream
version_added: 0.1.0
author:
  - trollllm contributors (@trollllm)
description:
  - Asks the Docker engine for each upstream's container.
  - Makes a TLS handshake with the edge for each domain and reads the certificate that it gets.
  - Lets each container try to reach its provider.
  - Changes nothing.
options:
  upstreams:
    description: The upstreams, as in the fact C(goproxy_upstreams); C(name), C(domain) and C(service) are read.
    type: list
    elements: dict
    required: true
  services:
    description: Containers besides those of the upstreams.
    type: list
    elements: str
    default: []
  address:
    description: Where the edge listens.
    type: str
    default: 127.0.0.1
  port:
    description: The edge's TLS port.
    type: int
    default: 443
  timeout:
    description: Seconds that one look may take.
    type: int
    default: 15
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Look at what runs
  trollllm.gateway.gateway_status:
    upstreams: "{{ goproxy_upstreams }}"
    services: [backend]
  register: found
"""

RETURN = r"""
upstreams:
  description: What was found, for each upstream and each of O(services) by name. What is not well has C(problem).
  returned: always
  type: dict
  contains:
    container:
      description: Its state, health and image, or C(problem).
      type: dict
    certificate:
      description: The served certificate's C(not_after), C(days_left), C(issuer) and C(names), or C(problem).
      type: dict
    provider:
      description: What C(goproxy check-upstream) says in the container, as C(endpoints), or C(problem).
      type: dict
"""

import json
import shutil
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule

Found = dict[str, Any]
_DATES = ("notBefore", "notAfter")
_DAYS_LEFT = 14  # as the role certbot checks: fewer, or less than a quarter of a shorter lifetime, is late


def look_at_container(service: str, timeout: int) -> Found:
    """State, health and image of a container, by ``docker inspect``."""
    told = _run(["docker", "inspect", "--type", "container", service], timeout)
    if told.returncode != 0:
        return {"problem": f"there is no container {service}"}
    inspected = json.loads(told.stdout)[0]
    state = inspected["State"]
    found: Found = {
        "state": state["Status"],
        "health": state.get("Health", {}).get("Status", "none"),
        "image": inspected["Config"]["Image"],
    }
    if found["state"] != "running" or found["health"] not in ("healthy", "none"):
        found["problem"] = f"{service} is {found['state']}, {found['health']}"
    return found


def look_at_certificate(domain: str, address: str, port: int, timeout: int) -> Found:
    """The certificate that the edge serves for a domain. Whether it is trusted is for the client to say."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, port), timeout) as connection,
            context.wrap_socket(connection, server_hostname=domain) as tls,
        ):
            certificate = tls.getpeercert(binary_form=True) or b""
    except OSError as error:
        return {"problem": f"no TLS for {domain} at {address}:{port}: {error}"}
    return _read_certificate(certificate, domain, timeout)


def _read_certificate(certificate: bytes, domain: str, timeout: int) -> Found:
    ask = ["openssl", "x509", "-inform", "DER", "-noout", "-dates", "-issuer", "-subject", "-ext", "subjectAltName"]
    told = _run([*ask, "-nameopt", "RFC2253"], timeout, certificate)
    lines = told.stdout.decode().splitlines()
    values = dict(line.split("=", 1) for line in lines if line.startswith(("not", "issuer=", "subject=")))
    if "notAfter" not in values:
        return {"problem": f"openssl cannot read the certificate of {domain}: {told.stderr.decode().strip()}"}
    names = sorted(part.strip()[4:] for line in lines for part in line.split(",") if part.strip().startswith("DNS:"))
    begin, end = (datetime.strptime(values[key], "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC) for key in _DATES)
    days_left = (end - datetime.now(UTC)).total_seconds() / 86400
    found: Found = {
        "not_after": end.isoformat(),
        "days_left": int(days_left),
        "issuer": values.get("issuer", "").strip(),
        "names": names,
    }
    if domain not in names:
        found["problem"] = f"the certificate served for {domain} is for {', '.join(names) or 'no name'}"
    elif values.get("issuer") == values.get("subject"):
        found["problem"] = f"the certificate served for {domain} is the self-signed placeholder; none was issued yet"
    elif days_left < min(_DAYS_LEFT, (end - begin).total_seconds() / 86400 / 4):
        found["problem"] = f"the certificate served for {domain} ends on {end:%Y-%m-%d}, and was not renewed"
    return found


def look_at_provider(service: str, timeout: int) -> Found:
    """What the container says of the way to its provider."""
    told = _run(["docker", "exec", service, "goproxy", "check-upstream"], timeout)
    endpoints = [json.loads(line) for line in told.stdout.decode().splitlines() if line.startswith("{")]
    if not endpoints:
        return {"problem": f"{service} could not be asked: {told.stderr.decode().strip()[-200:]}"}
    found: Found = {"endpoints": endpoints}
    lost = [
        f"{endpoint['endpoint']} at {endpoint['host']}: {endpoint['detail']}"
        for endpoint in endpoints
        if not endpoint["reachable"]
    ]
    if lost:
        found["problem"] = "; ".join(lost)
    return found


def _run(command: list[str], timeout: int, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    if shutil.which(command[0]) is None:
        return subprocess.CompletedProcess(command, 127, b"", f"{command[0]} is not installed".encode())
    try:
        return subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, b"", f"no answer within {timeout} s".encode())


def main() -> None:
    """Look at all upstreams at once; they do not wait for one another."""
    module = AnsibleModule(
        argument_spec={
            "upstreams": {"type": "list", "elements": "dict", "required": True},
            "services": {"type": "list", "elements": "str", "default": []},
            "address": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "default": 443},
            "timeout": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    address, port, timeout = (module.params[name] for name in ("address", "port", "timeout"))
    with ThreadPoolExecutor(max_workers=16) as pool:
        looks = {
            upstream["name"]: {
                "container": pool.submit(look_at_container, upstream["service"], timeout),
                "certificate": pool.submit(look_at_certificate, upstream["domain"], address, port, timeout),
                "provider": pool.submit(look_at_provider, upstream["service"], timeout),
            }
            for upstream in module.params["upstreams"]
        }
        for service in module.params["services"]:
            looks[service] = {"container": pool.submit(look_at_container, service, timeout)}
        found = {name: {part: look.result() for part, look in parts.items()} for name, parts in looks.items()}
    module.exit_json(changed=False, upstreams=found)


if __name__ == "__main__":
    main()
