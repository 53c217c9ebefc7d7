"""Read and write `patterns.json`, the manifest of a bundle with an ordinary bundle for each pattern of modalities.

It has the name and the hash of each ordinary bundle. A pattern is the set of modalities that a sample has: `rgb`,
`xyz` or `both`. `patterns.json` stands in place of `manifest.json`, so no reader of ordinary bundles takes the folder
for one (docs/bundle.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from cmdiad_runtime.bundle.integrity import MANIFEST_LIMIT, damaged, is_inside
from cmdiad_runtime.bundle.signature import verify_signature
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.names import SENSORS, Sensors
from cmdiad_runtime.support.files import is_sha256, write_json
from cmdiad_runtime.support.pattern_folder import PATTERNS
from cmdiad_runtime.support.records import (
    NewerRecordError,
    RecordError,
    fields_from_json,
    require,
    require_name,
    require_time,
)
from cmdiad_runtime.support.regular_file import read_regular

FORMAT = "cmdiad-pattern-bundle"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class PatternRecord:
    """Folder and hash of the bundle of one pattern.

    Attributes:
        folder: Name of the folder in the folder of `patterns.json`.
        sha256: SHA-256 of the manifest as exported (`manifest_hash`), which contains the hash of every other file. A
            threshold that was changed since does not change this hash.

    Raises:
        RecordError: The name leaves the folder, or the hash has the wrong form.
    """

    folder: str
    sha256: str

    def __post_init__(self) -> None:
        plain = isinstance(self.folder, str) and "/" not in self.folder and is_inside(self.folder)
        require(plain, self, "folder", "the name of a folder")
        require(is_sha256(self.sha256), self, "sha256", "64 lower-case hexadecimal digits")


@dataclass(frozen=True)
class PatternManifest:
    """Validated content of `patterns.json`.

    Attributes:
        name: Name of the detector.
        created: Time of the export, ISO 8601.
        patterns: Bundle of each pattern; all three are there.
        weights: SHA-256 of the weights file next to `patterns.json` that the bundles share (`shared_weights`); None if
            each bundle has its own weights.

    Raises:
        RecordError: A pattern is missing or unknown, two patterns share a folder, or the hash has the wrong form.
    """

    name: str
    created: str
    patterns: Mapping[Sensors, PatternRecord]
    weights: str | None = None

    def __post_init__(self) -> None:
        require_name(self, "name")
        require_time(self, "created")
        require(set(self.patterns) == set(SENSORS), self, "patterns", f"one bundle for each of {', '.join(SENSORS)}")
        folders = {record.folder for record in self.patterns.values()}
        require(len(folders) == len(SENSORS), self, "patterns", "a folder for each pattern")
        known = self.weights is None or is_sha256(self.weights)
        require(known, self, "weights", "64 lower-case hexadecimal digits, or nothing")

    def to_json(self) -> dict[str, Any]:
        """Return the content of `patterns.json`."""
        patterns = {name: asdict(record) for name, record in self.patterns.items()}
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self), "patterns": patterns}
        if self.weights is None:  # earlier versions do not know the field
            del content["weights"]
        return content

    @staticmethod
    def from_json(value: object) -> PatternManifest:
        """Read the content of `patterns.json` without format and version; RecordError if a value is wrong."""
        fields = fields_from_json(PatternManifest, value)
        if not isinstance(fields["patterns"], dict):
            raise RecordError(f"PatternManifest.patterns is {fields['patterns']!r:.60}, expected an object")
        records = {
            name: PatternRecord(**fields_from_json(PatternRecord, record))
            for name, record in fields["patterns"].items()
        }
        return PatternManifest(**{**fields, "patterns": records})


def write_patterns(folder: Path, manifest: PatternManifest) -> None:
    """Write `patterns.json` into a folder that has the bundles already."""
    write_json(folder / PATTERNS, manifest.to_json())


def read_patterns(folder: Path, public_key: str | PathLike[str] | None = None) -> PatternManifest:
    """Read `patterns.json`.

    Args:
        folder: Folder of the bundle for whichever sensors arrive.
        public_key: PEM file of the key that must have signed the file; checked before the content is parsed.

    Raises:
        BundleError: The file is missing, damaged, made by a newer cmdiad, or not signed by the key.
        EngineError: A signature is required and the package that verifies signatures is missing.
    """
    path = folder / PATTERNS
    try:
        content = read_regular(path, MANIFEST_LIMIT)
    except OSError as error:
        raise damaged(path, f"no readable file ({error.strerror or error})") from error
    if public_key is not None:
        verify_signature(folder, content, Path(public_key))
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no readable JSON ({error})") from error
    if not isinstance(parsed, dict) or parsed.pop("format", None) != FORMAT:
        raise damaged(path, "another kind of file")
    version = parsed.pop("format_version", None)
    if type(version) is not int or version < 1:  # `type`, because True is an int too
        raise damaged(path, f"format version {version!r:.40}")
    if version > FORMAT_VERSION:
        raise _newer(path, f"format version {version!s:.40}")
    try:
        return PatternManifest.from_json(parsed)
    except NewerRecordError as error:
        raise _newer(path, f"a field that this version does not know ({error})") from error
    except (RecordError, RecursionError) as error:
        raise damaged(path, f"a wrong or missing value ({error})") from error


def _newer(path: Path, problem: str) -> BundleError:
    return BundleError(
        path,
        found=problem,
        expected=f"version {FORMAT_VERSION} with known fields",
        action="the bundle was made by a newer cmdiad: update cmdiad on this machine (pip install -U cmdiad)",
    )
