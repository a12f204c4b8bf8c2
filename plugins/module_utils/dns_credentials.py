"""What each DNS provider wants to be shown, and whether the inventory has it. No secret's value is in a message."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import secret
from .field import Field, Problem, listed, nearest, shown
from .names import is_address

TSIG_ALGORITHMS = ("hmac-md5", "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")


@dataclass(frozen=True)
class Credentials:
    """What a DNS provider wants: keys that must be there, keys that may be, and which of them are secret."""

    required: Mapping[str, str]
    optional: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()


PROVIDERS = {
    "cloudflare": Credentials({"api_token": "give an API token that may edit the zone"}, secret=("api_token",)),
    "hcloud": Credentials({"api_token": "give an API token of the project"}, secret=("api_token",)),
    "none": Credentials({}),
    "rfc2136": Credentials(
        {
            "server": "give the IP address of the server that takes updates",
            "key_name": "give the name of the TSIG key",
            "key_secret": "give the TSIG key's secret, in base64",
        },
        optional=("key_algorithm", "port", "protocol"),
        secret=("key_secret",),
    ),
    "route53": Credentials(
        {},
        optional=("access_key", "secret_key", "session_token", "profile"),
        secret=("access_key", "secret_key", "session_token"),
    ),
}


def check(provider: Field, settings: Mapping[str, Any], problems: list[Problem]) -> None:
    right = f"give {listed(sorted(PROVIDERS))}"
    name = provider.text(right)
    if name is None:
        return
    if name not in PROVIDERS:
        near = nearest(name, PROVIDERS)
        provider.report(f"is {shown(name)}, which is not known", f"did you mean {near}?" if near else right)
        return
    wanted = PROVIDERS[name]
    if not wanted.required and not wanted.optional:
        return
    given = settings.get("gateway_dns_credentials")
    credentials = Field({} if given is None else given, "gateway_dns_credentials", problems)
    fields = credentials.record(wanted.required, wanted.optional, wanted.secret)
    if fields is None:
        return
    for key, field in fields.items():
        check_credential(key, field, wanted)
    if "access_key" in fields and "secret_key" not in fields:
        credentials.child("secret_key", None).report("is missing", "give it with access_key, or leave out both")
    if "secret_key" in fields and "access_key" not in fields:
        credentials.child("access_key", None).report("is missing", "give it with secret_key, or leave out both")


def check_credential(key: str, field: Field, wanted: Credentials) -> None:
    right = wanted.required.get(key, "give it as text, or leave it out")
    if key == "port":
        field.integer(1, 65535, "give a port from 1 to 65535, or leave it out for 53")
        return
    text = field.text(right)
    if text is None:
        return
    if secret.is_placeholder(text):
        field.report("is a placeholder", right)
    elif not secret.is_sendable(text):
        field.report("has white space or a character beyond ASCII in it", "look for a line break at its end")
    elif key == "server" and not is_address(text):
        field.report(f"is {shown(text)}, no IP address", right)
    elif key == "protocol" and text not in ("tcp", "udp"):
        field.report(f"is {shown(text)}", "give tcp or udp, or leave it out for tcp")
    elif key == "key_algorithm" and text not in TSIG_ALGORITHMS:
        field.report(f"is {shown(text)}", f"give {listed(TSIG_ALGORITHMS)}")
    elif key == "key_secret" and not is_base64(text):
        field.report("is not base64", "give the secret as it stands in the name server's key file")


def is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False
