"""Certificates for servers of tests: for `localhost`, signed by themselves, good for an hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_ENCODING = serialization.Encoding.PEM


@dataclass(frozen=True)
class Certificate:
    """PEM. Whoever trusts `public` trusts the server that has `secret`."""

    public: bytes
    secret: bytes

    @classmethod
    def issue(cls) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now, hour = datetime.now(UTC), timedelta(hours=1)
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - hour)
            .not_valid_after(now + hour)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(key, hashes.SHA256())
        )
        kind = serialization.PrivateFormat.PKCS8
        secret = key.private_bytes(_ENCODING, kind, serialization.NoEncryption())
        return cls(made.public_bytes(_ENCODING), secret)
