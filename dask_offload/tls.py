"""A certificate authority for each Dask cluster, made when it starts and gone with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["LIFETIME", "ClusterAuthority", "Credential"]

#: How long a cluster may go on: whoever starts one may leave it alone for months.
LIFETIME = timedelta(days=365)
# Clocks of worker nodes may be behind.
_EARLIER = timedelta(hours=1)
# RFC 5280, 4.2.1.3: a CA has to say so; ssl refuses one that does not from Python 3.13 on.
_SIGNS_ONLY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Credential:
    """A certificate, its key, and the CA that peers are checked against, all as PEM text."""

    ca: str
    cert: str
    key: str

    def __repr__(self) -> str:
        return "Credential(…)"  # a key never appears in a log


class ClusterAuthority:
    """Signs the certificates of one cluster. Its key stays in this object.

    Parameters
    ----------
    cluster : str
        Appears in the certificates, for people who look at them.
    """

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        # P-256: a handshake costs a tenth of RSA's, and there is one for each stream.
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(cluster, "CA")
        self._cert = (
            _builder(self._name, self._name, self._key, LIFETIME + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_SIGNS_ONLY, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, role: str, lifetime: timedelta) -> Credential:
        """Return a new credential for `role` (`scheduler`, `client`, `worker`)."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = (
            _builder(_name(self._cluster, role), self._name, key, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Credential(_pem(self._cert), _pem(cert), _private_pem(key))


def _name(cluster: str, role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, role),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + lifetime)
    )


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
