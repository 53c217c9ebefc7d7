"""The manifest of a bundle: validated records of everything in `manifest.json`, and its reader and writer.

A manifest is read in this order: size limit, signature (on request), JSON, format, format version, the manifest's own
hash, records. Only then are the bundle's files opened. docs/formats-policy.md states when a version is bumped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.certificate import TOLERANCES, Certificate
from cmdiad_runtime.bundle.integrity import MANIFEST, MANIFEST_LIMIT, FileRecord, damaged, too_large
from cmdiad_runtime.bundle.search_record import PlanRecord
from cmdiad_runtime.bundle.signature import SIGNATURE, verify_signature
from cmdiad_runtime.engines.fingerprint import EngineFingerprint
from cmdiad_runtime.engines.graph_file import joint_digest
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.files import is_sha256, sha256_of, write_json
from cmdiad_runtime.support.records import (
    NewerRecordError,
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_integer,
    require_object,
    require_text,
)

FORMAT = "cmdiad-bundle"
FORMAT_VERSION = 1
GRAPH = "graph.onnx"
WEIGHTS = "graph.weights"
GOLDEN = "golden.npz"
ENGINES = "engines"

_PREPROCESSING_OF_EVERY_BUNDLE = [
    "modality",
    "size",
    "pad_multiple",
    "colour",
    "rgb_mask",
    "foreground",
    "groups",
    "group_size",
    "grid",
    "seed",
]
"""Fields that every version of cmdiad wrote. A default in place of a lost one would change verdicts."""


@dataclass(frozen=True)
class GraphRecord:
    """The graph of a bundle.

    Attributes:
        file: Name of the ONNX file, always `graph.onnx`.
        sha256: `joint_digest` of the ONNX file and the weights next to it.
        precision: Precision of the graph, "fp32", "fp16", "int8", "int8-cpu" or "fp8".
        banks: Rows and channels of each memory bank; empty for a detector without banks.
        opset: ONNX opset, or None in older bundles.
        fp32_islands: Names of the modules that compute in fp32 in a graph of lower precision.
        widened: Steps that added fp32 islands, as the export wrote them.
        search: Scratch memory of the search and its budget, as the export wrote them; None without a bank.
    """

    file: str
    sha256: str
    precision: str
    banks: tuple[tuple[int, int], ...] = ()
    opset: int | None = None
    fp32_islands: tuple[str, ...] = ()
    widened: tuple[dict[str, Any], ...] = ()
    search: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require(self.file == GRAPH, self, "file", GRAPH)
        require(is_sha256(self.sha256), self, "sha256", "64 lower-case hexadecimal digits")
        require(self.precision in tuple(TOLERANCES), self, "precision", f"one of {', '.join(TOLERANCES)}")
        for name in ("banks", "fp32_islands", "widened"):
            make_tuple(self, name)
        require(all(map(_is_shape, self.banks)), self, "banks", "a list of rows and channels")
        require(all(isinstance(name, str) for name in self.fp32_islands), self, "fp32_islands", "a list of names")
        require(all(isinstance(step, dict) for step in self.widened), self, "widened", "a list of objects")
        if self.opset is not None:
            require_integer(self, "opset", 1, 1000)
        if self.search is not None:
            require_object(self, "search")

    @staticmethod
    def from_json(value: object) -> GraphRecord:
        """Read a graph record from parsed JSON; RecordError if a value is missing or wrong."""
        return GraphRecord(**fields_from_json(GraphRecord, value))


@dataclass(frozen=True)
class EngineRecord:
    """An engine file that came with a bundle.

    Attributes:
        file: Path of the engine file in the bundle.
        fingerprint: Library, device and graph that the engine was built with and for.
    """

    file: str
    fingerprint: EngineFingerprint

    def __post_init__(self) -> None:
        require_text(self, "file")

    @staticmethod
    def from_json(value: object) -> EngineRecord:
        """Read an engine record from parsed JSON; RecordError if a value is missing or wrong."""
        values = fields_from_json(EngineRecord, value)
        return EngineRecord(values["file"], EngineFingerprint.from_json(values["fingerprint"]))

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {"file": self.file, "fingerprint": self.fingerprint.to_json()}


@dataclass(frozen=True)
class Provenance:
    """The origin of a detector.

    Attributes:
        parts: Origin of each extractor by name: description, hash of the weights, licence.
        data: Description of the training data; `category` is one of its keys.
        seed: Seed of the training, or None in older bundles.
    """

    parts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        require_object(self, "parts")
        require(all(isinstance(part, dict) for part in self.parts.values()), self, "parts", "objects by name")
        require_object(self, "data")
        category = self.data.get("category")
        require(category is None or isinstance(category, str), self, "data", "a category as text")
        if self.seed is not None:
            require_integer(self, "seed", -(1 << 64), 1 << 64)

    @property
    def category(self) -> str | None:
        """Return the category of the training data, or None if the data has no categories."""
        return self.data.get("category")

    @staticmethod
    def from_json(value: object) -> Provenance:
        """Read a provenance from parsed JSON, where the parts stand next to `data` and `seed`."""
        if not isinstance(value, dict):
            raise RecordError(f"Provenance is {value!r:.60}, not an object")
        own = {name: value[name] for name in ("data", "seed") if name in value}
        return Provenance(parts={name: part for name, part in value.items() if name not in own}, **own)

    def to_json(self) -> dict[str, Any]:
        """Return the provenance as a JSON object."""
        return {**self.parts, "data": self.data, "seed": self.seed}


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`, without format, format version and the manifest's own hash.

    Attributes:
        name: Name of the detector.
        preprocessing: Settings that turn a sample into the graph's inputs.
        graph: Graph and its precision.
        calibration: Thresholds in use.
        certificate: Evidence that the graph computes what the trained detector computes.
        files: Size and hash of every other file, by path in the bundle; empty before `write_manifest`.
        calibration_original: Thresholds that the bundle was exported with, if they were changed since, or None.
        created: Time of the export, ISO 8601 in UTC.
        recipe: Recipe of the detector, opaque to the runtime.
        provenance: Origin of weights and data.
        versions: Versions of the packages that took part.
        engines: Engines that came with the bundle.
        plan: Alternatives that the bundle was chosen from if a budget was given, or None.

    Raises:
        RecordError: Two values contradict each other, or a value has the wrong kind.
    """

    name: str
    preprocessing: Preprocessing
    graph: GraphRecord
    calibration: Calibration
    certificate: Certificate
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    calibration_original: Calibration | None = None
    created: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    versions: dict[str, str] = field(default_factory=dict)
    engines: tuple[EngineRecord, ...] = ()
    plan: PlanRecord | None = None

    def __post_init__(self) -> None:
        require_text(self, "name")
        require_text(self, "created")
        for name in ("recipe", "versions"):
            require_object(self, name)
        require(all(isinstance(v, str) for v in self.versions.values()), self, "versions", "versions as text")
        if self.graph.precision not in self.certificate.tolerances:
            raise RecordError(f"the certificate has no tolerance for {self.graph.precision}")
        for calibration in (self.calibration, self.certified_calibration):
            for name in ("score_threshold", "map_threshold"):
                require(getattr(calibration, name) > 0, calibration, name, "a positive number")

    @property
    def certified_calibration(self) -> Calibration:
        """Return the thresholds that the bundle was exported with, which the certificate refers to."""
        return self.calibration_original or self.calibration

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Manifest:
        """Read a manifest from parsed JSON without its own hash.

        Raises:
            NewerRecordError: An object has an unknown field.
            RecordError: A field is missing, has the wrong kind or is out of range, or two fields contradict each other.
        """
        content = {name: entry for name, entry in value.items() if name not in ("format", "format_version")}
        values = fields_from_json(Manifest, content)
        readers: dict[str, Callable[[Any], Any]] = {
            "preprocessing": _preprocessing_from_json,
            "graph": GraphRecord.from_json,
            "calibration": Calibration.from_json,
            "calibration_original": Calibration.from_json,
            "certificate": Certificate.from_json,
            "files": _files_from_json,
            "provenance": Provenance.from_json,
            "engines": _engines_from_json,
            "plan": PlanRecord.from_json,
        }
        return Manifest(**{name: readers[name](entry) if name in readers else entry for name, entry in values.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as a JSON object, without format, format version and hash."""
        content = {
            "name": self.name,
            "created": self.created,
            "recipe": self.recipe,
            "preprocessing": self.preprocessing.to_json(),
            "graph": asdict(self.graph),
            "calibration": self.calibration.to_json(),
            "certificate": asdict(self.certificate),
            "provenance": self.provenance.to_json(),
            "versions": self.versions,
            "engines": [engine.to_json() for engine in self.engines],
            "files": {name: asdict(record) for name, record in self.files.items()},
        }
        if self.plan is not None:
            content["plan"] = asdict(self.plan)
        if self.calibration_original is not None:
            content["calibration_original"] = self.calibration_original.to_json()
        return content

    def check_listed(self, *, weights: bool) -> None:
        """Raise RecordError unless the graph, the golden set and all engines are among the files.

        Also compare the graph's hash with the hashes of its files.

        Args:
            weights: True if the bundle has a file of weights next to the graph.
        """
        for name in (GRAPH, GOLDEN, *([WEIGHTS] if weights else []), *(engine.file for engine in self.engines)):
            if name not in self.files:
                raise RecordError(f"no {name} among its files")
        stored = self.files.get(WEIGHTS)
        digest = joint_digest(self.files[GRAPH].sha256, stored.sha256 if stored else None)
        if self.graph.sha256 != digest:
            raise RecordError(f"GraphRecord.sha256 is {self.graph.sha256}, but the graph files have {digest}")


def read_manifest(folder: Path, public_key: str | PathLike[str] | None = None) -> tuple[Manifest, dict[str, Any]]:
    """Read `manifest.json` of a bundle.

    Args:
        folder: Folder of the bundle.
        public_key: PEM file of the key that must have signed the manifest; checked before the content is parsed.

    Returns:
        The validated manifest, and the same content as parsed JSON without the manifest's own hash.

    Raises:
        BundleError: The manifest is missing, damaged, made by a newer cmdiad, or not signed by the key.
        EngineError: A signature is required and the package that verifies signatures is missing.
    """
    path = folder / MANIFEST
    content = _read_bytes(folder)
    if public_key is not None:
        verify_signature(folder, content, Path(public_key))
    try:
        parsed, intact = _parse(content)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no readable JSON ({error})") from error
    if parsed.get("format") != FORMAT:
        raise damaged(path, "another kind of file")
    version = parsed.get("format_version")
    if type(version) is not int or version > FORMAT_VERSION:  # `type`, because True is an int too
        raise _newer(path, f"bundle format {version!s:.40}", f"format {FORMAT_VERSION} or older")
    if version < 1:
        raise damaged(path, f"bundle format {version}")
    if not intact:
        raise damaged(path, "contents that do not match its own hash")
    try:
        return Manifest.from_json(parsed), parsed
    except NewerRecordError as error:
        raise _newer(path, f"a field that this version does not know ({error})", "only known fields") from error
    except (RecordError, RecursionError) as error:
        raise damaged(path, f"a wrong or missing value ({error})") from error


def write_manifest(folder: Path, manifest: Manifest | Mapping[str, Any]) -> None:
    """Write `manifest.json` with the hash and size of every other file in the folder, and the manifest's own hash.

    Args:
        folder: Folder of the bundle, with all its other files.
        manifest: Content of the manifest. `files` is replaced.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, SIGNATURE))
    files = {p.relative_to(folder).as_posix(): {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in paths}
    content = manifest.to_json() if isinstance(manifest, Manifest) else manifest
    write_content(folder, {"format": FORMAT, "format_version": FORMAT_VERSION, **content, "files": files})


def write_content(folder: Path, content: Mapping[str, Any]) -> None:
    """Write parsed JSON as `manifest.json`, with the manifest's own hash.

    Raises:
        OutputError: The file cannot be written.
    """
    write_json(folder / MANIFEST, {**content, "manifest_sha256": manifest_hash(content)})


def manifest_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own hash: of its JSON with sorted keys and without spaces."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def _read_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_LIMIT + 1)
    except FileNotFoundError as error:
        raise BundleError(
            folder,
            found="no manifest.json",
            expected="a bundle written by cmdiad-export",
            action="check the path, or export the run again",
        ) from error
    except OSError as error:
        raise damaged(path, f"no readable file ({error})") from error
    if len(content) > MANIFEST_LIMIT:
        raise too_large(path, f"more than {MANIFEST_LIMIT} bytes", f"at most {MANIFEST_LIMIT}")
    return content


def _parse(content: bytes) -> tuple[dict[str, Any], bool]:
    """Return the manifest without its own hash, and True if that hash is right; ({}, False) for another JSON value."""
    manifest = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    if not isinstance(manifest, dict):
        return {}, False
    claimed = manifest.pop("manifest_sha256", None)
    return manifest, claimed == manifest_hash(manifest)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _newer(path: Path, problem: str, expected: str) -> BundleError:
    return BundleError(
        path,
        found=problem,
        expected=expected,
        action="the bundle was made by a newer cmdiad: update cmdiad on this machine (pip install -U cmdiad)",
    )


def _preprocessing_from_json(value: object) -> Preprocessing:
    missing = [name for name in _PREPROCESSING_OF_EVERY_BUNDLE if isinstance(value, dict) and name not in value]
    if missing:
        raise RecordError(f"Preprocessing has no field {', '.join(missing)}")
    return Preprocessing.from_json(value)


def _files_from_json(value: object) -> dict[str, FileRecord]:
    if not isinstance(value, dict):
        raise RecordError(f"Manifest.files is {value!r:.60}, expected an object")
    return {name: FileRecord.from_json(record) for name, record in value.items()}


def _engines_from_json(value: object) -> tuple[EngineRecord, ...]:
    if not isinstance(value, list):
        raise RecordError(f"Manifest.engines is {value!r:.60}, expected a list")
    return tuple(map(EngineRecord.from_json, value))


def _is_shape(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(n) is int and n >= 0 for n in value)
