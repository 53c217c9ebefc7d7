"""Files of an M3DM detector in a run directory: those of its memory banks, and the fusion network."""

from __future__ import annotations

from pathlib import Path

import torch

from cmdiad_runtime.names import Modality
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.detectors.bank.features.patches import PatchFeatures, shows_part_alone
from cmdiad_train.detectors.bank.run_files import BANKS, load_banks, load_basis, load_extractor, load_fusion
from cmdiad_train.detectors.m3dm.networks.fused_features import FusedFeatures
from cmdiad_train.detectors.m3dm.networks.fusion_network import FusionNetwork
from cmdiad_train.recipe import Recipe, m3dm_part
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.tensors import damaged, load_state, load_tensors

NETWORK = "feature-fusion.safetensors"


def load(run: Path, recipe: Recipe) -> Detector:
    """Load the detector of a finished run.

    Raises:
        RunError: A file is missing or damaged.
    """
    features = [load_features(run, recipe, modality) for modality in recipe.mains]
    joined = load_fused(run, recipe, features) if m3dm_part(recipe).feature_fusion == "uff" else None
    banks = load_banks(run, recipe)
    if len(banks) != len(bank_names(recipe)):
        raise damaged(run / BANKS, ValueError(f"{len(banks)} banks, not {len(bank_names(recipe))}"))
    detector = Detector(recipe, features, banks, None, load_kept(run, recipe), joined)
    detector.score_weights, detector.map_weights = load_fusion(run, len(detector.scorers))
    return detector


def bank_names(recipe: Recipe) -> list[str]:
    """Return the names of the banks of a detector, in the order of its scorers."""
    mains: list[str] = list(recipe.mains) if recipe.modality == "both" else ["main"]
    return mains if m3dm_part(recipe).feature_fusion == "none" else [*mains, "fusion"]


def load_features(run: Path, recipe: Recipe, modality: Modality) -> PatchFeatures:
    """Return the patch features of a modality with the run's copies of extractor and principal components."""
    cut_out = shows_part_alone(recipe, modality)
    return PatchFeatures(load_extractor(run, recipe, modality), cut_out=cut_out, basis=load_basis(run, modality))


def load_fused(run: Path, recipe: Recipe, features: list[PatchFeatures]) -> FusedFeatures:
    """Return the fused features of the main modalities, with the trained network of the run.

    Args:
        run: Run directory.
        recipe: Recipe of the run.
        features: Patch features of each main modality.

    Raises:
        RunError: The file of the network is missing or damaged.
    """
    file = run / NETWORK
    state = load_tensors(file)
    try:
        widths = [len(state[f"{modality}_norm.weight"]) for modality in ("xyz", "rgb")]
    except (KeyError, TypeError) as error:
        raise damaged(file, ValueError(f"no tensor {error}")) from error
    network = FusionNetwork(widths[0], widths[1], m3dm_part(recipe).expansion)
    load_state(network, state, file)
    return fused_features(network, recipe, features)


def fused_features(network: FusionNetwork, recipe: Recipe, features: list[PatchFeatures]) -> FusedFeatures:
    """Return the fused features of the main modalities, as a part of the graph without the heads of the network."""
    return FusedFeatures(
        [network.half_of(modality) for modality in recipe.mains],
        [of_modality.grid for of_modality in features],
        cut_out=all(of_modality.cut_out for of_modality in features),
    )


def new_network(recipe: Recipe, widths: tuple[int, int]) -> FusionNetwork:
    """Return an untrained network whose weights follow from the seed of the recipe.

    Args:
        recipe: Recipe of the detector.
        widths: Channels of the features of the cloud and of the image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return FusionNetwork(*widths, m3dm_part(recipe).expansion)
