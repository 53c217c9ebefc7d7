"""The run directory: what training leaves for export. Safetensors and JSON, each file whole or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.sample import Modality
from cmdiad_runtime.support.files import atomic_write, write_json
from cmdiad_runtime.support.records import RecordError
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.hallucination import FeatureToFeature, FeatureToInput, InputToFeature, Network
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.detectors.bank.patches import Extractor, Hallucinated, PatchFeatures, shows_part_alone
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.recipe import Recipe, SurfaceExtractor

FORMAT = "cmdiad-run"
FORMAT_VERSION = 2
"""1 kept principal components in the banks."""
QUANTISATION = "quantisation.safetensors"
HELD_OUT = "held_out.safetensors"
BANK_NAMES = ("main", "xyz", "rgb", "fusion")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        record: `run.json`: recipe, data, seed, provenance, versions.
        recipe: what the detector is made of.
        preprocessing: what turns samples into its inputs.
        calibration: thresholds.
        detector: in float32 on the CPU.
        golden: network inputs by sample name, for the certificate.
    """

    path: Path
    record: dict[str, Any]
    recipe: Recipe
    preprocessing: Preprocessing
    calibration: Calibration
    detector: Detector
    golden: dict[str, dict[str, Tensor]]


def load_run(path: Path) -> Run:
    """Load a finished run.

    Raises:
        RunError: it is missing, unfinished, damaged or of a newer format.
    """
    record = read_record(path)
    if record.get("status") != "complete":
        raise RunError(
            path,
            found="an unfinished training",
            expected="a finished run",
            action="run the same cmdiad-train command again; it goes on where it stopped",
        )
    try:
        return _load_finished(path, record)
    except (KeyError, RecordError, TypeError) as error:
        raise _damaged(path, ValueError(f"a missing or unknown field ({error})")) from error


def _load_finished(path: Path, record: dict[str, Any]) -> Run:
    recipe = Recipe.from_json(record["recipe"])
    fusion = read_json(path / "calibration.json")
    features = [
        PatchFeatures(
            load_extractor(path, recipe, modality),
            cut_out=shows_part_alone(recipe, modality),
            basis=load_basis(path, modality),
        )
        for modality in recipe.mains
    ]
    detector = Detector(
        recipe,
        features,
        load_banks(path, recipe),
        load_hallucinated(path, recipe, features[0].grid) if recipe.hallucination != "none" else None,
        torch.tensor(fusion["score_weights"], dtype=torch.float32),
        torch.tensor(fusion["map_weights"], dtype=torch.float32),
    )
    return Run(
        path=path,
        record=record,
        recipe=recipe,
        preprocessing=Preprocessing.from_json(record["preprocessing"]),
        calibration=Calibration(**fusion["calibration"]),
        detector=detector,
        golden=load_golden(path),
    )


def read_record(path: Path) -> dict[str, Any]:
    """`run.json` of a finished or unfinished run."""
    record = read_json(path / "run.json")
    if record.get("format") != FORMAT or record.get("format_version") != FORMAT_VERSION:
        raise RunError(
            path / "run.json",
            found=f"{record.get('format')} {record.get('format_version')}",
            expected=f"{FORMAT} {FORMAT_VERSION}",
            action="update cmdiad, or train again",
        )
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write `run.json`."""
    write_json(path / "run.json", {"format": FORMAT, "format_version": FORMAT_VERSION, **record})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(value, dict):
        raise _damaged(path, ValueError("not a JSON object"))
    return value


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    with atomic_write(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def load_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as stored:
            return stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def build_extractor(recipe: Recipe, modality: Modality) -> Extractor:
    """A modality's extractor with the weights that the recipe names."""
    if modality == "rgb":
        return TimmBackbone(recipe.rgb, size=recipe.size, seed=recipe.seed)
    if isinstance(recipe.xyz, SurfaceExtractor):
        return TimmBackbone(recipe.xyz.backbone, size=recipe.size, seed=recipe.seed)
    return PointMae(recipe.xyz, seed=recipe.seed)


def save_extractor(path: Path, extractor: Extractor, modality: Modality) -> None:
    """Write an extractor's weights as the run's own copy, with their provenance."""
    metadata = {"provenance": extractor.provenance}
    save_tensors(path / f"extractor-{modality}.safetensors", extractor.state_dict(), metadata)


def load_extractor(path: Path, recipe: Recipe, modality: Modality) -> Extractor:
    """An extractor with the run's own copy of its weights; the files the recipe names are not needed."""
    extractor = build_extractor(recipe.without_weights(), modality)
    file = path / f"extractor-{modality}.safetensors"
    _load_state(extractor, load_tensors(file), file)
    extractor.provenance = load_metadata(file).get("provenance", extractor.provenance)
    return extractor


def save_basis(path: Path, basis: Tensor, modality: Modality) -> None:
    """Write the principal components `[C', C]` of a modality's features."""
    save_tensors(path / f"projection-{modality}.safetensors", {"basis": basis})


def load_basis(path: Path, modality: Modality) -> Tensor | None:
    """The principal components of a modality's features, or None where all channels are used."""
    file = path / f"projection-{modality}.safetensors"
    return load_tensors(file)["basis"] if file.exists() else None


def save_network(path: Path, network: Network, grid: int) -> None:
    """Write the distillation network, with the side of the grid of what it hallucinates."""
    metadata = {"grid": str(grid)}
    if isinstance(network, FeatureToInput):
        metadata["fed_grid"] = str(network.grid)
    save_tensors(path / "hallucination.safetensors", network.state_dict(), metadata)


