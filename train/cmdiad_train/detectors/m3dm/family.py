"""The family M3DM: memory banks of image and cloud, and a third one of features that a network fuses of both."""

from __future__ import annotations

from cmdiad_train.detectors.bank.preprocessing import make_preprocessing
from cmdiad_train.detectors.bank.run_files import build_extractor
from cmdiad_train.detectors.family import Family
from cmdiad_train.detectors.m3dm.fitting.fit import PAIRED, fit
from cmdiad_train.detectors.m3dm.networks.fused_features import fused_grid
from cmdiad_train.detectors.m3dm.options import OPTIONS
from cmdiad_train.detectors.m3dm.preprocessing import preferred_view
from cmdiad_train.detectors.m3dm.recipe_options import idle_options, recipe_from, remarks
from cmdiad_train.detectors.m3dm.run_files import load, new_network
from cmdiad_train.detectors.network_size import CHECKPOINT_COPIES, network_bytes
from cmdiad_train.recipe import M3dmRecipe, Recipe, m3dm_part


def check_weights(recipe: Recipe) -> int:
    """Build all networks once, so that missing weights and unlike grids are reported early; return their size."""
    part = m3dm_part(recipe)
    extractors = {modality: build_extractor(recipe, modality) for modality in PAIRED}
    size = network_bytes(*extractors.values())
    if part.feature_fusion == "none":
        return size
    fused_grid([made.grid for made in extractors.values()])
    most = part.components
    xyz, rgb = (made.width if most is None else min(most, made.width) for made in extractors.values())
    return size + (1 + CHECKPOINT_COPIES) * network_bytes(new_network(recipe, (xyz, rgb)))


def run_name(recipe: Recipe) -> str:
    """Return "m3dm", or "m3dm-two-banks" without fused features."""
    return M3dmRecipe.family if m3dm_part(recipe).feature_fusion == "uff" else f"{M3dmRecipe.family}-two-banks"


M3DM = Family(
    name=M3dmRecipe.family,
    part=M3dmRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    idle=idle_options,
    preprocessing=make_preprocessing,
    fit=fit,
    load=load,
    preferred_view=preferred_view,
    trained_modality=lambda recipe: "both",
    run_name=run_name,
    scores_training=lambda recipe: m3dm_part(recipe).mode != "faithful",
    check=check_weights,
)
