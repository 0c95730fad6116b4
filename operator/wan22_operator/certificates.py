"""The webhooks' certificate: a CA and a server certificate in one Secret, which all replicas share and renew."""

import base64
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
SERVER_DAYS = 90
RENEW_BEFORE = datetime.timedelta(days=30)
BACKDATED = datetime.timedelta(hours=1)
"""A certificate is valid from a little before it was made, because clocks differ."""


@dataclass(frozen=True)
class Certificates:
    """PEM texts. ``ca`` may also hold the previous CA, so that a replica that still serves under it stays trusted."""

    ca: str
    ca_key: str
    server: str
    server_key: str

    def secret_data(self) -> dict[str, str]:
        """Return the ``data`` of the Secret."""
        texts = {"ca.crt": self.ca, "ca.key": self.ca_key, "tls.crt": self.server, "tls.key": self.server_key}
        return {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}

    @classmethod
    def from_secret(cls, data: dict[str, str] | None) -> "Certificates | None":
        """Read the ``data`` of the Secret; None if a part is missing or broken."""
        try:
            names = ("ca.crt", "ca.key", "tls.crt", "tls.key")
            return cls(*(base64.b64decode((data or {})[name]).decode() for name in names))
        except (KeyError, ValueError):
            return None


def current(have: Certificates | None, hosts: Sequence[str], now: datetime.datetime) -> Certificates:
    """Return ``have`` if it is valid for ``hosts`` and does not end soon, otherwise renewed certificates.

    A server certificate is renewed under the same CA, so that clients that trust the CA need no new bundle.
    """
    try:
        if have and _lasts(have.ca, now):
            if _lasts(have.server, now) and _covers(have.server, hosts):
                return have
            server, key = _server(have.ca, have.ca_key, hosts, now)
            return Certificates(have.ca, have.ca_key, server, key)
        older = _first(have.ca) if have else ""
    except ValueError:
        older = ""
    ca, ca_key = _authority(now)
    server, key = _server(ca, ca_key, hosts, now)
    return Certificates(ca + older, ca_key, server, key)


def _lasts(pem: str, now: datetime.datetime) -> bool:
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc - RENEW_BEFORE > now


def _covers(pem: str, hosts: Sequence[str]) -> bool:
    extensions = x509.load_pem_x509_certificate(pem.encode()).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {_name(host) for host in hosts} <= set(names)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _first(pem: str) -> str:
    end = "-----END CERTIFICATE-----\n"
    return pem[: pem.index(end) + len(end)]


def _authority(now: datetime.datetime) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wan22-operator-ca")])
    usage = x509.KeyUsage(
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
    builder = (
        _builder(name, name, key, now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _pem(builder.sign(key, hashes.SHA256())), _key_pem(key)


def _server(ca: str, ca_key: str, hosts: Sequence[str], now: datetime.datetime) -> tuple[str, str]:
    issuer = x509.load_pem_x509_certificate(ca.encode())
    issuer_key = serialization.load_pem_private_key(ca_key.encode(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    builder = (
        _builder(name, issuer.subject, key, now, SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _pem(builder.sign(issuer_key, hashes.SHA256())), _key_pem(key)


def _builder(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    encoding, shape = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, shape, serialization.NoEncryption()).decode()
