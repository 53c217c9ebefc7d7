"""The family of crossmodal feature mapping: a part is anomalous where image and cloud do not follow from each other."""

from __future__ import annotations

from cmdiad_train.detectors.cfm.features import Extractors
from cmdiad_train.detectors.cfm.fitting.fit import fit
from cmdiad_train.detectors.cfm.options import OPTIONS
from cmdiad_train.detectors.cfm.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.cfm.recipe_options import recipe_from, remarks
from cmdiad_train.detectors.cfm.run_files import load, new_mappings
from cmdiad_train.detectors.family import Family
from cmdiad_train.detectors.network_size import CHECKPOINT_COPIES, network_bytes
from cmdiad_train.recipe import CfmRecipe, Recipe


def check_weights(recipe: Recipe) -> int:
    """Build both extractors once, so that missing weights are reported early; return the size of all networks."""
    extractors = Extractors(recipe)
    mappings = new_mappings(extractors, recipe)
    return network_bytes(extractors) + (1 + CHECKPOINT_COPIES) * network_bytes(mappings)


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
