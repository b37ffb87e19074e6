"""An authority of the tests' own, and the certificates that it signs."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


_SIGNS: Final = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
    encipher_only=False, decipher_only=False,
)  # fmt: skip


class Authority:
    """Signs certificates for servers and clients."""

    def __init__(self, directory: Path, *, days: float = 1) -> None:
        """Its own certificate is valid for so many days."""
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority of the tests")
        self.certificate = directory / "ca.pem"
        made = self._sign(
            self._name, self._key, x509.BasicConstraints(ca=True, path_length=None), days
        )
        self.certificate.write_bytes(made)

    def server(self, name: str, *hosts: str, days: float = 1) -> Signed:
        """Sign a server's certificate for these addresses and host names, valid for so long."""
        alternatives = [
            x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
            for host in hosts
        ]
        return self._signed(name, x509.SubjectAlternativeName(alternatives), days)

    def client(self, name: str) -> Signed:
        """Sign a client's certificate."""
        return self._signed(name, x509.BasicConstraints(ca=False, path_length=None))

    def _signed(self, name: str, extension: x509.ExtensionType, days: float = 1) -> Signed:
        key = ec.generate_private_key(ec.SECP256R1())
        files = Signed(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        files.certificate.write_bytes(self._sign(_name(name), key, extension, days))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType,
        days: float = 1,
    ) -> bytes:  # fmt: skip
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + days * _DAY)
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            # Python 3.13 wants to be told whose key has signed, and that it may.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if key is self._key:
            builder = builder.add_extension(_SIGNS, critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
