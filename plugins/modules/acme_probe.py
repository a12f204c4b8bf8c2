#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""Ask for a challenge as a certificate authority will, before one is asked: does each domain lead to our webroot?"""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: acme_probe
short_description: Find out which domains would pass an HTTP-01 challenge
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Puts a random file below the webroot and fetches it by each domain's name over port 80, following redirects, as an
    ACME server does. All domains at once, and each at every address that its name has.
  - Domains that do not answer with the file, at all or at one address, are named in a warning with the reason.
  - An address without an answer is only named in a warning where another one answers with the file, since this host may
    have no way to it (no IPv6).
  - The file is removed afterwards. In check mode nothing is written and nothing fetched, and all domains count as
    reachable.
options:
  domains:
    description: The domains to try.
    type: list
    elements: str
    required: true
  webroot:
    description: Directory below which C(.well-known/acme-challenge/) is served.
    type: path
    required: true
  port:
    description: The port. A certificate authority uses 80.
    type: int
    default: 80
  patience:
    description: Seconds after which a domain that does not answer is given up.
    type: int
    default: 20
attributes:
  check_mode:
    description: Asks nobody in check mode, and counts all domains as reachable.
    support: partial
"""

EXAMPLES = r"""
- name: Try the domains
  trollllm.gateway.acme_probe:
    domains: [chat.example.org, chat2.example.org]
    webroot: /var/www/acme
  register: probe
"""

RETURN = r"""
reachable:
  description: The domains that answered with the file, in the order given; in check mode, all.
  type: list
  elements: str
  returned: always
left_out:
  description: The others, with the reason.
  type: list
  elements: dict
  returned: always
  contains:
    domain:
      description: The domain.
      type: str
    reason:
      description: What was found instead.
      type: str
"""

import contextlib
import http.client
import os
import secrets
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule

CHALLENGES = ".well-known/acme-challenge"


@contextlib.contextmanager
def challenge(webroot: str) -> Iterator[tuple[str, str]]:
    """A file that the edge can read, for as long as it is needed: its name and its content."""
    made: list[str] = []
    place = webroot
    for step in CHALLENGES.split("/"):
        place = os.path.join(place, step)
        if not os.path.isdir(place):
            os.mkdir(place)
            os.chmod(place, 0o755)  # noqa: S103  # the web server runs as another user
            made.append(place)
    token, content = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    path = os.path.join(place, token)
    try:
        with open(path, "x", encoding="ascii") as stream:
            stream.write(content)
        os.chmod(path, 0o644)
        yield token, content
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def addresses(domain: str, port: int) -> list[str]:
    """Where the name leads, in the order in which they are tried. Raises socket.gaierror."""
    found = socket.getaddrinfo(domain, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Pinned(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Asks for one domain at one address, and elsewhere as usual.

    As a certificate authority, a redirect to HTTPS is followed whatever certificate is there.
    """

    def __init__(self, domain: str, address: str) -> None:
        super().__init__()
        unverified = ssl.create_default_context()
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE

        class Plain(http.client.HTTPConnection):
            def connect(self) -> None:
                host = address if self.host == domain else self.host
                self.sock = socket.create_connection((host, self.port), self.timeout)

        class Encrypted(Plain):
            default_port = http.client.HTTPS_PORT

            def connect(self) -> None:
                super().connect()
                self.sock = unverified.wrap_socket(self.sock, server_hostname=self.host)

        self.plain, self.encrypted = Plain, Encrypted

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self.plain, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self.encrypted, request)


def fetch(domain: str, address: str, port: int, token: str, content: str, *, seconds: float) -> str:
    """Empty when the address answers with the file; else what it does instead. Raises when it does not answer."""
    authority = domain if port == 80 else f"{domain}:{port}"
    url = f"http://{authority}/{CHALLENGES}/{token}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Pinned(domain, address))
    try:
        with opener.open(url, timeout=seconds) as answer:
            body = answer.read(len(content) + 1024).decode("utf-8", "replace").strip()
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return f"{address} answers with status {refusal.code}: another server, or another webroot"
    if body != content:
        return f"{address} answers with something else: the name leads to another machine"
    return ""


def ask(domain: str, port: int, token: str, content: str, seconds: float) -> tuple[str, str]:
    """Why the domain is left out, or nothing; and which of its addresses gave no answer.

    Silence proves nothing while another address answers with the file: this host may have no way to that one.
    """
    try:
        leads_to = addresses(domain, port)
    except (socket.gaierror, UnicodeError):
        return "the name does not resolve on this host", ""
    silent: list[str] = []
    for address in leads_to:
        try:
            reason = fetch(domain, address, port, token, content, seconds=seconds)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            why = getattr(problem, "reason", None) or problem
            silent.append(f"no answer on port {port} of {address}: {str(why) or type(why).__name__}")
        else:
            if reason:
                return reason, ""
    return ("; ".join(silent), "") if len(silent) == len(leads_to) else ("", "; ".join(silent))


def probe(domain: str, port: int, token: str, content: str, patience: float) -> tuple[str, str]:
    """Ask until it works or the patience is over."""
    end = time.monotonic() + patience
    while True:
        reason, silent = ask(domain, port, token, content, max(1.0, min(10.0, end - time.monotonic())))
        if not reason or time.monotonic() + 1 >= end:
            return reason, silent
        time.sleep(1)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "domains": {"type": "list", "elements": "str", "required": True},
            "webroot": {"type": "path", "required": True},
            "port": {"type": "int", "default": 80},
            "patience": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    params = module.params
    domains = list(dict.fromkeys(params["domains"]))
    if module.check_mode or not domains:
        # In check mode the webroot and the record may be still to come: what would be ordered is said for all.
        module.exit_json(changed=False, reachable=domains, left_out=[])
    if not os.path.isdir(params["webroot"]):
        module.fail_json(
            msg=f"webroot is {params['webroot']}, which is no directory on this host; set up the web server first"
        )
    try:
        with challenge(params["webroot"]) as (token, content), ThreadPoolExecutor(max_workers=16) as pool:
            answers = list(
                pool.map(lambda domain: probe(domain, params["port"], token, content, params["patience"]), domains)
            )
    except OSError as problem:
        module.fail_json(msg=f"cannot put a file below {params['webroot']}: {problem}")
    found = dict(zip(domains, answers, strict=True))
    left_out = [{"domain": domain, "reason": reason} for domain, (reason, _) in found.items() if reason]
    for entry in left_out:
        module.warn(f"{entry['domain']} is left out of the certificate: {entry['reason']}")
    for domain, (_, silent) in found.items():
        if silent:
            module.warn(f"{domain}: {silent}. If an authority meets another server there, it refuses the domain.")
    reachable = [domain for domain, (reason, _) in found.items() if not reason]
    module.exit_json(changed=False, reachable=reachable, left_out=left_out)


if __name__ == "__main__":
    main()
