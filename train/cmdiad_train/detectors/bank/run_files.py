"""Files of a memory bank detector in a run directory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.files import write_json
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.features.compared import Compared
from cmdiad_train.detectors.bank.features.hallucination import FeatureToInput, InputToFeature, Network
from cmdiad_train.detectors.bank.features.patches import Extractor, Hallucinated, PatchFeatures, shows_part_alone
from cmdiad_train.detectors.bank.fitting.uncertainty import LEAST_WEIGHT
from cmdiad_train.detectors.bank.fitting.usual_distance import MOST_CHANGE
from cmdiad_train.detectors.bank.memory_bank import MemoryBank
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.extractors import PointMae, TimmBackbone
from cmdiad_train.recipe import Recipe, Source, SurfaceExtractor, bank_part, has_relative_distances
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.tensors import damaged, load_metadata, load_state, load_tensors, read_json, save_tensors

BANKS = "banks.safetensors"
FUSION = "fusion.json"
FACTORS = "factors.safetensors"
NETWORK = "hallucination.safetensors"
ROW_WEIGHTS = "row-weights.safetensors"
INVERSE = "inverse-hallucination.safetensors"
BANK_NAMES = ("main", "xyz", "rgb", "fusion")
_BANK_TENSORS = (".rows", ".chosen", ".neighbours", ".mean", ".std")


def extractor_file(source: Source) -> str:
    """Return the name of the file with the extractor of a modality, or of the partner."""
    return f"extractor-{source}.safetensors"


def basis_file(source: Source) -> str:
    """Return the name of the file with the principal components of a modality, or of the partner."""
    return f"projection-{source}.safetensors"


def load_detector(run: Path, recipe: Recipe) -> Detector:
    """Load the detector of a finished run.

    Raises:
        RunError: A file is missing or damaged.
    """
    features = [
        PatchFeatures(
            load_extractor(run, recipe, modality),
            cut_out=shows_part_alone(recipe, modality),
            basis=load_basis(run, modality),
        )
        for modality in recipe.mains
    ]
    hallucinates = bank_part(recipe).hallucination != "none"
    hallucinated = load_hallucinated(run, recipe, features[0].grid) if hallucinates else None
    detector = Detector(recipe, features, load_banks(run, recipe), hallucinated, load_kept(run, recipe))
    detector.score_weights, detector.map_weights = load_fusion(run, len(detector.scorers))
    if has_relative_distances(recipe):
        detector.set_factors(load_factors(run, recipe, detector.grids))
    return detector


def build_extractor(recipe: Recipe, source: Source) -> Extractor:
    """Return the extractor of a modality, or of the partner, with the weights that the recipe names."""
    part = bank_part(recipe)
    if source != "xyz":
        return TimmBackbone(part.rgb, size=recipe.size, seed=recipe.seed)
    if isinstance(part.xyz, SurfaceExtractor):
        return TimmBackbone(part.xyz.backbone, size=recipe.size, seed=recipe.seed)
    return PointMae(part.xyz, seed=recipe.seed)


def save_extractor(run: Path, extractor: Extractor, source: Source) -> None:
    """Write the run's copy of an extractor's weights, with their provenance."""
    save_tensors(run / extractor_file(source), extractor.state_dict(), {"provenance": extractor.provenance})


def load_extractor(run: Path, recipe: Recipe, source: Source) -> Extractor:
    """Return an extractor with the run's copy of the weights. The files that the recipe names are not needed."""
    extractor = build_extractor(replace(recipe, detector=bank_part(recipe).without_weights()), source)
    file = run / extractor_file(source)
    load_state(extractor, load_tensors(file), file)
    extractor.provenance = load_metadata(file).get("provenance", extractor.provenance)
    return extractor


def save_basis(run: Path, basis: Tensor, source: Source) -> None:
    """Write the principal components `[C', C]` of the features of a modality, or of the partner."""
    save_tensors(run / basis_file(source), {"basis": basis})


def load_basis(run: Path, source: Source) -> Tensor | None:
    """Return the principal components of the features of a modality or the partner; None if all channels are used."""
    file = run / basis_file(source)
    return load_tensors(file)["basis"] if file.exists() else None


def save_network(run: Path, network: Network, grid: int, main_scale: float | None = None) -> None:
    """Write the distillation network.

    Args:
        run: Run directory.
        network: Trained network.
        grid: Side of the grid of hallucinated features.
        main_scale: Standard deviation of main features for an enhanced bank, else None.
    """
    metadata = {"grid": str(grid)}
    if main_scale is not None:
        metadata["main_scale"] = repr(main_scale)
    if isinstance(network, FeatureToInput):
        metadata["fed_grid"] = str(network.grid)
    save_tensors(run / NETWORK, network.state_dict(), metadata)


