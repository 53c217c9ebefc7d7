"""A detached Ed25519 signature of a bundle's manifest, which contains the hash of every other file.

`manifest.sig` next to `manifest.json` is the raw signature (64 bytes) of the manifest's exact bytes; keys are PEM
files. OpenSSL makes and verifies the same signature: ``openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin
-in manifest.json -sigfile manifest.sig``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmdiad_runtime.bundle.integrity import SIGNATURE
from cmdiad_runtime.errors import BundleError, EngineError, OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import atomic_write
from cmdiad_runtime.support.regular_file import read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
_KEY_LIMIT = 16_384


def new_key(path: Path) -> Path:
    """Write a new private key, readable by its owner only, and the public key next to it.

    Args:
        path: Path of the private key.

    Returns:
        Path of the public key, `path` with the suffix `.pub` added.

    Raises:
        OutputError: One of the two files exists, or cannot be written.
        EngineError: The package cryptography is missing.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    public = path.with_name(path.name + ".pub")
    for file in (path, public):
        if file.exists():
            raise OutputError(file, found="a file", expected="no key there yet", action="choose another name")
    key = Ed25519PrivateKey.generate()
    _write_key(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    _write_key(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), mode=0o644)
    return public


def sign(content: bytes, private_key: Path) -> bytes:
    """Return the signature of a manifest's bytes, 64 bytes.

    Raises:
        BundleError: The file contains no Ed25519 private key.
        EngineError: The package cryptography is missing.
    """
    return _private_key(private_key).sign(content)


def verify_signature(bundle: Path, content: bytes, public_key: Path) -> None:
    """Verify that the bundle's `manifest.sig` is the key owner's signature of these bytes.

    Args:
        bundle: Folder of the bundle.
        content: Bytes of the manifest; not parsed.
        public_key: PEM file of the only key that is accepted.

    Raises:
        BundleError: There is no signature, the signature belongs to another key or manifest, or the key is unreadable.
        EngineError: The package cryptography is missing.
    """
    key = _public_key(public_key)
    from cryptography.exceptions import InvalidSignature

    path = bundle / SIGNATURE
    try:
        key.verify(_read(path, SIGNATURE_BYTES, follow=False), content)
    except FileNotFoundError as error:
        action = "ask for the signed bundle, or sign it (cmdiad-sign)"
        raise BundleError(path, found="no signature", expected=f"one by {public_key}", action=action) from error
    except (InvalidSignature, OSError, ValueError) as error:
        raise BundleError(
            path,
            found="a signature that is not this key's of this manifest",
            expected=f"one by {public_key}",
            action="ask for the bundle again: it was changed after signing, or signed with another key",
        ) from error


def fingerprint_of(public_key: Path) -> str:
    """Return the SHA-256 of a public key in its standard form (SubjectPublicKeyInfo, DER), 64 hexadecimal digits.

    Raises:
        BundleError: The file contains no Ed25519 public key.
        EngineError: The package cryptography is missing.
    """
    key = _public_key(public_key)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _public_key(path: Path) -> Ed25519PublicKey:
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    kind = "public"
    key = _load(path, kind, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, kind, type(key).__name__)
    return key


def _private_key(path: Path) -> Ed25519PrivateKey:
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    kind = "private"
    key = _load(path, kind, lambda pem: load_pem_private_key(pem, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, kind, type(key).__name__)
    return key


def _load(path: Path, kind: str, load: Any) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(_read(path, _KEY_LIMIT, follow=True))
    except OSError as error:
        raise _no_key(path, kind, cause_of(error)) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, kind, "another kind of file") from error
    except TypeError as error:
        raise _no_key(path, kind, "a key behind a passphrase") from error


def _no_key(path: Path, kind: str, problem: str) -> BundleError:
    return BundleError(
        path,
        found=problem,
        expected=f"an Ed25519 {kind} key (PEM, no passphrase)",
        action=f"name the {kind} one of the two files that cmdiad-sign --new-key wrote",
    )


def _read(path: Path, limit: int, *, follow: bool) -> bytes:
    """Return a file's bytes; ValueError if there are more than the limit."""
    content = read_regular(path, limit, follow=follow)
    if len(content) > limit:
        raise ValueError(f"more than {limit} bytes")
    return content


def _write_key(path: Path, pem: bytes, mode: int) -> None:
    with atomic_write(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401 - checks that the package is installed
    except ImportError as error:
        raise EngineError(
            "",
            found="signatures need the package 'cryptography', which is not installed",
            action='run: pip install "cmdiad[signature]"',
        ) from error
