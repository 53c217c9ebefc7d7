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
from cmdiad_runtime.bundle.certificate import Certificate
from cmdiad_runtime.bundle.integrity import MANIFEST, MANIFEST_LIMIT, SIGNATURE, FileRecord, damaged, too_large
from cmdiad_runtime.bundle.manifest_records import (
    BatchRecord,
    EngineRecord,
    GraphRecord,
    Provenance,
    stored_preprocessing,
)
from cmdiad_runtime.bundle.search_record import PlanRecord
from cmdiad_runtime.bundle.signature import verify_signature
from cmdiad_runtime.bundle.stored_calibration import stored_calibration
from cmdiad_runtime.engines.graph_file import WEIGHTS, joint_digest
from cmdiad_runtime.envelope.names import CHECKS
from cmdiad_runtime.envelope.record import Envelope
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.names import SENSORS
from cmdiad_runtime.preprocess.inspected_area.records import InspectedArea
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.files import sha256_of, write_json
from cmdiad_runtime.support.pattern_folder import bundles_inside, is_pattern_bundle
from cmdiad_runtime.support.records import (
    NewerRecordError,
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_instance,
    require_name,
    require_object,
    require_time,
)
from cmdiad_runtime.support.regular_file import read_regular

FORMAT = "cmdiad-bundle"
FORMAT_VERSION = 1
GOLDEN = "golden.npz"
ENGINES = "engines"


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`, without format, format version and the manifest's own hash.

    Attributes:
        name: Name of the detector, without control characters.
        preprocessing: Settings that turn a sample into the graph's inputs.
        graph: Graph and its precision.
        calibration: Thresholds in use.
        certificate: Evidence that the graph computes what the trained detector computes.
        files: Size and hash of every other file, by path in the bundle; empty before `write_manifest`.
        calibration_original: Thresholds that the bundle was exported with, if they were changed since, or None.
        created: Time of the export, ISO 8601 in UTC; "" if unknown.
        recipe: Recipe of the detector, opaque to the runtime.
        provenance: Origin of weights and data.
        versions: Versions of the packages that took part.
        engines: Engines that came with the bundle.
        plan: Alternatives that the bundle was chosen from if a budget was given, or None.
        inspected_area: Area that the detector inspects, with the limits of good samples; None in older bundles.
        envelope: Recording conditions of the training samples, or None in bundles of earlier versions.
        envelope_off_original: Checks that were switched off when the bundle was exported, if that was changed since,
            or None.
        batch: Graph that runs several samples at once, or None.

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
    inspected_area: InspectedArea | None = None
    envelope: Envelope | None = None
    envelope_off_original: tuple[str, ...] | None = None
    batch: BatchRecord | None = None

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_records()
        self.preprocessing.check_view()
        precision = self.graph.precision
        if precision not in self.certificate.tolerances:
            raise RecordError(f"the certificate has no tolerance for {precision}")
        if precision not in [comparison.precision for comparison in self.certificate.comparisons]:
            raise RecordError(f"the certificate has no comparison of the {precision} graph")
        if self.batch is not None:
            self._check_batch(self.batch)
        for calibration in (self.calibration, self.certified_calibration):
            for name in ("score_threshold", "map_threshold"):
                require(getattr(calibration, name) > 0, calibration, name, "a positive number")
        exported = self.certified_calibration  # a threshold that was set by hand may reject all held-out parts, or none
        require(0 < exported.false_reject_rate < 1, exported, "false_reject_rate", "a number between 0 and 1")
        require(self.calibration.verdict == exported.verdict, self.calibration, "verdict", exported.verdict)

    def _check_texts(self) -> None:
        require_name(self, "name")
        if self.created != "":
            require_time(self, "created")
        for name in ("recipe", "versions"):
            require_object(self, name)
        require(all(isinstance(v, str) for v in self.versions.values()), self, "versions", "versions as text")

    def _check_records(self) -> None:
        require_instance(self, "preprocessing", Preprocessing)
        require_instance(self, "graph", GraphRecord)
        require_instance(self, "calibration", Calibration)
        require_instance(self, "certificate", Certificate)
        require_instance(self, "provenance", Provenance)
        if self.calibration_original is not None:
            require_instance(self, "calibration_original", Calibration)
        if self.plan is not None:
            require_instance(self, "plan", PlanRecord)
        if self.inspected_area is not None:
            require_instance(self, "inspected_area", InspectedArea)
        if self.envelope is not None:
            require_instance(self, "envelope", Envelope)
        if self.envelope_off_original is not None:
            make_tuple(self, "envelope_off_original")
            known = self.envelope is not None and all(name in CHECKS for name in self.envelope_off_original)
            require(known, self, "envelope_off_original", "names of checks, with an envelope")
        require_object(self, "files")
        require(all(isinstance(f, FileRecord) for f in self.files.values()), self, "files", "a record by file name")
        make_tuple(self, "engines")
        require(all(isinstance(e, EngineRecord) for e in self.engines), self, "engines", "a list of engine records")

    def _check_batch(self, batch: BatchRecord) -> None:
        """Check the evidence for the graph of several samples. A single golden sample shows no error of order."""
        require_instance(self, "batch", BatchRecord)
        precision = self.graph.precision
        require(batch.comparison.precision == precision, batch, "comparison", f"a comparison of a graph in {precision}")
        self.certificate.check_passed(batch.comparison)
        require(self.certificate.samples > 1, self.certificate, "samples", "at least 2 with a graph of several samples")

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
            "preprocessing": stored_preprocessing,
            "graph": GraphRecord.from_json,
            "calibration": stored_calibration,
            "calibration_original": stored_calibration,
            "certificate": Certificate.from_json,
            "files": _files_from_json,
            "provenance": Provenance.from_json,
            "engines": _engines_from_json,
            "plan": PlanRecord.from_json,
            "inspected_area": InspectedArea.from_json,
            "envelope": Envelope.from_json,
            "batch": BatchRecord.from_json,
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
        if self.inspected_area is not None:
            content["inspected_area"] = self.inspected_area.to_json()
        if self.calibration_original is not None:
            content["calibration_original"] = self.calibration_original.to_json()
        if self.envelope is not None:
            content["envelope"] = self.envelope.to_json()
        if self.envelope_off_original is not None:
            content["envelope_off_original"] = list(self.envelope_off_original)
        if self.batch is not None:
            content["batch"] = asdict(self.batch)
        return content

    def check_listed(self, *, weights: bool) -> None:
        """Raise RecordError unless all graphs, the golden set and all engines are among the files.

        Also compare the hash of each graph with the hashes of its files.

        Args:
            weights: True if the graph has a weights file (`weights_path`).
        """
        graphs: list[GraphRecord | BatchRecord] = [self.graph, *([] if self.batch is None else [self.batch])]
        needed = [*(graph.file for graph in graphs), GOLDEN, *([WEIGHTS] if weights else [])]
        for name in (*needed, *(engine.file for engine in self.engines)):
            if name not in self.files:
                raise RecordError(f"no {name} among its files")
        stored = self.files.get(WEIGHTS)
        for graph in graphs:
            digest = joint_digest(self.files[graph.file].sha256, stored.sha256 if stored else None)
            if graph.sha256 != digest:
                raise RecordError(f"{type(graph).__name__}.sha256 is {graph.sha256}, but the files have {digest}")


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
    if type(version) is not int or version < 1:  # `type`, because True is an int too
        raise damaged(path, f"bundle format {version!r:.40}")
    if version > FORMAT_VERSION:
        raise _newer(path, f"bundle format {version!s:.40}", f"format {FORMAT_VERSION} or older")
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
        content = read_regular(path, MANIFEST_LIMIT)
    except FileNotFoundError as error:
        if is_pattern_bundle(folder):
            raise _of_all_patterns(folder) from error
        raise BundleError(
            folder,
            found="no manifest.json",
            expected="a bundle written by cmdiad-export",
            action="check the path, or export the run again",
        ) from error
    except PermissionError as error:
        action = "allow this account to read the bundle"
        raise BundleError(path, found="permission denied", expected="a readable bundle", action=action) from error
    except OSError as error:
        raise damaged(path, f"no readable file ({error.strerror or error})") from error
    if len(content) > MANIFEST_LIMIT:
        raise too_large(path, f"more than {MANIFEST_LIMIT} bytes", f"at most {MANIFEST_LIMIT}")
    return content


def _of_all_patterns(folder: Path) -> BundleError:
    """Return the error for a bundle for whichever sensors arrive where one of its bundles is needed."""
    inside = ", ".join(str(path) for path in bundles_inside(folder)[: len(SENSORS)])
    return BundleError(
        folder,
        found="a bundle for whichever sensors arrive (cmdiad-train --modality any)",
        expected="a bundle for one pattern of modalities",
        action=f"pass the bundle of one pattern: {inside or 'the folder has none'}",
    )


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


def _files_from_json(value: object) -> dict[str, FileRecord]:
    if not isinstance(value, dict):
        raise RecordError(f"Manifest.files is {value!r:.60}, expected an object")
    return {name: FileRecord.from_json(record) for name, record in value.items()}


def _engines_from_json(value: object) -> tuple[EngineRecord, ...]:
    if not isinstance(value, list):
        raise RecordError(f"Manifest.engines is {value!r:.60}, expected a list")
    return tuple(map(EngineRecord.from_json, value))
