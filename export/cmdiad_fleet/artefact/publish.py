"""Publish a bundle as an OCI artefact: blobs first, then the manifest, then the tag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmdiad_fleet.artefact.describe import describe, is_signed
from cmdiad_fleet.artefact.place import WritablePlace
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.integrity import stored_file
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.reporter import Reporter


@dataclass(frozen=True)
class Published:
    """A published artefact.

    Attributes:
        digest: Address of the artefact, "sha256:" and 64 hexadecimal digits.
        sent: Number of bytes that were sent.
        present: Number of bytes that the place had already.
    """

    digest: str
    sent: int
    present: int


def open_bundle_to_publish(path: Path, public_key: Path | None) -> Bundle:
    """Return a verified bundle, whose signature is verified too if it has one.

    Args:
        path: Folder of the bundle.
        public_key: Key whose owner must have signed the bundle; None for a bundle without a signature.

    Raises:
        BundleError: The bundle is damaged, not signed by the key, or signed although no key is known.
        EngineError: The package that verifies signatures is missing.
    """
    if public_key is None and is_signed(path):
        raise BundleError(
            path,
            found="a signature, and no key to verify it",
            expected="the public key of the signature",
            action="pass --public-key KEY.pub",
        )
    return Bundle.open(path, require_signature=public_key)


def publish(bundle: Bundle, public_key: Path | None, place: WritablePlace, tag: str, reporter: Reporter) -> Published:
    """Publish a verified bundle.

    Args:
        bundle: Bundle from `open_bundle_to_publish`.
        public_key: See `open_bundle_to_publish`.
        place: Repository of a registry, or layout.
        tag: Tag that points to the artefact afterwards, or "" for none.
        reporter: Receiver of progress.

    Raises:
        RegistryError: The place cannot be reached or refuses the artefact. A tag is never moved in this case.
        OutputError: The layout cannot be written.
    """
    described = describe(bundle, public_key)
    artefact = described.artefact
    sent = 0
    for done, layer in enumerate(artefact.layers):
        reporter.step(f"sending ({layer.title})", done, len(artefact.layers))
        if place.put_blob(layer, stored_file(bundle.path, layer.title)):
            sent += layer.bytes
    place.put_blob(artefact.config, described.config)
    place.put_manifest(artefact.content, tag)
    reporter.step("sending", len(artefact.layers), len(artefact.layers))
    return Published(artefact.digest, sent, artefact.bytes - sent)
