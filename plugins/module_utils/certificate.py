# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""What an operator wants to know of an X.509 certificate. Needs `cryptography`, as certbot's own Python has it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from .served import covers

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    MISSING = ""
except ImportError as problem:  # reported by the module that needs it
    MISSING = str(problem)

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A leaf certificate, in plain values."""

    names: tuple[str, ...]  # sorted, lower case
    issuer: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    fingerprint: str  # SHA-256, lower-case hex
    key_type: str
    public_key: bytes

    @property
    def lifetime_days(self) -> float:
        return (self.not_after - self.not_before) / DAY

    def days_left(self, now: datetime.datetime) -> float:
        return (self.not_after - now) / DAY

    def covers(self, name: str) -> bool:
        return covers(self.names, name)

    def facts(self, now: datetime.datetime) -> dict[str, Any]:
        """The values that a module returns."""
        return {
            "names": list(self.names),
            "not_after": self.not_after.isoformat(),
            "days_left": round(self.days_left(now), 3),
            "lifetime_days": round(self.lifetime_days, 3),
            "fingerprint": self.fingerprint,
            "key_type": self.key_type,
        }


def _read(certificate: x509.Certificate) -> Certificate:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        names = []
    key = certificate.public_key()
    kinds = {"ecdsa": isinstance(key, ec.EllipticCurvePublicKey), "rsa": isinstance(key, rsa.RSAPublicKey)}
    return Certificate(
        names=tuple(sorted(names)),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        key_type=next((kind for kind, found in kinds.items() if found), "other"),
        public_key=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )


def from_pem(data: bytes) -> Certificate:
    """The first certificate in a PEM file. Raises ValueError when there is none."""
    return _read(x509.load_pem_x509_certificates(data)[0])


def from_der(data: bytes) -> Certificate:
    """A certificate as it comes out of a TLS handshake. Raises ValueError."""
    return _read(x509.load_der_x509_certificate(data))


def key_matches(certificate: Certificate, pem: bytes) -> bool:
    """Whether the private key (PEM) belongs to the certificate. Raises ValueError when it is no private key."""
    public = load_pem_private_key(pem, password=None).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == certificate.public_key


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