def save_inverse(run: Path, inverse: Network) -> None:
    """Write the network from hallucinated features back to main ones."""
    save_tensors(run / INVERSE, inverse.state_dict())


def _load_inverse(run: Path, recipe: Recipe) -> FeatureToFeature | None:
    if bank_part(recipe).residual_map == "none":
        return None
    file, options = run / INVERSE, bank_part(recipe).distillation
    state = load_tensors(file)
    width, out = _width(state, "norm.weight", file), _width(state, "target_mean", file)
    inverse = FeatureToFeature(width, out, expansion=options.expansion, output=options.output)
    load_state(inverse, state, file)
    return inverse


def _width(state: dict[str, Tensor], name: str, file: Path) -> int:
    if name not in state or state[name].ndim != 1:
        raise damaged(file, ValueError(f"no vector {name}"))
    return len(state[name])


def _load_main_scale(metadata: dict[str, str], recipe: Recipe, file: Path) -> float | None:
    if bank_part(recipe).main_bank == "plain":
        return None
    try:
        scale = float(metadata["main_scale"])
    except (KeyError, ValueError) as error:
        raise damaged(file, ValueError("no scale of the main features")) from error
    if not (math.isfinite(scale) and scale > 0):
        raise damaged(file, ValueError(f"the scale {scale} of the main features"))
    return scale


def network_file(run: Path) -> Path:
    """Return the file of the distillation network of a finished run; RunError if it has none."""
    file = run / NETWORK
    if not file.is_file():
        raise RunError(
            run, found="no distillation network", expected="a finished run with one", action="Check --network-from"
        )
    return file


def load_hallucinated(run: Path, recipe: Recipe, main_grid: int) -> Hallucinated:
    """Return the patch features of the missing modality, with the distillation network of the run."""
    file = run / NETWORK
    state, metadata = load_tensors(file), load_metadata(file)
    network = _new_network(state, metadata, recipe)
    load_state(network, state, file)
    sees_input = bank_part(recipe).hallucination == "f2i"
    hallucinated = Hallucinated(
        network,
        main_grid=main_grid,
        grid=int(metadata["grid"]),
        extractor=load_extractor(run, recipe, recipe.other) if sees_input else None,
        basis=load_basis(run, recipe.other) if sees_input else None,
        size=recipe.size,
    )
    hallucinated.compared = Compared(_load_main_scale(metadata, recipe, file), _load_inverse(run, recipe))
    return hallucinated.eval().requires_grad_(False)


def _new_network(state: dict[str, Tensor], metadata: dict[str, str], recipe: Recipe) -> Network:
    """Return a distillation network with the sizes of a state."""
    part, out = bank_part(recipe), len(state["target_mean"])
    if part.hallucination == "f2f":
        width, options = len(state["norm.weight"]), part.distillation
        return FeatureToFeature(
            width,
            out,
            expansion=options.expansion,
            output=options.output,
            context=options.context,
            coordinates=options.coordinates == "cell",
        )
    if part.hallucination == "f2i":
        return FeatureToInput(state["conv1.weight"].shape[1], int(metadata["fed_grid"]), recipe.size)
    return InputToFeature(out)


def bank_names(recipe: Recipe) -> list[str]:
    """Return the names of the banks of a detector, in order."""
    if recipe.modality == "both":
        return list(recipe.mains)
    part = bank_part(recipe)
    return ["main"] if part.hallucination == "none" or part.main_bank == "enhanced" else ["main", "fusion"]


def save_banks(run: Path, banks: dict[str, tuple[MemoryBank, Tensor]]) -> None:
    """Write the memory banks by name, each with the candidate row int64 `[K]` that each of its rows is."""
    tensors = {}
    for name, (bank, chosen) in banks.items():
        tensors[f"{name}.rows"] = bank.rows
        tensors[f"{name}.chosen"] = chosen
        if bank.neighbours is not None:
            tensors[f"{name}.neighbours"] = bank.neighbours
        tensors[f"{name}.mean"] = torch.tensor(bank.mean, dtype=torch.float64)
        tensors[f"{name}.std"] = torch.tensor(bank.std, dtype=torch.float64)
    save_tensors(run / BANKS, tensors)


def load_banks(run: Path, recipe: Recipe) -> list[MemoryBank]:
    """Return the memory banks of a run, main bank first."""
    reweight = bank_part(recipe).image_score != "max"
    tensors = load_tensors(run / BANKS)
    unknown = [name for name in tensors if not name.endswith(_BANK_TENSORS) or name.split(".")[0] not in BANK_NAMES]
    if unknown:
        raise damaged(run / BANKS, ValueError(f"an unknown tensor {unknown[0]!r}"))
    weights = _weights_of_fusion_bank(run, recipe, tensors)
    try:
        return [
            MemoryBank(
                tensors[f"{name}.rows"],
                float(tensors[f"{name}.mean"]),
                float(tensors[f"{name}.std"]),
                tensors[f"{name}.neighbours"] if reweight else None,
                weights if name == "fusion" else None,
            )
            for name in BANK_NAMES
            if f"{name}.rows" in tensors
        ]
    except KeyError as error:
        raise damaged(run / BANKS, ValueError(f"no tensor {error}")) from error


