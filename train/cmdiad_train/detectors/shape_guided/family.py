"""The family of Shape-Guided detectors: patches of a cloud against the surfaces of codes of good patches."""

from __future__ import annotations

import torch

from cmdiad_train.detectors.family import Family
from cmdiad_train.detectors.network_size import CHECKPOINT_COPIES, network_bytes
from cmdiad_train.detectors.shape_guided.fitting.fit import fit
from cmdiad_train.detectors.shape_guided.options import OPTIONS
from cmdiad_train.detectors.shape_guided.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.shape_guided.recipe_options import idle_options, recipe_from, remarks
from cmdiad_train.detectors.shape_guided.run_files import load, new_features, new_network
from cmdiad_train.recipe import Recipe, ShapeGuidedRecipe


def network_size(recipe: Recipe) -> int:
    """Return the size of the networks in bytes, with the largest checkpoint while it is replaced.

    The image network is built once, so that missing weights are reported early.
    """
    with torch.device("meta"):
        network = new_network(recipe)
    trained = (1 + CHECKPOINT_COPIES) * network_bytes(network)
    return trained if recipe.modality == "xyz" else trained + network_bytes(new_features(recipe))


SHAPE_GUIDED = Family(
    name=ShapeGuidedRecipe.family,
    part=ShapeGuidedRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    idle=idle_options,
    preprocessing=make_preprocessing,
    fit=fit,
    load=load,
    preferred_view=preferred_view,
    check=network_size,
)
