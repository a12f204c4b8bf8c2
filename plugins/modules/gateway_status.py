#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE)
"""Looks at what runs on a host: per upstream container, certificate, provider and journal; of the backend the store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_status
short_description: What runs on a gateway host, per upstream
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Asks the Docker engine for all containers in one call.
  - Makes a TLS handshake with the edge for each domain and reads the certificate that it gets.
  - Lets a container try to reach its provider. Where several upstreams have the same provider, one of them tries for
    all, because they share network, name server and image.
  - Asks each proxy, on the private network, for its readiness and what its journal still has to post; and the backend
    for its store.
  - Changes nothing.
options:
  upstreams:
    description:
      - The upstreams, as in the fact C(goproxy_upstreams); C(name), C(domain), C(service) and C(endpoints) are read.
    type: list
    elements: dict
    required: true
  services:
    description: Containers besides those of the upstreams.
    type: list
    elements: str
    default: []
  backend:
    description: The container whose store is looked at, one of O(services).
    type: str
    default: backend
  address:
    description: Where the edge listens.
    type: str
    default: 127.0.0.1
  port:
    description: The edge's TLS port.
    type: int
    default: 443
  min_days_left:
    description:
      - The certificate shall be valid for at least so many more days, or a quarter of its lifetime if that is shorter.
    type: int
    default: 14
  renewal_failed:
    description: Where certbot-renew keeps why the last renewal failed. Without it, renewals are not looked at.
    type: path
  restore_unfinished:
    description: The file that C(playbooks/restore.yml) leaves until all is restored. Without it, that is not looked at.
    type: path
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
    renewal_failed: /var/lib/certbot-renew/failed
    restore_unfinished: /opt/trollllm/restore-unfinished
  register: found
"""

RETURN = r"""
upstreams:
  description: >-
    What was found, for each upstream, each of O(services), renewal and restore, by name; C(problem) if not well.
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
    journal:
      description: >-
        Of a proxy: C(ready) and C(detail) in its own words, C(unposted_rows) that the backend does not have yet,
        C(unsettled_rows) that the disk does not have yet, C(damaged) places, C(keys_age_seconds) since the backend told
        the keys and C(unposted_age_seconds) since the oldest such row was settled; or C(problem).
      type: dict
    engine:
      description: >-
        Of C(docker.service), C(problem) when the Docker engine does not answer. Of each container is then told only
        what needs no engine.
      type: dict
    renewal:
      description: Of C(certbot-renew.service), C(problem) when the last renewal failed.
      type: dict
    restore:
      description: Of C(restore.yml), C(problem) when the last restore did not come to its end.
      type: dict
    store:
      description: Of the backend, C(kind) (SQLite or PostgreSQL), C(available), C(ready) and C(detail); or C(problem).
      type: dict
"""

import functools
import json
import math
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trollllm.gateway.plugins.module_utils.served import covers, needed_days, presented

Found = dict[str, Any]
_DATES = ("notBefore", "notAfter")
_TOO_LONG = 300  # seconds without news of the keys (half a minute is usual), or that a row waits (it is posted at once)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the private network is behind no proxy


class EngineAway(Exception):
    """The Docker engine does not answer; containers may run all the same (live-restore)."""


def inspect(services: Iterable[str], timeout: int) -> dict[str, Found]:
    """What the engine knows of those containers that there are, by name: one call for all of them.

    Raises:
        EngineAway: it says nothing of them.
    """
    told = _run(["docker", "inspect", "--type", "container", *services], timeout)
    said = re.sub(r"(?im)^.*no such (container|object).*$", "", told.stderr.decode(errors="replace"))
    if told.returncode and (problem := " ".join(said.split())):
        raise EngineAway(f"the Docker engine does not answer: {problem} (journalctl -u docker)")
    inspected = json.loads(told.stdout or b"[]")
    return {str(container["Name"]).lstrip("/"): container for container in inspected}


