"""Domain names, addresses and URLs, as an operator writes them: what is wrong with one, and what of it may be shown."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from .field import Field, shown


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
    if not name.isascii():
        return "with characters beyond ASCII in it (write it as xn--...)"
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
    if not host.isascii():
        faults.append("has a host name with characters beyond ASCII in it (write it as xn--...)")
    elif not is_address(host) and domain_fault(host) is not None:
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
    if fault is None and ":" in (urlsplit(url).hostname or ""):
        return "has an IPv6 address (the network of the containers has IPv4 only)"
    return fault


def plain_url(url: str) -> str:
    """The URL without what may be secret in it."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
        # With its port, or an IPv6 address without brackets. What else stands behind a colon may be a password.
        if re.fullmatch(r"([a-z0-9.-]+|\[[0-9a-f:.]+\]):\d+|[0-9a-f:.]+", parts.netloc, re.IGNORECASE):
            host = parts.netloc
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
