"""A real Mosquitto broker for tests, and certificates for its TLS listener."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from patience import LIMIT_S, free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Broker:
    """A broker on a free port of this machine; it keeps its port when it is started again."""

    def __init__(self, folder, *lines, tls=None):
        if MOSQUITTO is None:
            pytest.skip("needs the broker Mosquitto (apt-get install mosquitto)")
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        config = [f"listener {self.port} 127.0.0.1", "user root", *(lines or ["allow_anonymous true"])]
        config += ["persistence true", f"persistence_location {folder}/"]
        if tls is not None:
            config += [f"cafile {tls / 'ca.pem'}", f"certfile {tls / 'broker.pem'}", f"keyfile {tls / 'broker.key'}"]
            config += ["require_certificate true"]
        self._file.write_text("\n".join(config) + "\n")
        self._process = None

    def start(self):
        """Start the broker and wait until it listens."""
        self._process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S).close()
                return self
            except OSError:
                assert self._process.poll() is None and time.monotonic() < end, "the broker does not start"
                time.sleep(0.02)

    def stop(self):
        """Stop the broker; it keeps sessions and retained messages in its folder. Idempotent."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=LIMIT_S)
            self._process = None


def write_certificates(folder: Path):
    """Write an authority, a certificate for the broker on 127.0.0.1 and one for a station, as PEM files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.timezone.utc)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])

    def certificate(name, key, *, authority):
        builder = (
            x509.CertificateBuilder()
            .subject_name(ca_name if authority else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    for name, key in [("ca", ca_key)] + [
        (name, ec.generate_private_key(ec.SECP256R1())) for name in ("broker", "station")
    ]:
        signed = certificate(name, key, authority=name == "ca")
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return folder
