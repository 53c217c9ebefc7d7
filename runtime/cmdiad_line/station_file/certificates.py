"""Check the certificates and private keys that a station file names, before a process needs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmdiad_line.station_file.station import Station
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.toml_file.lines import Lines
from cmdiad_runtime.support.toml_file.mistakes import Mistake

_KEYS = {"web": "private_key", "opcua": "private_key", "mqtt": "key"}
"""Key of the private key, by section. The certificate is `certificate` in each."""
_PEM = b"-----BEGIN"


def certificate_mistakes(station: Station, lines: Lines) -> list[Mistake]:
    """Return a mistake for each file that is no certificate or key, and for each key of another certificate."""
    mistakes = []
    for section, name in _KEYS.items():
        content = getattr(station, section)
        files = {key: getattr(content, key, None) for key in ("certificate", name, "ca_file")}
        for key, problem, expected in _problems(files, name, der=section == "opcua"):
            mistakes.append(
                Mistake(
                    line=lines.of(section, key),
                    subject=f"{section}.{key}",
                    problem=f"{files[key]}, {problem}",
                    expected=expected,
                    action="name another file, or make certificate and key again",
                )
            )
    return mistakes


def certificate_fingerprint(path: Path) -> str:
    """Return the SHA-256 of the first certificate of a PEM file as hexadecimal digits.

    Args:
        path: File that `certificate_mistakes` has checked.
    """
    from cryptography.hazmat.primitives.hashes import SHA256

    fingerprint: bytes = _certificate(path, der=False).fingerprint(SHA256())
    return fingerprint.hex()


def _problems(files: dict[str, Path | None], key_name: str, *, der: bool) -> Iterator[tuple[str, str, str]]:
    """Yield the key, the problem and the correct content for each wrong file of a section."""
    form = "in PEM or DER" if der else "in PEM"
    loaded: dict[str, Any] = {}
    for name, path in files.items():
        if path is None:
            continue
        kind = "private key" if name == key_name else "certificate"
        try:
            loaded[name] = _private_key(path, der=der) if kind == "private key" else _certificate(path, der=der)
        except TypeError:
            yield name, "a private key with a password", f"a private key {form} without a password"
        except (OSError, ValueError) as error:
            yield name, f"which is no {kind} ({cause_of(error)})", f"a {kind} {form}"
    certificate, key = loaded.get("certificate"), loaded.get(key_name)
    if certificate is not None and key is not None and certificate.public_key() != key.public_key():
        yield key_name, "the key of another certificate", f"the key of {files['certificate']}"


def _certificate(path: Path, *, der: bool) -> Any:
    """Return the first certificate of a file; raises OSError or ValueError."""
    from cryptography import x509

    content = path.read_bytes()
    if der and _PEM not in content:
        return x509.load_der_x509_certificate(content)
    return x509.load_pem_x509_certificates(content)[0]


def _private_key(path: Path, *, der: bool) -> Any:
    """Return a private key; raises OSError or ValueError, and TypeError for a key with a password."""
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

    content = path.read_bytes()
    load = load_der_private_key if der and _PEM not in content else load_pem_private_key
    return load(content, password=None)
