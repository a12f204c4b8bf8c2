# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""The certificate that a server presents, and what is asked of it. Without `cryptography`, which few hosts have."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Collection


def presented(address: str, port: int, name: str, timeout: float) -> bytes:
    """The leaf certificate (DER) of a handshake, whoever signed it.

    Raises OSError (ssl.SSLError is one) and ValueError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((address, port), timeout) as connection,
        context.wrap_socket(connection, server_hostname=name) as channel,
    ):
        certificate = channel.getpeercert(binary_form=True)
    if certificate is None:
        raise ValueError("no certificate was presented")
    return certificate


def covers(names: Collection[str], name: str) -> bool:
    """Whether a client that asks for this name accepts a certificate of these names, which are in lower case."""
    name = name.lower().rstrip(".")
    return name in names or f"*.{name.partition('.')[2]}" in names


def needed_days(min_days_left: int, lifetime_days: float) -> float:
    """For how long it must be valid still: a short-lived one is renewed later than `min_days_left` before its end.

    The role certbot's certificate-check.sh.j2 has the same rule for monitoring.
    """
    return min(float(min_days_left), lifetime_days / 4)
