#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""Read what certbot holds in one lineage, what it was ordered with, and whether the edge got it. Changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: certificate_state
short_description: Read a lineage of certbot and its deployed copy
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Reads the certificate of one lineage, the options that certbot renews it with, and the copy that the deploy hook
    made.
  - Changes nothing, in check mode as well.
requirements:
  - cryptography (run it with the Python of certbot's virtual environment)
options:
  lineage:
    description: Name of the lineage, as in C(certbot --cert-name).
    type: str
    required: true
  config_dir:
    description: certbot's configuration directory.
    type: path
    default: /etc/letsencrypt
  deploy_dir:
    description:
      - Directory with the deployed C(fullchain.pem) and C(privkey.pem).
      - Beside them the deploy hook writes C(.deployed) when the edge has taken them.
    type: path
    required: true
  server:
    description: URL of the authority's ACME directory. What another one refused does not count.
    type: str
    default: ""
  refusal_hours:
    description: For how long a name that the authority refused is remembered.
    type: int
    default: 48
attributes:
  check_mode:
    description: Can run in check mode without changing anything.
    support: full
"""

EXAMPLES = r"""
- name: Read the certificate
  trollllm.gateway.certificate_state:
    lineage: example.org
    deploy_dir: /opt/trollllm/edge/tls
  vars:
    ansible_python_interpreter: /opt/certbot/bin/python
  register: certificate
"""

RETURN = r"""
present:
  description: Whether the lineage has a certificate that can be read.
  type: bool
  returned: always
problem:
  description: Why there is none, or what is wrong with it. Empty when all is well.
  type: str
  returned: always
names:
  description: The DNS names that it is valid for, sorted.
  type: list
  elements: str
  returned: always
not_after:
  description: End of the validity, ISO 8601, UTC.
  type: str
  returned: when present
days_left:
  description: Days until the end of the validity, negative afterwards.
  type: float
  returned: when present
lifetime_days:
  description: Days from begin to end.
  type: float
  returned: when present
fingerprint:
  description: SHA-256 of the certificate.
  type: str
  returned: when present
key_type:
  description: C(ecdsa), C(rsa) or C(other).
  type: str
  returned: when present
renewal:
  description: What certbot renews it with, such as C(server) and C(preferred_profile). Empty when there is no file.
  type: dict
  returned: always
refused:
  description:
    - The names that the authority refused lately, each with the time, ISO 8601, UTC.
    - Read from C(renewal/LINEAGE.refused), a JSON object with C(server), a URL, and C(names), name to time.
  type: dict
  returned: always
deployed:
  description: Whether the deploy hook copied this certificate with its key, and the reload succeeded.
  type: bool
  returned: always
"""

import datetime
import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trollllm.gateway.plugins.module_utils import certificate as x509_certificate


def read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def renewal_options(text: str) -> dict[str, str]:
    """The [renewalparams] of certbot's renewal file, without its subsections."""
    options: dict[str, str] = {}
    section = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif section == "[renewalparams]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            options[key.strip()] = value.strip().rstrip(",")
    return options


def refused(path: str, server: str, hours: int) -> dict[str, str]:
    """The names that `server` refused within so many hours, with the time. A file that says nothing counts as none."""
    try:
        document = json.loads(read(path))
        since = x509_certificate.now() - datetime.timedelta(hours=hours)
        if document["server"] != server:
            return {}
        return {name: time for name, time in document["names"].items() if datetime.datetime.fromisoformat(time) > since}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def deployed(directory: str, certificate: x509_certificate.Certificate) -> bool:
    """Whether the directory holds this certificate and its key, and the hook said that the edge took it."""
    try:
        copy = x509_certificate.from_pem(read(os.path.join(directory, "fullchain.pem")))
        taken = read(os.path.join(directory, ".deployed")).decode("ascii", "replace").strip().lower()
        fits = x509_certificate.key_matches(certificate, read(os.path.join(directory, "privkey.pem")))
    except (OSError, ValueError):
        return False
    return copy.fingerprint == taken == certificate.fingerprint and fits


def state(lineage: str, config_dir: str, deploy_dir: str, server: str, refusal_hours: int) -> dict[str, Any]:
    live = os.path.join(config_dir, "live", lineage)
    result: dict[str, Any] = {"present": False, "problem": "", "names": [], "renewal": {}, "deployed": False}
    result["refused"] = refused(os.path.join(config_dir, "renewal", f"{lineage}.refused"), server, refusal_hours)
    try:
        with open(os.path.join(config_dir, "renewal", f"{lineage}.conf"), encoding="utf-8") as stream:
            result["renewal"] = renewal_options(stream.read())
    except FileNotFoundError:
        pass
    try:
        certificate = x509_certificate.from_pem(read(os.path.join(live, "fullchain.pem")))
        if not x509_certificate.key_matches(certificate, read(os.path.join(live, "privkey.pem"))):
            result["problem"] = f"{live}/privkey.pem does not belong to fullchain.pem beside it"
            return result
    except FileNotFoundError as missing:
        result["problem"] = f"there is no {missing.filename}"
        return result
    except ValueError as damaged:
        result["problem"] = f"{live} cannot be read: {damaged}"
        return result
    result.update(certificate.facts(x509_certificate.now()))
    result["present"] = True
    result["deployed"] = deployed(deploy_dir, certificate)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "lineage": {"type": "str", "required": True},
            "config_dir": {"type": "path", "default": "/etc/letsencrypt"},
            "deploy_dir": {"type": "path", "required": True},
            "server": {"type": "str", "default": ""},
            "refusal_hours": {"type": "int", "default": 48},
        },
        supports_check_mode=True,
    )
    if x509_certificate.MISSING:
        module.fail_json(
            msg=f"{x509_certificate.MISSING}; run this module with the Python of certbot's virtual environment "
            "(ansible_python_interpreter)"
        )
    module.exit_json(changed=False, **state(**module.params))


if __name__ == "__main__":
    main()
