"""Write and read the OCI image manifest of a bundle, which has an `artifactType` and one layer for each file.

The reader checks every value, because a registry can send any manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cmdiad_runtime.bundle.integrity import (
    FILE_LIMIT,
    FILES_LIMIT,
    MANIFEST,
    MANIFEST_LIMIT,
    SIGNATURE,
    TOTAL_LIMIT,
    FileRecord,
    is_inside,
)
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.support.files import is_sha256

ARTEFACT_TYPE = "application/vnd.cmdiad.bundle.v1"
CONFIG_TYPE = "application/vnd.cmdiad.bundle.config.v1+json"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"
OWN_FILES = {MANIFEST: MANIFEST_LIMIT, SIGNATURE: 1024}
"""Largest size in bytes of the files that are received and verified before all others."""
_PREFIX = "sha256:"


@dataclass(frozen=True)
class Blob:
    """One blob of an artefact.

    Attributes:
        sha256: SHA-256 of the content, 64 lower-case hexadecimal digits.
        bytes: Size of the content.
        media_type: Media type.
        title: Path in the bundle with forward slashes, or "" for the configuration.
    """

    sha256: str
    bytes: int
    media_type: str
    title: str = ""

    @property
    def digest(self) -> str:
        """Return the digest as registries write it, "sha256:" and 64 hexadecimal digits."""
        return _PREFIX + self.sha256

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor of the blob as a JSON object."""
        annotations = {"annotations": {TITLE: self.title}} if self.title else {}
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.bytes, **annotations}


@dataclass(frozen=True)
class Artefact:
    """A bundle as an OCI artefact.

    Attributes:
        content: Bytes of the manifest. Their SHA-256 is the address.
        config: Configuration, a small JSON object for other tools.
        layers: One blob for each file of the bundle, by path.
        annotations: Figures of the bundle for people and registries.
    """

    content: bytes
    config: Blob
    layers: tuple[Blob, ...]
    annotations: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Return the address of the artefact, "sha256:" and 64 hexadecimal digits."""
        return digest_of(self.content)

    @property
    def bytes(self) -> int:
        """Return the size of all layers."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def files(self) -> dict[str, FileRecord]:
        """Return size and hash of every file by path, as a bundle's manifest lists them."""
        return {layer.title: FileRecord(layer.sha256, layer.bytes) for layer in self.layers}


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of bytes as registries write it."""
    return _PREFIX + hashlib.sha256(content).hexdigest()


def read_digest(digest: object) -> str:
    """Return the 64 hexadecimal digits of a digest; ValueError for anything else than "sha256:" and these digits."""
    if not isinstance(digest, str) or not digest.startswith(_PREFIX) or not is_sha256(digest.removeprefix(_PREFIX)):
        raise ValueError("a digest that is no SHA-256")
    return digest.removeprefix(_PREFIX)


def blob_of(content: bytes, media_type: str) -> Blob:
    """Return the blob with this content, without a title."""
    return Blob(hashlib.sha256(content).hexdigest(), len(content), media_type)


def canonical_json(value: object) -> bytes:
    """Return JSON with sorted keys and without spaces, UTF-8: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def build_artefact(config: Blob, layers: Iterable[Blob], annotations: Mapping[str, str]) -> Artefact:
    """Return an artefact. The same arguments, in any order of the layers, have the same address."""
    ordered = tuple(sorted(layers, key=lambda layer: layer.title))
    content = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": ARTEFACT_TYPE,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in ordered],
            "annotations": dict(annotations),
        }
    )
    return Artefact(content, config, ordered, dict(annotations))


def read_artefact(content: bytes, source: str) -> Artefact:
    """Read the manifest of an artefact from a source that is not trusted.

    Args:
        content: Bytes of the manifest, at most MANIFEST_LIMIT.
        source: Name of the artefact, for messages.

    Raises:
        BundleError: The manifest is not that of a bundle, exceeds a limit, or has a path that leaves the bundle.
    """
    try:
        value = json.loads(content.decode("utf-8"))
        if not isinstance(value, dict) or value.get("artifactType") != ARTEFACT_TYPE:
            raise _refused(source, "an artefact of another type", f"the type {ARTEFACT_TYPE}")
        layers = tuple(map(_blob, _list(value["layers"], source)))
        config = _blob(value["config"])
        annotations = value.get("annotations") or {}
        if not all(isinstance(text, str) for item in annotations.items() for text in item):
            raise ValueError("annotations that are no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(source, f"a damaged manifest ({error!s:.100})", "the manifest of a bundle") from error
    _check_titles([layer.title for layer in layers], source)
    _check_sizes(layers, source)
    return Artefact(content, config, layers, annotations)


def _list(layers: object, source: str) -> list[Any]:
    if not isinstance(layers, list) or not 1 <= len(layers) <= FILES_LIMIT + len(OWN_FILES):
        raise _refused(source, "no layers or too many", f"1 to {FILES_LIMIT + len(OWN_FILES)} layers")
    return layers


def _blob(value: Mapping[str, Any]) -> Blob:
    """Return the blob of a descriptor; ValueError, KeyError, TypeError or AttributeError if a value is wrong."""
    sha256, size, media_type = read_digest(value["digest"]), value["size"], value["mediaType"]
    title = (value.get("annotations") or {}).get(TITLE, "")
    if type(size) is not int or size < 0:  # `type`, because True is an int too
        raise ValueError("a size that is no whole number")
    if not isinstance(media_type, str) or not isinstance(title, str):
        raise ValueError("a media type or title that is no text")
    return Blob(sha256, size, media_type, title)


def _check_titles(titles: list[str], source: str) -> None:
    """Refuse paths that leave the bundle, occur twice, or would be one file on a system that ignores case."""
    seen: set[str] = set()
    for title in titles:
        if not is_inside(title):
            raise _refused(source, f"the path {title!r:.300}, which leaves the bundle", "paths inside the bundle")
        if title.casefold() in seen:
            raise _refused(source, f"the path {title!r:.300} twice, or in two cases", "different paths")
        seen.add(title.casefold())
    folders = {
        "/".join(parts[:count]) for parts in (name.split("/") for name in seen) for count in range(1, len(parts))
    }
    if folders & seen:
        raise _refused(source, f"the file {min(folders & seen)!r:.300}, which is a folder too", "different paths")
    if MANIFEST not in titles:
        raise _refused(source, f"no {MANIFEST}", "the files of a bundle")


def _check_sizes(layers: tuple[Blob, ...], source: str) -> None:
    for layer in layers:
        limit = OWN_FILES.get(layer.title, FILE_LIMIT)
        if layer.bytes > limit:
            raise _refused(source, f"{layer.bytes} bytes of {layer.title}", f"at most {limit}")
    total = sum(layer.bytes for layer in layers)
    if total > TOTAL_LIMIT:
        raise _refused(source, f"{total} bytes", f"at most {TOTAL_LIMIT} in all")


def _refused(source: str, problem: str, expected: str) -> BundleError:
    return BundleError(source, found=problem, expected=expected, action="check the name, and who owns the registry")
