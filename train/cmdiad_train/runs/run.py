"""A finished run: what training leaves for export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.stored_calibration import stored_calibration
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.records import NewerRecordError, RecordError
from cmdiad_train.detectors.family import Family, TrainedDetector
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.record import RunRecord, read_record
from cmdiad_train.runs.stored_samples import StoredSample, load_samples
from cmdiad_train.runs.tensors import damaged, read_json

CALIBRATION = "calibration.json"
GOLDEN = "golden.safetensors"
QUANTISATION = "quantisation.safetensors"
HELD_OUT = "held_out.safetensors"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: Folder of the run.
        record: Contents of `run.json`: recipe, data, seed, provenance, versions.
        calibration: Thresholds.
        detector: Detector in fp32 on the CPU.
        golden: Samples of the certificate.
        recipe: Recipe of the detector. Differs from `record.recipe` only if export changes the detector.
    """

    path: Path
    record: RunRecord
    calibration: Calibration
    detector: TrainedDetector
    golden: tuple[StoredSample, ...]
    recipe: Recipe

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that turns samples into inputs of the detector."""
        return self.record.preprocessing

    @property
    def family(self) -> Family:
        """Return the family of the detector."""
        return family_of(self.recipe.family)


def load_run(path: Path) -> Run:
    """Load a finished run.

    Raises:
        RunError: The run is missing, unfinished, damaged or of a newer format.
    """
    record = read_record(path)
    if record.status != "complete":
        raise RunError(
            path,
            found="an unfinished training",
            expected="a finished run",
            action="Run the same cmdiad-train command again to resume",
        )
    calibration = load_calibration(path)
    if calibration.verdict != record.recipe.verdict:
        raise damaged(path / CALIBRATION, ValueError(f"thresholds for another verdict than {record.recipe.verdict}"))
    detector = family_of(record.recipe.family).load(path, record.recipe)
    detector.verdict = record.recipe.verdict
    return Run(
        path=path,
        record=record,
        calibration=calibration,
        detector=detector,
        golden=load_samples(path / GOLDEN),
        recipe=record.recipe,
    )


def save_calibration(run: Path, calibration: Calibration) -> None:
    """Write the thresholds and the held-out scores that they are computed from."""
    write_json(run / CALIBRATION, {"calibration": calibration.to_json()})


def load_calibration(run: Path) -> Calibration:
    """Read the thresholds and the held-out scores of a run.

    Raises:
        RunError: The file is missing or damaged, or a newer cmdiad wrote it.
    """
    file = run / CALIBRATION
    content = read_json(file)
    try:
        return stored_calibration(content.get("calibration"))
    except NewerRecordError as error:
        raise RunError(file, found=f"{error}: made by a newer cmdiad", action="Update cmdiad") from error
    except RecordError as error:
        raise damaged(file, error) from error


def load_quantisation_inputs(run: Path) -> tuple[StoredSample, ...]:
    """Return the training samples that calibrate int8 and fp8, with tampered copies.

    Raises:
        RunError: The run was trained before quantisation existed and has none, or the file is damaged.
    """
    return _load_later_inputs(
        run / QUANTISATION, "inputs of training samples to calibrate int8 and fp8 on", "export with --engine fp16"
    )


def load_held_out(run: Path) -> tuple[StoredSample, ...]:
    """Return held-out good samples and tampered copies.

    Raises:
        RunError: The run was trained before `--search fast` and `--plan` existed and has none, or the file is damaged.
    """
    return _load_later_inputs(
        run / HELD_OUT, "inputs of held-out samples to measure a search or a plan on", "export with --search exact"
    )


def _load_later_inputs(file: Path, expected: str, otherwise: str) -> tuple[StoredSample, ...]:
    """Read inputs that runs of the first versions do not have."""
    if not file.exists():
        action = f"Train again with this version, or {otherwise}"
        raise RunError(file, found="no such file", expected=expected, action=action)
    return load_samples(file)
