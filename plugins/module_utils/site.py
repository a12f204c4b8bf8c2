"""What an inventory says of the whole gateway: the gateway_* variables. Reads them; touches nothing but CA files."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

from . import dns_credentials, secret
from .field import Field, Problem, listed, nearest, shown
from .names import domain_fault, is_address, plain_url, read_domain, url_fault

DEFAULT_TTL = 300
DEFAULT_TIMEOUTS = {"connect": 10, "first_byte": 300, "idle": 120, "total": 3600}
DEFAULT_MAX_BODY_MIB = 32
MOST_CREDIT = 1_000_000
MADE_BY_LITELLM = 25  # characters of a key: `sk-` and 128 random bits
NEW_KEY = "`PYTHONPATH=proxy_app python3 -m goproxy.cli key new`"

REQUIRED = {
    "gateway_zone": "give the DNS zone that the upstreams' domains are in, like trollllm.xyz",
    "gateway_ipv4": "give the public IPv4 address of the host",
    "gateway_dns_provider": "give rfc2136, cloudflare, route53, hcloud or none",
    "gateway_acme_email": "give an address that the certificate authority may write to",
    "gateway_api_keys": f"give at least one account and its key ({NEW_KEY} makes one)",
    "gateway_operator_token": f"give the secret that opens the admin API ({NEW_KEY} makes one)",
}
OPTIONAL = (
    "gateway_ipv6",
    "gateway_dns_ttl",
    "gateway_dns_credentials",
    "gateway_dns_nameservers",
    "gateway_acme_directory",
    "gateway_extra_ca_certificates",
    "gateway_timeouts",
    "gateway_max_body_mib",
    "gateway_base_image",
    "gateway_dir",
    "gateway_opening_credits",
    "gateway_database_url",
    "gateway_admin_domain",
)
VARIABLES = (*REQUIRED, *OPTIONAL)

DOCUMENTATION_NETWORKS = [
    ipaddress.ip_network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
]
EXAMPLE_DOMAINS = ("example.com", "example.net", "example.org")
LOCALHOST = ("localhost", "localhost.localdomain", "[::1]")
ACME_DIRECTORIES = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


@dataclass(frozen=True)
class Site:
    """What the upstreams need to know of the site. None: it was wrong, and that has been reported."""

    zone: str | None
    ttl: int | None
    timeouts: dict[str, int] | None
    max_body_mib: int | None
    admin_domain: str | None  # also None where there is none


def read(settings: Mapping[str, Any], problems: list[Problem]) -> Site:
    fields = {name: Field(value, name, problems) for name, value in settings.items() if name in VARIABLES}
    for name, right in REQUIRED.items():
        if name not in fields:
            Field(None, name, problems).report("is missing", right)
    for name in settings.keys() - set(VARIABLES):
        Field(None, name, problems).report_slip(VARIABLES, given=fields)

    for name, check in CHECKS.items():
        if name in fields:
            check(fields[name])
    if "gateway_opening_credits" in fields:
        check_opening_credits(fields["gateway_opening_credits"], settings.get("gateway_api_keys"))
    if "gateway_dns_provider" in fields:
        dns_credentials.check(fields["gateway_dns_provider"], settings, problems)
    return Site(
        zone=read_zone(fields["gateway_zone"]) if "gateway_zone" in fields else None,
        ttl=read_ttl(fields["gateway_dns_ttl"]) if "gateway_dns_ttl" in fields else DEFAULT_TTL,
        timeouts=read_timeouts(fields["gateway_timeouts"], DEFAULT_TIMEOUTS)
        if "gateway_timeouts" in fields
        else dict(DEFAULT_TIMEOUTS),
        max_body_mib=read_max_body_mib(fields["gateway_max_body_mib"])
        if "gateway_max_body_mib" in fields
        else DEFAULT_MAX_BODY_MIB,
        admin_domain=read_admin_domain(fields["gateway_admin_domain"], settings.get("gateway_zone"))
        if settings.get("gateway_admin_domain")
        else None,
    )


# -- facts that an upstream may have of its own --


def read_ttl(field: Field) -> int | None:
    return field.integer(300, 3600, "give 300 to 3600 seconds")


def read_max_body_mib(field: Field) -> int | None:
    return field.integer(1, 512, "give 1 to 512 (MiB)")


def read_timeouts(field: Field, defaults: Mapping[str, int]) -> dict[str, int] | None:
    """The ladder, completed from the defaults and checked: what waits inside another wait must be shorter."""
    count = len(field.problems)
    steps = field.record({}, optional=tuple(DEFAULT_TIMEOUTS))
    if steps is None:
        return None
    ladder = dict(defaults)
    for name, step in steps.items():
        seconds = step.integer(1, 86400, "give a whole number of seconds, 1 to 86400")
        if seconds is not None:
            ladder[name] = seconds
    if len(field.problems) > count:
        return None
    for shorter, longer in (("connect", "first_byte"), ("first_byte", "total"), ("idle", "total")):
        if ladder[shorter] > ladder[longer]:
            own = field.child(shorter if shorter in steps or longer not in steps else longer, None)
            own.report(
                f"{shorter} is {ladder[shorter]}, longer than {longer}, {ladder[longer]}",
                "keep connect <= first_byte <= total and idle <= total",
            )
    return ladder if len(field.problems) == count else None


# -- facts of the site alone --


def read_zone(field: Field) -> str | None:
    right = REQUIRED["gateway_zone"]
    zone = read_domain(field, right)
    if zone in EXAMPLE_DOMAINS:
        field.report(f"is {shown(zone)}, a placeholder", right)
    return zone


def read_admin_domain(field: Field, zone: Any) -> str | None:
    """Where the admin API can be reached from outside; empty: nowhere."""
    right = f"give a name below {zone}, or leave it out"
    domain = read_domain(field, right)
    if domain is not None and not domain.endswith(f".{zone}"):
        where = "the zone itself" if domain == zone else f"outside the zone {zone}"
        field.report(f'is "{domain}", {where}', right)
        return None
    return domain


def check_ipv4(field: Field) -> None:
    check_address(field, 4)


def check_ipv6(field: Field) -> None:
    if field.value not in ("", None):  # a host without IPv6
        check_address(field, 6)


def check_address(field: Field, version: int) -> None:
    right = f"give the public IPv{version} address of the host"
    text = field.text(right)
    if text is None:
        return
    try:
        address = ipaddress.IPv4Address(text) if version == 4 else ipaddress.IPv6Address(text)
    except ValueError:
        field.report(f"is {shown(text)}, no IPv{version} address", right)
        return
    if any(address in network for network in DOCUMENTATION_NETWORKS):
        field.report(f"is {text}, a placeholder (an address for documentation)", right)
    elif address.is_unspecified or address.is_multicast:
        field.report(f"is {text}, not the address of a host", right)


def check_nameservers(field: Field) -> None:
    right = (
        'give IP addresses, with a port where it is not 53, like "192.168.1.1:5353"; [] asks the zone\'s own servers'
    )
    for server in field.items(right) or []:
        text = server.text(right)
        if text is None:
            continue
        host, port = text, "53"
        if not is_address(text):
            host, _colon, port = text.rpartition(":")
            host = host.removeprefix("[").removesuffix("]")
        if not is_address(host) or not port.isdigit() or not 1 <= int(port) <= 65535:
            server.report(f"is {shown(text)}", right)


def check_email(field: Field) -> None:
    right = REQUIRED["gateway_acme_email"]
    text = field.text(right)
    if text is None:
        return
    local, _at, domain = text.rpartition("@")
    if not re.fullmatch(r"[^\s@<>\"]+", local) or domain_fault(domain.lower()) is not None:
        field.report(f"is {shown(text)}, no e-mail address", right)
    elif any(domain.lower() == name or domain.lower().endswith(f".{name}") for name in EXAMPLE_DOMAINS):
        field.report(f"is {shown(text)}, a placeholder", right)


def check_acme_directory(field: Field) -> None:
    right = f"give {listed(ACME_DIRECTORIES)}, or the https URL of a directory"
    text = field.text(right)
    if text is None or text in ACME_DIRECTORIES:
        return
    if ":" not in text:
        near = nearest(text, ACME_DIRECTORIES)
        field.report(f"is {shown(text)}, which is not known", f"did you mean {near}?" if near else right)
    elif (fault := url_fault(text)) is not None:
        field.report(f"is {plain_url(text)}, which {fault}", right)


def check_api_keys(field: Field) -> None:
    right = REQUIRED["gateway_api_keys"]
    accounts = field.mapping(right)
    if accounts is None:
        return
    if not accounts:
        field.report("has no account", right)
    owners: dict[str, str] = {}
    make = f"make one with {NEW_KEY}"
    for account, place in sorted(accounts.items()):
        entry = field.child(account, place.value, secret=True)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", account):
            entry.report("is no account name", "use up to 64 letters, digits and . _ @ -, a letter or digit first")
        key = check_key(entry, make, at_least=MADE_BY_LITELLM)
        if key is None:
            continue
        if key in owners:
            entry.report(f"is the key of {owners[key]} too", "give each account a key of its own")
        owners.setdefault(key, account)


def check_key(field: Field, make: str, *, at_least: int = 32) -> str | None:
    """A secret of so many characters that opens something of ours; None when it is no text."""
    key = field.text(make)
    if key is None:
        return None
    if secret.is_placeholder(key):
        field.report("is a placeholder", make)
    elif not secret.is_sendable(key):
        field.report("has white space or a character beyond ASCII in it", "look for a line break at its end")
    elif secret.is_mistyped(key):
        field.report("is mistyped: its checksum does not fit", f"copy the whole tg- key again, or {make}")
    elif len(key) < at_least:
        field.report(f"is {len(key)} characters long", f"use {at_least} or more; {make}")
    return key


def check_operator_token(field: Field) -> None:
    check_key(replace(field, secret=True), f"make one with {NEW_KEY}")


def check_opening_credits(field: Field, accounts: Any) -> None:
    """What an account is given once, when it first stands there."""
    right = "give accounts of gateway_api_keys and US dollars, like {alice: 10}"
    known = accounts if isinstance(accounts, Mapping) else {}
    for account, amount in (field.mapping(right) or {}).items():
        if account not in known:
            near = nearest(account, known)
            amount.report("is no account of gateway_api_keys", f"did you mean {near}?" if near else right)
        dollars = amount.number(right)
        if dollars is not None and not 0 <= dollars <= MOST_CREDIT:
            amount.report(f"is {dollars}", f"give 0 to {MOST_CREDIT} US dollars")


_DATABASE_URL = re.compile(
    r"""
    postgresql://
    ( [^:/]* (:[^@]*)? @ )?
    (?P<host> \[[^/?]+\] | [^/:?]* ) (:\d+)?
    ( / (?P<name>[^?]*) )?
    ( \? (?P<query>.*) )?
    """,
    re.VERBOSE,
)
"""As SQLAlchemy reads it for the backend: a password may hold anything but @."""


def check_database_url(field: Field) -> None:
    """Empty is SQLite on the host. Of the rest nothing is shown but localhost: wherever a password may stand."""
    if field.value == "":
        return
    right = "give postgresql://USER:PASSWORD@HOST:PORT/NAME, or leave it out for SQLite on the host"
    field = replace(field, secret=True)
    text = field.text(right)
    if text is None:
        return
    if not (text.startswith("postgresql://") and secret.is_sendable(text)):
        field.report("is no URL of PostgreSQL", right)
        return
    parts = _DATABASE_URL.fullmatch(text)
    encode = "percent-encode what is special in user and password: @ is %40, : is %3A, / is %2F"
    if parts is None:
        field.report("cannot be read beyond postgresql://", f"{right}; {encode}")
        return
    host, query = parts["host"].lower(), parse_qs(parts["query"] or "")
    if "@" in host:
        field.report("has an @ too many", encode)
    elif host in LOCALHOST or host.startswith("127."):
        field.report(
            f"leads to {host}, which is the backend's container itself",
            "give the server's address: docs/accounts.md, PostgreSQL",
        )
    elif not host and "host" not in query:
        field.report("has no host", right)
    if not parts["name"] and "dbname" not in query:
        field.report("has no database name", right)


def check_ca_certificates(field: Field) -> None:
    right = "give a list of absolute paths of PEM files on this machine"
    for entry in field.items(right) or []:
        path = entry.text(right)
        if path is None:
            continue
        if not os.path.isabs(path):
            entry.report(
                f"is {shown(path)}, not absolute", 'write "{{ inventory_dir }}/..." for a file of the inventory'
            )
            continue
        if re.search(r"[\x00-\x1f\x7f\\]", os.path.basename(path)):
            # update-ca-certificates reads the names with the shell's `read`, and trusts nothing when one is not found.
            entry.report(f"is {shown(path)}, a name that update-ca-certificates cannot read", "rename the file")
            continue
        fault = certificate_fault(path)
        if fault is not None:
            entry.report(f'is "{path}", {fault}', "give a file that holds CA certificates in PEM form")


def certificate_fault(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            text = stream.read()
    except OSError as problem:
        return f"which cannot be read ({problem.strerror})"
    if "PRIVATE KEY-----" in text:
        return "which holds a private key"
    if "-----BEGIN CERTIFICATE-----" not in text:
        return "which holds no PEM certificate"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        return "which holds a damaged PEM certificate"
    return None


_DIRECTORY = re.compile(r"(/[A-Za-z0-9._-]+){2,}")
"""Neither a shell nor a compose file nor a mount takes any of it for something else."""


def check_directory(field: Field) -> None:
    right = "give an absolute path of its own, like /opt/trollllm, of letters, digits, . _ and -"
    text = field.text(right)
    if text is not None and (not _DIRECTORY.fullmatch(text) or os.path.normpath(text) != text):
        field.report(f"is {shown(text)}", right)


def check_image(field: Field) -> None:
    right = "give the name of an image, like debian:trixie-slim"
    text = field.text(right)
    if text is not None and re.search(r"\s", text):
        field.report(f"is {shown(text)}, with white space in it", right)


CHECKS = {
    "gateway_ipv4": check_ipv4,
    "gateway_ipv6": check_ipv6,
    "gateway_dns_nameservers": check_nameservers,
    "gateway_acme_email": check_email,
    "gateway_acme_directory": check_acme_directory,
    "gateway_api_keys": check_api_keys,
    "gateway_operator_token": check_operator_token,
    "gateway_database_url": check_database_url,
    "gateway_extra_ca_certificates": check_ca_certificates,
    "gateway_base_image": check_image,
    "gateway_dir": check_directory,
}
