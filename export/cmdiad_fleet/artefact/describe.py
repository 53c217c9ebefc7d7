"""Derive layers, configuration and annotations of an artefact from a verified bundle, and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmdiad_fleet.artefact.artefact import CONFIG_TYPE, Artefact, Blob, blob_of, build_artefact, canonical_json
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.integrity import MANIFEST, SIGNATURE, FileRecord
from cmdiad_runtime.bundle.manifest import ENGINES, GOLDEN, manifest_hash
from cmdiad_runtime.bundle.manifest_records import GRAPH
from cmdiad_runtime.bundle.signature import fingerprint_of
from cmdiad_runtime.engines.graph_file import WEIGHTS
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.files import sha256_of

PREFIX = "vnd.cmdiad."
KEY_FINGERPRINT = f"{PREFIX}signature.key.sha256"
BUNDLE_DIGEST = f"{PREFIX}bundle.digest"
_MEDIA_TYPES = {
    MANIFEST: "application/vnd.cmdiad.bundle.manifest.v1+json",
    SIGNATURE: "application/vnd.cmdiad.bundle.signature.v1",
    GRAPH: "application/vnd.cmdiad.graph.v1+onnx",
    WEIGHTS: "application/vnd.cmdiad.graph.weights.v1",
    GOLDEN: "application/vnd.cmdiad.golden.v1+npz",
}
_ENGINE_TYPE = "application/vnd.cmdiad.engine.v1"
_FILE_TYPE = "application/vnd.cmdiad.file.v1"


@dataclass(frozen=True)
class Described:
    """Artefact of a bundle, with the configuration that is published as a separate blob.

    Attributes:
        artefact: The artefact.
        config: Bytes of the configuration.
    """

    artefact: Artefact
    config: bytes


def describe(bundle: Bundle, public_key: Path | None) -> Described:
    """Return a bundle as an artefact. The same bundle has the same address on every machine and at every time.

    Args:
        bundle: Verified bundle. Its signature was verified with `public_key`, if it has one.
        public_key: Key whose owner signed the bundle; None for a bundle without a signature.

    Raises:
        BundleError: A file cannot be read.
        EngineError: The package that reads keys is missing.
    """
    annotations = annotations_of(bundle)
    if public_key is not None:
        annotations[KEY_FINGERPRINT] = fingerprint_of(public_key)
    config = canonical_json(
        {
            "name": bundle.name,
            "modality": bundle.preprocessing.modality_name,
            "precision": bundle.precision,
            "digest": manifest_hash(bundle.manifest),
        }
    )
    layers = [Blob(record.sha256, record.bytes, _media_type(name), name) for name, record in files_of(bundle).items()]
    return Described(build_artefact(blob_of(config, CONFIG_TYPE), layers, annotations), config)


def annotations_of(bundle: Bundle) -> dict[str, str]:
    """Return the annotations that follow from a bundle, those of its certificate included. All values are text."""
    certificate, calibration = bundle.record.certificate, bundle.calibration
    annotations = {
        "org.opencontainers.image.title": bundle.name,
        BUNDLE_DIGEST: manifest_hash(bundle.manifest),
        f"{PREFIX}modality": bundle.preprocessing.modality_name,
        f"{PREFIX}precision": bundle.precision,
        f"{PREFIX}runtime.version": bundle.record.versions.get("cmdiad", ""),
        f"{PREFIX}threshold.score": f"{calibration.score_threshold:.9g}",
        f"{PREFIX}certificate.samples": str(certificate.samples),
        f"{PREFIX}certificate.tolerance": f"{bundle.tolerance.score:.9g}",
    }
    if bundle.record.created:
        annotations["org.opencontainers.image.created"] = bundle.record.created
    for comparison in certificate.comparisons:
        if comparison.precision == bundle.precision:
            annotations[f"{PREFIX}certificate.score.difference"] = f"{comparison.score_max_share:.9g}"
            annotations[f"{PREFIX}certificate.map.difference"] = f"{comparison.map_max_share:.9g}"
    return annotations


def files_of(bundle: Bundle) -> dict[str, FileRecord]:
    """Return size and hash of every file of a verified bundle by path: those of the manifest, manifest and signature.

    Raises:
        BundleError: The manifest or the signature cannot be read.
    """
    names = [name for name in (MANIFEST, SIGNATURE) if (bundle.path / name).exists()]
    try:
        own = {
            name: FileRecord(sha256_of(bundle.path / name, follow=False), (bundle.path / name).stat().st_size)
            for name in names
        }
    except OSError as error:
        raise BundleError(
            bundle.path, found=f"no readable file ({error.strerror})", action="check the bundle with cmdiad-info"
        ) from error
    return {**own, **bundle.record.files}


def is_signed(folder: Path) -> bool:
    """Return True if a bundle has a signature, which is not verified here."""
    return (folder / SIGNATURE).exists()


def _media_type(name: str) -> str:
    return _MEDIA_TYPES.get(name, _ENGINE_TYPE if name.startswith(f"{ENGINES}/") else _FILE_TYPE)