def look_at_container(service: str, inspected: Mapping[str, Found]) -> Found:
    """State, health and image of a container."""
    if service not in inspected:
        return {"problem": f"there is no container {service}"}
    state = inspected[service]["State"]
    found: Found = {
        "state": state["Status"],
        "health": state.get("Health", {}).get("Status", "none"),
        "image": inspected[service]["Config"]["Image"],
    }
    if found["state"] != "running" or found["health"] not in ("healthy", "none"):
        found["problem"] = f"{service} is {found['state']}, {found['health']}"
    return found


def look_at_certificate(domain: str, address: str, port: int, timeout: int, min_days_left: int) -> Found:
    """The certificate that the edge serves for a domain. Whether it is trusted is for the client to say."""
    try:
        certificate = presented(address, port, domain, timeout)
    except (OSError, ValueError) as error:
        return {"problem": f"no TLS for {domain} at {address}:{port}: {error}"}
    with _READING:  # one certificate is usually that of all domains, and then read once
        read = dict(_read_certificate(certificate, timeout))
    days_left, end, self_signed, lifetime_days = (
        read.pop(name, None) for name in ("_left", "_end", "_self_signed", "_lifetime")
    )
    if end is None:
        return {"problem": f"openssl cannot read the certificate of {domain}: {read['problem']}"}
    if not covers(read["names"], domain):
        read["problem"] = f"the certificate served for {domain} is for {', '.join(read['names']) or 'no name'}"
    elif self_signed:
        read["problem"] = f"the certificate served for {domain} is the self-signed placeholder; none was issued yet"
    elif days_left < needed_days(min_days_left, lifetime_days):
        read["problem"] = f"the certificate served for {domain} ends on {end:%Y-%m-%d}, and was not renewed"
    return read


_READING = threading.Lock()


