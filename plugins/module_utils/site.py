"""What an inventory says of the whole gateway: the gateway_* variables. Reads them; touches nothing but CA files."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from . import secret
from .field import Field, Problem, listed, nearest, shown

DEFAULT_TTL = 300
DEFAULT_TIMEOUTS = {"connect": 10, "first_byte": 300, "idle": 120, "total": 3600}
DEFAULT_MAX_BODY_MIB = 32
MOST_CREDIT = 1_000_000
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
ACME_DIRECTORIES = ("letsencrypt", "letsencrypt-staging")
TSIG_ALGORITHMS = ("hmac-md5", "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")


@dataclass(frozen=True)
class Credentials:
    """What a DNS provider wants: keys that must be there, keys that may be, and which of them are secret."""

    required: Mapping[str, str]
    optional: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()


DNS_PROVIDERS = {
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
    # Other gateway_* variables are the operator's own business, unless one looks like a slip of the pen.
    for name in settings.keys() - set(VARIABLES):
        near = nearest(name, VARIABLES, cutoff=0.9)
        if near is not None and near not in fields:
            Field(None, name, problems).report("is not a known variable", f"did you mean {near}?")

    for name, check in CHECKS.items():
        if name in fields:
            check(fields[name])
    if "gateway_opening_credits" in fields:
        check_opening_credits(fields["gateway_opening_credits"], settings.get("gateway_api_keys"))
    if "gateway_dns_provider" in fields:
        check_dns(fields["gateway_dns_provider"], settings, problems)
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


def read_domain(field: Field, right: str) -> str | None:
    text = field.text(right)
    if text is None:
        return None
    fault = domain_fault(text)
    if fault is not None:
        field.report(f"is {shown(text)}, {fault}", right)
        return None
    return text


def domain_fault(name: str) -> str | None:
    """What keeps the text from being a fully qualified domain name, in the one way that names can be compared."""
    label = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
    labels = name.split(".")
    if name != name.lower():
        return "with capital letters in it (use lower case)"
    if name.endswith("."):
        return "with a dot at its end (leave it out)"
    if len(name) > 253 or any(not label.fullmatch(part) for part in labels):
        return "not a domain name"
    if len(labels) < 2 or not re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", labels[-1]):
        return "not a fully qualified domain name"
    return None


def url_fault(url: str) -> str | None:
    """What keeps the text from being a plain https URL. The words repeat nothing that could be a secret."""
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return "has white space in it"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme != "https":
        return (
            f"is no https URL (it begins with {parts.scheme}:)" if parts.scheme in ("http", "ws") else "is no https URL"
        )
    faults = []
    if parts.username is not None or parts.password is not None:
        faults.append("carries credentials")
    if parts.query or url.partition("#")[0].endswith("?"):
        faults.append("carries a query")
    if parts.fragment or "#" in url:
        faults.append("carries a fragment")
    host = parts.hostname or ""
    if not is_address(host) and domain_fault(host) is not None:
        faults.append("has no valid host name")
    if port == 0:
        faults.append("has port 0")
    return " and ".join(faults) or None


def endpoint_fault(url: str) -> str | None:
    """A provider's URL is used as it stands: it needs the whole path."""
    fault = url_fault(url)
    if fault is None and urlsplit(url).path in ("", "/"):
        return "has no path"
    if fault is None and url.endswith("/"):
        return "has a slash at its end"
    return fault


def plain_url(url: str) -> str:
    """The URL without what may be secret in it."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    except ValueError:
        return "(not shown)"
    if not parts.scheme or not host:
        return "(not shown)" if len(url) > 40 or "@" in url else url
    return f"{parts.scheme}://{host}{parts.path}"


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# -- facts of the site alone --


def read_zone(field: Field) -> str | None:
    right = REQUIRED["gateway_zone"]
    zone = read_domain(field, right)
    if zone in EXAMPLE_DOMAINS:
        field.report(f"is {shown(zone)}, a placeholder", right)
    return zone


def read_admin_domain(field: Field, zone: Any) -> str | None:
    """Where the admin API can be reached from outside; empty: nowhere."""
    right = f"give a name in the zone {zone}, or leave it out"
    domain = read_domain(field, right)
    if domain is not None and not domain.endswith(f".{zone}"):
        field.report(f'is "{domain}", outside the zone {zone}', right)
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


def check_dns(provider: Field, settings: Mapping[str, Any], problems: list[Problem]) -> None:
    right = f"give {listed(sorted(DNS_PROVIDERS))}"
    name = provider.text(right)
    if name is None:
        return
    if name not in DNS_PROVIDERS:
        near = nearest(name, DNS_PROVIDERS)
        provider.report(f"is {shown(name)}, which is not known", f"did you mean {near}?" if near else right)
        return
    wanted = DNS_PROVIDERS[name]
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
        key = check_key(entry, make)
        if key is None:
            continue
        if key in owners:
            entry.report(f"is the key of {owners[key]} too", "give each account a key of its own")
        owners.setdefault(key, account)


def check_key(field: Field, make: str) -> str | None:
    """A secret that opens something of ours; None when it is no text."""
    key = field.text(make)
    if key is None:
        return None
    if secret.is_placeholder(key):
        field.report("is a placeholder", make)
    elif not secret.is_sendable(key):
        field.report("has white space or a character beyond ASCII in it", "look for a line break at its end")
    elif secret.is_mistyped(key):
        field.report("is mistyped: its checksum does not fit", f"copy the whole tg- key again, or {make}")
    elif len(key) < 32:
        field.report(f"is {len(key)} characters long", f"use 32 or more; {make}")
    return key


def check_operator_token(field: Field) -> None:
    check_key(replace(field, secret=True), f"make one with {NEW_KEY}")


def check_opening_credits(field: Field, accounts: Any) -> None:
    """What an account is given once, when it is made."""
    right = "give accounts of gateway_api_keys and US dollars, like {alice: 10}"
    known = accounts if isinstance(accounts, Mapping) else {}
    for account, amount in (field.mapping(right) or {}).items():
        if account not in known:
            near = nearest(account, known)
            amount.report("is no account of gateway_api_keys", f"did you mean {near}?" if near else right)
        dollars = amount.number(right)
        if dollars is not None and not 0 <= dollars <= MOST_CREDIT:
            amount.report(f"is {dollars}", f"give 0 to {MOST_CREDIT} US dollars")


def check_database_url(field: Field) -> None:
    """Empty is SQLite on the host."""
    if field.value == "":
        return
    right = "give postgresql://USER:PASSWORD@HOST:PORT/NAME, or leave it out for SQLite on the host"
    field = replace(field, secret=True)
    text = field.text(right)
    if text is not None and not (text.startswith("postgresql://") and secret.is_sendable(text)):
        field.report("is no URL of PostgreSQL", right)


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