def save_row_weights(run: Path, weights: Tensor) -> None:
    """Write the factors float32 `[n]` of the distances to all candidate rows of the hallucinated bank."""
    save_tensors(run / ROW_WEIGHTS, {"weights": weights})


def load_row_weights(run: Path) -> Tensor | None:
    """Return the factors float32 `[n]` of candidate rows, or None for a run without uncertainty."""
    file = run / ROW_WEIGHTS
    if not file.exists():
        return None
    weights = load_tensors(file).get("weights")
    if weights is None:
        raise damaged(file, ValueError("no weights"))
    return weights


def _weights_of_fusion_bank(run: Path, recipe: Recipe, tensors: dict[str, Tensor]) -> Tensor | None:
    """Return the factors float32 `[K]` of the rows of the hallucinated bank, or None without uncertainty."""
    if bank_part(recipe).uncertainty == "none":
        return None
    file = run / ROW_WEIGHTS
    weights, chosen = load_row_weights(run), tensors.get("fusion.chosen")
    if weights is None or chosen is None or weights.ndim != 1 or chosen.ndim != 1 or not len(chosen):
        raise damaged(file, ValueError("no weight for each row of the bank"))
    if int(chosen.min()) < 0 or int(chosen.max()) >= len(weights):
        raise damaged(file, ValueError("no weight for each row of the bank"))
    if not bool(((weights >= LEAST_WEIGHT) & (weights <= 1)).all()):
        raise damaged(file, ValueError("impossible weights"))
    return weights[chosen]


def load_chosen(run: Path) -> list[Tensor]:
    """Return the candidate row int64 `[K]` that each row of each bank is; empty for runs of earlier versions."""
    tensors = load_tensors(run / BANKS)
    return [tensors[f"{name}.chosen"] for name in BANK_NAMES if f"{name}.chosen" in tensors]


def save_fusion(run: Path, detector: Detector) -> None:
    """Write the fusion weights."""
    weights = {"score_weights": detector.score_weights.tolist(), "map_weights": detector.map_weights.tolist()}
    write_json(run / FUSION, weights)


def save_factors(run: Path, recipe: Recipe, detector: Detector) -> None:
    """Write the factors of relative distances by bank; a detector with plain distances has no such file."""
    factors = dict(zip(bank_names(recipe), detector.factors, strict=True))
    stored = {name: of_bank for name, of_bank in factors.items() if of_bank is not None}
    if stored:
        save_tensors(run / FACTORS, stored)


def load_factors(run: Path, recipe: Recipe, grids: Sequence[int]) -> list[Tensor]:
    """Return the factors float32 `[grid²]` of the relative distances of each bank, in the order of `bank_names`.

    Args:
        run: Run directory.
        recipe: Recipe of the run, with relative distances.
        grids: Side of the grid of each bank.

    Raises:
        RunError: The file is missing or damaged, or a factor lies outside the limits of training.
    """
    tensors, names = load_tensors(run / FACTORS), bank_names(recipe)
    if set(tensors) != set(names):
        raise damaged(run / FACTORS, ValueError(f"factors of {sorted(tensors)}, not of {names}"))
    for name, grid in zip(names, grids, strict=True):
        factors = tensors[name]
        within = (factors >= 1 / MOST_CHANGE) & (factors <= MOST_CHANGE)
        if factors.shape != (grid**2,) or factors.dtype != torch.float32 or not bool(within.all()):
            raise damaged(run / FACTORS, ValueError(f"impossible factors of the bank {name}"))
    return [tensors[name] for name in names]


def load_fusion(run: Path, scorers: int) -> tuple[Tensor, Tensor]:
    """Return the fusion weights of scores and of maps, float32 `[scorers]`; runs of version 2 have them elsewhere."""
    file = run / FUSION
    stored = read_json(file if file.exists() else run / "calibration.json")
    try:
        scores, maps = (torch.tensor(stored[f"{name}_weights"], dtype=torch.float32) for name in ("score", "map"))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(file, ValueError(f"no fusion weights ({error})")) from error
    if not all(weights.shape == (scorers,) and bool(weights.isfinite().all()) for weights in (scores, maps)):
        raise damaged(file, ValueError(f"no finite weight for each of the {scorers} scores"))
    return scores, maps
