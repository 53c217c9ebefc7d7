"""The family of 3DSR: where the general picture of a sample differs from that of a normal object is an anomaly."""

from __future__ import annotations

import torch

from cmdiad_train.detectors.dsr3d.fitting.fit import fit
from cmdiad_train.detectors.dsr3d.options import OPTIONS
from cmdiad_train.detectors.dsr3d.preprocessing import make_preprocessing, preferred_view
from cmdiad_train.detectors.dsr3d.recipe_options import idle_options, recipe_from, remarks
from cmdiad_train.detectors.dsr3d.run_files import load, network_file, new_autoencoder, new_networks, take_over
from cmdiad_train.detectors.family import Family
from cmdiad_train.detectors.network_size import CHECKPOINT_COPIES, network_bytes
from cmdiad_train.recipe import Dsr3dRecipe, Recipe


def check_size(recipe: Recipe) -> int:
    """Return the size of all networks in bytes, including the largest checkpoint while it is replaced."""
    with torch.device("meta"):
        autoencoder, networks = network_bytes(new_autoencoder(recipe)), network_bytes(new_networks(recipe))
    return autoencoder + networks + CHECKPOINT_COPIES * max(autoencoder, networks)


DSR3D = Family(
    name=Dsr3dRecipe.family,
    part=Dsr3dRecipe,
    options=OPTIONS,
    recipe=recipe_from,
    remarks=remarks,
    idle=idle_options,
    preprocessing=make_preprocessing,
    fit=fit,
    load=load,
    preferred_view=preferred_view,
    network_file=network_file,
    take_over=take_over,
    check=check_size,
)
