"""The bundle: a folder with a manifest, one graph, its golden set and engines. No pickle, every file hashed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.certificate import Tolerance
from cmdiad_runtime.bundle.graph_fit import check_batch_fits, check_graph_fits
from cmdiad_runtime.bundle.integrity import MANIFEST, check_files, damaged
from cmdiad_runtime.bundle.manifest import GOLDEN, Manifest, read_manifest
from cmdiad_runtime.bundle.manifest_records import GRAPH
from cmdiad_runtime.engines.graph_contents import GraphContentError, GraphPorts, check_graph_contents
from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.envelope.names import CHECKS, LEARNT_CHECKS
from cmdiad_runtime.errors import BundleError
from cmdiad_runtime.preprocess.inspected_area.missing import missing_checks, missing_note
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.records import RecordError

_ORIGINAL = "calibration_original"
_ORIGINAL_OFF = "envelope_off_original"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: Folder of the bundle.
        record: Validated content of `manifest.json`.
        manifest: Content of `manifest.json` as parsed JSON, without the manifest's own hash.
        calibration: Thresholds in use; those of the manifest unless they were adjusted for one run.
        ignored_checks: Names of the checks of the recording conditions that are switched off, in the manifest or for
            one run.
    """

    path: Path
    record: Manifest
    manifest: dict[str, Any]
    calibration: Calibration
    ignored_checks: tuple[str, ...] = ()

    @property
    def skipped_checks(self) -> tuple[str, ...]:
        """Return the names of the checks that are not made.

        These are the ignored ones, without envelope all learnt ones, and those of an area without limits.
        """
        without = LEARNT_CHECKS if self.record.envelope is None else ()
        skipped = (name for name in CHECKS if name in without or name in self.ignored_checks)
        return (*skipped, *missing_checks(self.record.inspected_area, self.preprocessing))

    @property
    def area_note(self) -> str:
        """Return the note about an area without limits, or ""."""
        return missing_note(self.record.inspected_area, self.preprocessing)

    @property
    def exported_off(self) -> tuple[str, ...]:
        """Return the names of the checks that were switched off when the bundle was exported."""
        if self.record.envelope_off_original is not None:
            return self.record.envelope_off_original
        return () if self.record.envelope is None else self.record.envelope.off

    @property
    def name(self) -> str:
        """Return the name of the detector."""
        return self.record.name

    @property
    def precision(self) -> str:
        """Return the precision of the graph, "fp32", "fp16", "int8", "int8-cpu" or "fp8"."""
        return self.record.graph.precision

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the settings that turn a sample into the graph's inputs."""
        return self.record.preprocessing

    @property
    def certified_calibration(self) -> Calibration:
        """Return the thresholds that the bundle was exported with, which the certificate refers to."""
        return self.record.certified_calibration

    @property
    def training_doubts(self) -> tuple[str, ...]:
        """Return warnings of the training that concern the verdicts, see `Provenance.doubts`."""
        return self.record.provenance.doubts(len(self.calibration.sessions))

    @property
    def tolerance(self) -> Tolerance:
        """Return the tolerance that the graph was certified to."""
        return self.record.certificate.tolerances[self.precision]

    @property
    def graph(self) -> Path:
        """Return the path of the ONNX file; `weights_path` returns that of the weights of a large graph."""
        return self.path / GRAPH

    @property
    def golden(self) -> Path:
        """Return the path of the golden set."""
        return self.path / GOLDEN

    @staticmethod
    def open(path: str | PathLike[str], *, require_signature: str | PathLike[str] | None = None) -> Bundle:
        """Read and verify a bundle.

        Args:
            path: Folder of the bundle.
            require_signature: Public key (PEM file) whose owner must have signed the manifest; checked before the
                manifest is parsed. None requires no signature.

        Raises:
            BundleError: The bundle is missing or damaged (any value or file), was made by a newer cmdiad, exceeds a
                size limit, contains a file that the manifest does not list, or a link, pipe or device, has a graph
                with data elsewhere, or its signature is missing or wrong.
            EngineError: A signature is required and the package that verifies signatures is missing.
        """
        folder = Path(path)
        record, content = read_manifest(folder, require_signature)
        try:
            record.check_listed(weights=weights_path(folder / GRAPH).exists())
        except RecordError as error:
            raise damaged(folder / MANIFEST, str(error)) from error
        check_files(folder, record.files)
        ports = _ports_of(folder, GRAPH)
        try:
            check_graph_fits(ports, record)
            if record.batch is not None:
                check_batch_fits(_ports_of(folder, record.batch.file), ports, record.batch.size)
        except RecordError as error:
            raise damaged(folder / MANIFEST, str(error)) from error
        ignored = () if record.envelope is None else record.envelope.off
        return Bundle(folder, record, content, record.calibration, ignored)


def _ports_of(folder: Path, graph: str) -> GraphPorts:
    """Return the inputs and outputs of a graph of a bundle, after a check of its contents."""
    try:
        return check_graph_contents(folder / graph, weights_path(folder / GRAPH))
    except (GraphContentError, OSError) as error:
        raise damaged(folder / graph, str(error)) from error


def with_calibration(bundle: Bundle, calibration: Calibration) -> dict[str, Any]:
    """Return the content of the manifest with another calibration. The exported one is kept as `calibration_original`.

    The content with the exported calibration is that of the exported manifest, byte for byte.
    """
    content = {**bundle.manifest, "calibration": bundle.manifest.get(_ORIGINAL, bundle.manifest["calibration"])}
    content.pop(_ORIGINAL, None)
    if calibration != bundle.certified_calibration:
        content |= {"calibration": calibration.to_json(), _ORIGINAL: content["calibration"]}
    return content


def with_ignored_checks(bundle: Bundle, content: Mapping[str, Any], checks: Collection[str]) -> dict[str, Any]:
    """Return the content of the manifest with other checks switched off.

    The checks that were switched off at training are kept as `envelope_off_original`, so that they can be restored.

    Args:
        bundle: Verified bundle.
        content: Content of the manifest, which may have another calibration already.
        checks: Names of the checks that are switched off.

    Raises:
        BundleError: The bundle has no envelope, and a check is switched off.
    """
    if bundle.record.envelope is None:
        if not checks:
            return dict(content)
        raise BundleError(
            bundle.path,
            found="no envelope: an earlier cmdiad exported the bundle",
            expected="a bundle with checks that can be switched off",
            action="train and export again",
        )
    off, exported = [name for name in CHECKS if name in checks], list(bundle.exported_off)
    changed = {**content, "envelope": {**content["envelope"], "off": off}}
    changed.pop(_ORIGINAL_OFF, None)
    return changed if off == exported else {**changed, _ORIGINAL_OFF: exported}
