#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""Look at the certificate that is really served, by a TLS handshake for each name, and say what is wrong with it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: served_certificate
short_description: Check the certificate that a server presents for each name
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Opens one TLS connection for each name (SNI) and reads the certificate that is presented.
  - It is well when it covers the name, is the one of O(fingerprint), and is valid for long enough. Otherwise it fails.
  - Changes nothing, in check mode as well.
requirements:
  - cryptography (the Python of certbot's virtual environment has it)
options:
  address:
    description: Host or address to connect to.
    type: str
    required: true
  port:
    description: Port to connect to.
    type: int
    default: 443
  names:
    description: The names to ask for.
    type: list
    elements: str
    required: true
  fingerprint:
    description: SHA-256 of the certificate that is expected. Any is accepted when it is left out.
    type: str
  min_days_left:
    description: Days for which it must be valid still, or a quarter of its whole lifetime, whichever is less.
    type: int
    default: 14
  patience:
    description: Seconds for which it is tried again while something is wrong, since a reload takes a moment.
    type: int
    default: 10
attributes:
  check_mode:
    description: Can run in check mode without changing anything.
    support: full
"""

EXAMPLES = r"""
- name: Check what is served
  trollllm.gateway.served_certificate:
    address: 127.0.0.1
    names: [chat.example.org, chat2.example.org]
    fingerprint: "{{ certificate.fingerprint }}"
  vars:
    ansible_python_interpreter: /opt/certbot/bin/python
"""

RETURN = r"""
served:
  description: One entry for each name, with its C(problem) (empty when it is well) and the facts of the certificate.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The name.
      type: str
    problem:
      description: What is wrong. Empty when all is well.
      type: str
    names:
      description: The names that the certificate is valid for.
      type: list
      elements: str
    not_after:
      description: End of its validity, ISO 8601, UTC.
      type: str
    days_left:
      description: Days until then.
      type: float
    fingerprint:
      description: Its SHA-256.
      type: str
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trollllm.gateway.plugins.module_utils import certificate as x509_certificate
from ansible_collections.trollllm.gateway.plugins.module_utils.served import needed_days, presented

_TIMEOUT = 10
"""Seconds that one handshake may take."""


def judge(certificate: x509_certificate.Certificate, name: str, fingerprint: str | None, min_days_left: int) -> str:
    """What is wrong with it, or empty."""
    left = certificate.days_left(x509_certificate.now())
    needed = needed_days(min_days_left, certificate.lifetime_days)
    what = f"the certificate served is from {certificate.issuer} for {', '.join(certificate.names) or 'no name'}"
    if not certificate.covers(name):
        return f"{what}, which does not cover {name}"
    if fingerprint and certificate.fingerprint != fingerprint.lower():
        return f"{what} and ends {certificate.not_after:%Y-%m-%d}, but it is not the one that was issued last"
    if left <= 0:
        return f"{what} and ended {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    if left < needed:
        return f"{what} and is valid for {left:.1f} more days only; it should have been renewed at {needed:.1f}"
    return ""


def look(params: dict[str, Any], name: str) -> dict[str, Any]:
    """One name, tried until it is well or the patience is over."""
    end = time.monotonic() + params["patience"]
    while True:
        entry: dict[str, Any] = {"name": name}
        try:
            certificate = x509_certificate.from_der(presented(params["address"], params["port"], name, _TIMEOUT))
            entry.update(certificate.facts(x509_certificate.now()))
            entry["problem"] = judge(certificate, name, params["fingerprint"], params["min_days_left"])
        except (OSError, ValueError) as problem:
            entry["problem"] = f"no TLS handshake with {params['address']}:{params['port']}: {problem}"
        if not entry["problem"] or time.monotonic() + 0.5 >= end:
            return entry
        time.sleep(0.5)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "default": 443},
            "names": {"type": "list", "elements": "str", "required": True},
            "fingerprint": {"type": "str"},
            "min_days_left": {"type": "int", "default": 14},
            "patience": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    if x509_certificate.MISSING:
        module.fail_json(
            msg=f"{x509_certificate.MISSING}; run this module with the Python of certbot's virtual environment "
            "(ansible_python_interpreter)"
        )
    params = module.params
    with ThreadPoolExecutor(max_workers=16) as pool:
        served = list(pool.map(lambda name: look(params, name), params["names"]))
    problems = [f"{entry['name']}: {entry['problem']}" for entry in served if entry["problem"]]
    if problems:
        module.fail_json(msg="\n".join(problems), served=served)
    module.exit_json(changed=False, served=served)


if __name__ == "__main__":
    main()
