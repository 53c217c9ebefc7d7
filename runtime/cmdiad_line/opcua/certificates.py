"""Certificate of the server, created at its first start, and certificates of trusted clients."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import atomic_write

FIRST_DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""Start of the validity. The day is fixed, because the clock of a new machine may be wrong."""
LAST_DAY = datetime(2046, 1, 1, tzinfo=timezone.utc)
"""End of the validity. It is late, because every client must trust a new certificate by hand."""
SMALLEST_KEY = 2048
"""Smallest RSA key in bits that the security policies of the server allow."""


@dataclass(frozen=True)
class ServerCertificate:
    """Certificate and key of the server.

    Attributes:
        certificate: Certificate.
        private_key: Its key.
        application_uri: URI of the application in the certificate.
    """

    certificate: x509.Certificate
    private_key: rsa.RSAPrivateKey
    application_uri: str


def own_certificate(folder: Path, station: str, address: str) -> ServerCertificate:
    """Return the certificate of a station, which is created if the folder has none.

    Args:
        folder: Folder of `server.pem` and `server.key` in the state folder.
        station: Name of the station.
        address: Address that the server binds to.

    Raises:
        InputError: The files are damaged.
        OutputError: The files cannot be written.
    """
    certificate, key = folder / "server.pem", folder / "server.key"
    if not (certificate.is_file() and key.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        _create(certificate, key, station, address)
    return read_certificate(certificate, key)


def read_certificate(certificate: Path, key: Path) -> ServerCertificate:
    """Return certificate and key from files in PEM or DER.

    Raises:
        InputError: A file cannot be read, the two do not match, or the certificate has no application URI.
    """
    loaded = _certificate(certificate)
    private_key = _key(key)
    if loaded.public_key() != private_key.public_key():
        raise InputError(
            key, found="the key of another certificate", expected=f"the key of {certificate}", action="name its key"
        )
    try:
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
    except (x509.ExtensionNotFound, IndexError):
        raise InputError(
            certificate,
            found="no application URI",
            expected="a certificate for OPC UA, with a URI as subject alternative name",
            action="make the certificate again with such a name",
        ) from None
    return ServerCertificate(loaded, private_key, uri)


def trusted_certificates(folder: Path) -> frozenset[bytes]:
    """Return the certificates (DER) in a folder of `.pem`, `.crt`, `.cer` and `.der` files.

    Raises:
        InputError: A file cannot be read, or there is none.
    """
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".pem", ".crt", ".cer", ".der")]
    if not files:
        raise InputError(
            folder, found="no certificate", expected="the certificates of the trusted clients", action="add them"
        )
    return frozenset(_certificate(path).public_bytes(serialization.Encoding.DER) for path in files)


def _create(certificate: Path, key: Path, station: str, address: str) -> None:
    """Write a new key and a self-signed certificate; the key first, readable by its owner only."""
    private_key = rsa.generate_private_key(public_exponent=65537, key_size=SMALLEST_KEY)
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with atomic_write(key) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
    with atomic_write(certificate) as temporary:
        signed = _sign(private_key, station, address)
        temporary.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def _sign(private_key: rsa.RSAPrivateKey, station: str, address: str) -> x509.Certificate:
    """Return a self-signed application instance certificate after OPC 10000-6, 6.2.2."""
    host = socket.gethostname()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"CMDIAD {station}"[:64]),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "CMDIAD Edge"),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=True,  # Required of a self-signed application certificate.
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(FIRST_DAY)
        .not_valid_after(LAST_DAY)
        .add_extension(x509.SubjectAlternativeName(_names(host, station, address)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private_key.public_key()), critical=False)
        .add_extension(usage, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(private_key, hashes.SHA256())


def _names(host: str, station: str, address: str) -> Iterable[x509.GeneralName]:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", station)
    yield x509.UniformResourceIdentifier(f"urn:{host}:cmdiad:{plain}")
    yield x509.DNSName(host)
    yield x509.DNSName("localhost")
    if not ip_address(address).is_unspecified:
        yield x509.IPAddress(ip_address(address))


def _certificate(path: Path) -> x509.Certificate:
    try:
        data = path.read_bytes()
        return x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)
    except (OSError, ValueError) as error:
        raise _unreadable(path, "certificate", error) from error


def _key(path: Path) -> rsa.RSAPrivateKey:
    try:
        data = path.read_bytes()
        load = serialization.load_pem_private_key if b"-----BEGIN" in data else serialization.load_der_private_key
        key = load(data, password=None)
    except (OSError, TypeError, ValueError) as error:
        raise _unreadable(path, "private key", error) from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < SMALLEST_KEY:
        raise InputError(
            path,
            found="another kind of key",
            expected=f"an RSA key of {SMALLEST_KEY} bits or more",
            action="make such a key",
        )
    return key


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    return InputError(
        path, found=f"no {kind} ({cause_of(error)})", expected=f"a {kind} in PEM or DER", action=f"name a {kind}"
    )