def load_hallucinated(path: Path, recipe: Recipe, main_grid: int) -> Hallucinated:
    """The run's hallucination of the missing modality."""
    file = path / "hallucination.safetensors"
    state, metadata = load_tensors(file), load_metadata(file)
    network = _new_network(state, metadata, recipe)
    _load_state(network, state, file)
    looks = recipe.hallucination == "f2i"
    hallucinated = Hallucinated(
        network,
        main_grid=main_grid,
        grid=int(metadata["grid"]),
        extractor=load_extractor(path, recipe, recipe.other) if looks else None,
        basis=load_basis(path, recipe.other) if looks else None,
        size=recipe.size,
    )
    return hallucinated.eval().requires_grad_(False)


def _new_network(state: dict[str, Tensor], metadata: dict[str, str], recipe: Recipe) -> Network:
    """A distillation network of the sizes of a state."""
    options, out = recipe.distillation, len(state["target_mean"])
    if recipe.hallucination == "f2f":
        width = len(state["norm.weight"])
        return FeatureToFeature(width, out, expansion=options.expansion, output=options.output)
    if recipe.hallucination == "f2i":
        return FeatureToInput(state["conv1.weight"].shape[1], int(metadata["fed_grid"]), recipe.size)
    return InputToFeature(out)


def bank_names(recipe: Recipe) -> list[str]:
    """The names of a detector's banks, in the order of its scorers."""
    if recipe.modality == "both":
        return list(recipe.mains)
    return ["main"] if recipe.hallucination == "none" else ["main", "fusion"]


def save_banks(path: Path, banks: dict[str, MemoryBank]) -> None:
    """Write the memory banks, each under its name."""
    tensors = {}
    for name, bank in banks.items():
        tensors[f"{name}.rows"] = bank.rows
        if bank.neighbours is not None:
            tensors[f"{name}.neighbours"] = bank.neighbours
        tensors[f"{name}.mean"] = torch.tensor(bank.mean, dtype=torch.float64)
        tensors[f"{name}.std"] = torch.tensor(bank.std, dtype=torch.float64)
    save_tensors(path / "banks.safetensors", tensors)


def load_banks(path: Path, recipe: Recipe) -> list[MemoryBank]:
    """The run's memory banks, main first."""
    reweight = recipe.image_score == "reweighted"
    tensors = load_tensors(path / "banks.safetensors")
    return [
        MemoryBank(
            tensors[f"{name}.rows"],
            float(tensors[f"{name}.mean"]),
            float(tensors[f"{name}.std"]),
            tensors[f"{name}.neighbours"] if reweight else None,
        )
        for name in BANK_NAMES
        if f"{name}.rows" in tensors
    ]


def save_calibration(path: Path, calibration: Calibration, score_weights: Tensor, map_weights: Tensor) -> None:
    """Write thresholds, with the held-out scores that they rest on, and fusion weights."""
    write_json(
        path / "calibration.json",
        {
            "calibration": asdict(calibration),
            "score_weights": score_weights.tolist(),
            "map_weights": map_weights.tolist(),
        },
    )


def save_golden(path: Path, golden: dict[str, dict[str, Tensor]]) -> None:
    """Write the golden set's network inputs."""
    _save_inputs(path / "golden.safetensors", golden)


def save_quantisation_inputs(path: Path, inputs: dict[str, dict[str, Tensor]]) -> None:
    """Write the network inputs of training samples that int8 and fp8 are calibrated on."""
    _save_inputs(path / QUANTISATION, inputs)


def load_quantisation_inputs(path: Path) -> dict[str, dict[str, Tensor]]:
    """The network inputs of training samples by sample name.

    Raises:
        RunError: the run is older than quantisation and has none, or they are damaged.
    """
    return _load_later_inputs(
        path / QUANTISATION, "inputs of training samples to calibrate int8 and fp8 on", "export with --engine fp16"
    )


def save_held_out(path: Path, inputs: dict[str, dict[str, Tensor]]) -> None:
    """Write the network inputs of held-out good samples (`NAME-good`) and of tampered copies (`NAME-tampered`)."""
    _save_inputs(path / HELD_OUT, inputs)


def load_held_out(path: Path) -> dict[str, dict[str, Tensor]]:
    """The network inputs of held-out good samples and of tampered copies of them, by sample name.

    Raises:
        RunError: the run is older than `--search fast` and `--plan` and has none, or they are damaged.
    """
    return _load_later_inputs(
        path / HELD_OUT, "inputs of held-out samples to measure a search or a plan on", "export with --search exact"
    )


def _load_later_inputs(file: Path, expected: str, otherwise: str) -> dict[str, dict[str, Tensor]]:
    """Inputs that runs of the first versions do not have."""
    if not file.exists():
        action = f"train again with this version, or {otherwise}"
        raise RunError(file, found="no such file", expected=expected, action=action)
    return _load_inputs(file)


def _save_inputs(file: Path, samples: dict[str, dict[str, Tensor]]) -> None:
    save_tensors(file, {f"{s}:{k}": v for s, inputs in samples.items() for k, v in inputs.items()})


def load_golden(path: Path) -> dict[str, dict[str, Tensor]]:
    """The golden set's network inputs by sample name."""
    return _load_inputs(path / "golden.safetensors")


def _load_inputs(file: Path) -> dict[str, dict[str, Tensor]]:
    samples: dict[str, dict[str, Tensor]] = {}
    for key, value in sorted(load_tensors(file).items()):
        sample, _, name = key.rpartition(":")
        samples.setdefault(sample, {})[name] = value
    return samples


def _load_state(module: torch.nn.Module, state: dict[str, Tensor], file: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise _damaged(file, error) from error


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(
        path,
        found=str(error).splitlines()[0],
        expected="a file of a run written by cmdiad-train",
        action="check the path, or train again",
    )
