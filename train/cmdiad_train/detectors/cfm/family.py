"""The family of crossmodal feature mapping: a part is anomalous where image and cloud do not follow from each other."""

from __future__ import annotations

from cmdiad_train.detectors.cfm.features import Extractors
from cmdiad_train.detectors.cfm.fitting.fit import fit
from cmdiad_train.detectors.cfm.options import OPTIONS
from cmdiad_train.detectors.cfm.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.cfm.recipe_options import recipe_from, remarks
from cmdiad_train.detectors.cfm.run_files import load, new_mappings
from cmdiad_train.detectors.family import Family
from cmdiad_train.recipe import CfmRecipe, Recipe

_CHECKPOINT_PARTS = 8
"""Copies of the mappings in two checkpoints: weights, best weights and two moments of Adam in each."""


def check_weights(recipe: Recipe) -> int:
    """Build both extractors once, so that missing weights are reported early; return the size of all networks."""
    extractors = Extractors(recipe)
    mappings = new_mappings(extractors, recipe)
    sizes = [sum(tensor.nbytes for tensor in network.state_dict().values()) for network in (extractors, mappings)]
    return sizes[0] + (1 + _CHECKPOINT_PARTS) * sizes[1]


CFM = Family(
    name=CfmRecipe.family,
    part=CfmRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    preprocessing=make_preprocessing,
    fit=fit,
    load=load,
    preferred_view=preferred_view,
    check=check_weights,
)