@functools.cache
def _read_certificate(certificate: bytes, timeout: int) -> Found:
    ask = ["openssl", "x509", "-inform", "DER", "-noout", "-dates", "-issuer", "-subject", "-ext", "subjectAltName"]
    told = _run([*ask, "-nameopt", "RFC2253"], timeout, certificate)
    lines = told.stdout.decode().splitlines()
    values = dict(line.split("=", 1) for line in lines if line.startswith(("not", "issuer=", "subject=")))
    if "notAfter" not in values:
        return {"problem": told.stderr.decode().strip()}
    parts = [part.strip() for line in lines for part in line.split(",")]
    names = sorted(part[4:].lower() for part in parts if part.startswith("DNS:"))
    begin, end = (datetime.strptime(values[key], "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC) for key in _DATES)
    days_left = (end - datetime.now(UTC)).total_seconds() / 86400
    return {
        "not_after": end.isoformat(),
        "days_left": int(days_left),
        "issuer": values.get("issuer", "").strip(),
        "names": names,
        "_left": days_left,
        "_end": end,
        "_self_signed": values.get("issuer") == values.get("subject"),
        "_lifetime": (end - begin).total_seconds() / 86400,
    }


def provider_of(upstream: Mapping[str, Any]) -> frozenset[tuple[str, int]]:
    """Where the upstream's requests go: hosts and ports."""
    return frozenset(_origin(endpoint["base_url"]) for endpoint in upstream.get("endpoints") or [])


def _origin(base_url: str) -> tuple[str, int]:
    url = urlsplit(base_url)
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def ask_provider(service: str, timeout: int) -> Found:
    """What a container says of the way to its provider: by host and port, or a problem."""
    told = _run(["docker", "exec", service, "goproxy", "check-upstream"], timeout)
    endpoints = [json.loads(line) for line in told.stdout.decode().splitlines() if line.startswith("{")]
    if not endpoints:
        return {"problem": told.stderr.decode().strip()[-200:]}
    # 443: a container of before does not tell the port
    return {"tried": {(endpoint["host"], endpoint.get("port", 443)): endpoint for endpoint in endpoints}}


def look_at_provider(upstream: Mapping[str, Any], asked: Found) -> Found:
    """What that means for one upstream's endpoints."""
    if "problem" in asked:
        return {"problem": f"{upstream['service']} could not be asked: {asked['problem']}"}
    endpoints = []
    for endpoint in upstream["endpoints"]:
        host, port = origin = _origin(endpoint["base_url"])
        unknown = {"reachable": False, "detail": "it was not tried"}
        known = asked["tried"].get(origin, unknown)
        endpoints.append({**known, "endpoint": endpoint["name"], "host": host, "port": port})
    found: Found = {"endpoints": endpoints}
    lost = [
        f"{endpoint['endpoint']} at {endpoint['host']}:{endpoint['port']}: {endpoint['detail']}"
        for endpoint in endpoints
        if not endpoint["reachable"]
    ]
    if lost:
        found["problem"] = "; ".join(lost)
    return found


def look_at_journal(service: str, container: Found, timeout: int) -> Found:
    """Is the proxy ready, and what does its journal still owe the backend?"""
    found = _ask_privately(service, container, timeout)
    numbers = found.pop("numbers", {})
    if "ready" not in found:
        return found
    for name in ("unposted_rows", "unsettled_rows", "damaged"):
        found[name] = int(sum(numbers.get(f"goproxy_journal_{name}", [0])))
    for name in ("keys_age_seconds", "journal_unposted_age_seconds"):
        age = max(numbers.get(f"goproxy_{name}", [0]))
        found[name.removeprefix("journal_")] = None if math.isinf(age) else round(age, 1)  # JSON has no infinity
    keys_age, rows_age = found["keys_age_seconds"], found["unposted_age_seconds"]
    problems = []
    if not found["ready"]:
        problems.append(f"{service} is not ready: {found['detail']}")
    elif "the backend is away" in found["detail"]:
        problems.append(f"{service} is {found['detail']}")
    elif keys_age is None or keys_age > _TOO_LONG:
        problems.append(f"{service} was told its keys {keys_age} s ago: docker logs --tail 50 backend")
    if rows_age > _TOO_LONG:
        problems.append(f"rows of {service} have waited for the backend for {rows_age} s; its log says why")
    if found["damaged"]:
        problems.append(f"the journal of {service} has {found['damaged']} damaged places, whose rows are lost")
    if problems:
        found["problem"] = "; ".join(problems)
    return found


def look_at_store(service: str, container: Found, timeout: int) -> Found:
    """Which store the backend has, and whether it can use it."""
    variables = (container.get("Config") or {}).get("Env") or []
    remote = any(variable.startswith("BACKEND_DATABASE_URL_PATH=") for variable in variables)
    found: Found = {"kind": "PostgreSQL" if remote else "SQLite"}
    asked = _ask_privately(service, container, timeout)
    numbers = asked.pop("numbers", {})
    found |= asked
    if "ready" not in found:
        return found
    found["available"] = min(numbers.get("goproxy_store_available", [0])) == 1
    if not found["available"]:
        found["problem"] = f"{service} cannot use its store ({found['kind']}): {found['detail']}"
    elif not found["ready"]:
        found["problem"] = f"{service} is not ready: {found['detail']}"
    return found


def read_note(file: str) -> tuple[str, str] | None:
    """A time and what was noted then, on the lines after it; None: there is no such file."""
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            time, *said = stream.read().strip().splitlines() or [""]
    except FileNotFoundError:
        return None
    return time, " ".join(map(str.strip, said))


def look_at_renewal(file: str) -> Found:
    """Why the last renewal failed, if it did: when, and what was said."""
    if (noted := read_note(file)) is None:
        return {}
    time, reason = noted
    return {"problem": f"the renewal of {time} failed, and what it could not renew is as before: {reason}"}


def look_at_restore(file: str) -> Found:
    """Which restore did not come to its end, if one did not: when it began, and from what."""
    if (noted := read_note(file)) is None:
        return {}
    time, backup = noted
    return {
        "problem": f"the restore of {time} from {backup} did not end, so that proxies may be "
        "stopped, and accounts and journals those of two moments: run restore.yml again, with that backup or another "
        f"({file} goes when it has ended; where the backup was refused, nothing was touched: remove it)"
    }


def _ask_privately(service: str, container: Found, timeout: int) -> Found:
    """/readyz and the gauges of /metrics, asked at the container's address on its network."""
    networks = ((container.get("NetworkSettings") or {}).get("Networks") or {}).values()
    address = next((network["IPAddress"] for network in networks if network.get("IPAddress")), "")
    port = next(iter((container.get("Config") or {}).get("ExposedPorts") or {}), "").partition("/")[0]
    if not address or not port:
        return {"problem": f"{service} has no address, as it does not run"}
    try:
        said = json.loads(_get(f"http://{address}:{port}/readyz", timeout))
        metrics = _get(f"http://{address}:{port}/metrics", timeout)
        found: Found = {"ready": bool(said["ready"]), "detail": str(said["detail"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"problem": f"{service} does not answer at {address}:{port}: {error}"}
    numbers: dict[str, list[float]] = {}
    for name, value in re.findall(r"^([a-z_]+)(?:\{[^}]*\})? (\S+)$", metrics, re.MULTILINE):
        numbers.setdefault(name, []).append(float(value))
    return {**found, "numbers": numbers}


def _get(url: str, timeout: int) -> str:
    """The body; of 503 too, which is how something says that it is not ready."""
    try:
        with _DIRECT.open(url, timeout=timeout) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def _run(command: list[str], timeout: int, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    if shutil.which(command[0]) is None:
        return subprocess.CompletedProcess(command, 127, b"", f"{command[0]} is not installed".encode())
    try:
        return subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, b"", f"no answer within {timeout} s".encode())


def look(params: Mapping[str, Any]) -> dict[str, Found]:
    """At everything at once: no look waits for another."""
    address, port, timeout, min_days_left = (params[name] for name in ("address", "port", "timeout", "min_days_left"))
    with ThreadPoolExecutor(max_workers=16) as pool:
        certificates = {
            upstream["name"]: pool.submit(
                look_at_certificate, upstream["domain"], address, port, timeout, min_days_left
            )
            for upstream in params["upstreams"]
        }
        try:
            found = look_at_containers(params, pool)
        except EngineAway as problem:
            found = {"docker.service": {"engine": {"problem": str(problem)}}}
        for name, certificate in certificates.items():
            found.setdefault(name, {})["certificate"] = certificate.result()
    if params["renewal_failed"]:
        found["certbot-renew.service"] = {"renewal": look_at_renewal(params["renewal_failed"])}
    if params["restore_unfinished"]:
        found["restore.yml"] = {"restore": look_at_restore(params["restore_unfinished"])}
    return found


def look_at_containers(params: Mapping[str, Any], pool: ThreadPoolExecutor) -> dict[str, Found]:
    """At all that the engine has to be asked for.

    Raises:
        EngineAway: it cannot be.
    """
    upstreams, services, timeout = params["upstreams"], params["services"], params["timeout"]
    inspected = inspect([*(upstream["service"] for upstream in upstreams), *services], timeout)
    asked: dict[frozenset[tuple[str, int]], Any] = {}
    running = [each for each in upstreams if "problem" not in look_at_container(each["service"], inspected)]
    for upstream in (*running, *upstreams):
        if provider_of(upstream) not in asked:
            asked[provider_of(upstream)] = pool.submit(ask_provider, upstream["service"], timeout)
    journals = {
        service: pool.submit(look_at_journal, service, inspected.get(service, {}), timeout)
        for service in (upstream["service"] for upstream in upstreams)
    }
    found = {service: {"container": look_at_container(service, inspected)} for service in services}
    if (backend := params["backend"]) in services:
        found[backend]["store"] = look_at_store(backend, inspected.get(backend, {}), timeout)
    for upstream in upstreams:
        found[upstream["name"]] = {
            "container": look_at_container(upstream["service"], inspected),
            "provider": look_at_provider(upstream, asked[provider_of(upstream)].result()),
            "journal": journals[upstream["service"]].result(),
        }
    return found


def main() -> None:
    """Look, and tell."""
    module = AnsibleModule(
        argument_spec={
            "upstreams": {"type": "list", "elements": "dict", "required": True},
            "services": {"type": "list", "elements": "str", "default": []},
            "backend": {"type": "str", "default": "backend"},
            "address": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "default": 443},
            "min_days_left": {"type": "int", "default": 14},
            "renewal_failed": {"type": "path"},
            "restore_unfinished": {"type": "path"},
            "timeout": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, upstreams=look(module.params))


if __name__ == "__main__":
    main()
