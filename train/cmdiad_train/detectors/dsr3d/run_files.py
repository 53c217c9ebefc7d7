"""Files of a 3DSR detector in a run directory."""

from __future__ import annotations

from pathlib import Path

import torch

from cmdiad_runtime.errors import RunError
from cmdiad_train.detectors.dsr3d.detector import DualSubspaceReprojection
from cmdiad_train.detectors.dsr3d.networks.autoencoder import Autoencoder
from cmdiad_train.detectors.dsr3d.networks.object_networks import ObjectNetworks
from cmdiad_train.detectors.dsr3d.networks.units import published_start
from cmdiad_train.detectors.dsr3d.picture import channels_of
from cmdiad_train.recipe import Recipe, dsr3d_part
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.tensors import load_state, load_tensors, save_tensors

AUTOENCODER = "autoencoder.safetensors"
NETWORKS = "networks.safetensors"
_SHARED = ("mode", "geometry", "width", "codes", "autoencoder_steps")
"""Fields of the recipe that, with the modality, must be those of an autoencoder that is taken over."""


def load(run: Path, recipe: Recipe) -> DualSubspaceReprojection:
    """Load the detector of a finished run.

    Raises:
        RunError: A file is missing or damaged.
    """
    autoencoder, networks = new_autoencoder(recipe), new_networks(recipe)
    load_state(autoencoder, load_tensors(run / AUTOENCODER), run / AUTOENCODER)
    load_state(networks, load_tensors(run / NETWORKS), run / NETWORKS)
    return DualSubspaceReprojection(recipe, autoencoder, networks, load_kept(run, recipe))


def new_autoencoder(recipe: Recipe) -> Autoencoder:
    """Return an untrained, seeded autoencoder."""
    part = dsr3d_part(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        autoencoder = Autoencoder(channels_of(recipe), width=part.width, codes=part.codes)
        if part.mode == "faithful":
            published_start(autoencoder)
    return autoencoder


def new_networks(recipe: Recipe) -> ObjectNetworks:
    """Return untrained, seeded networks of the object."""
    part = dsr3d_part(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        networks = ObjectNetworks(sum(channels_of(recipe)), part.width)
        if part.mode == "faithful":
            published_start(networks.draw)
            published_start(networks.compare)
    return networks


def network_file(run: Path) -> Path:
    """Return the file of the autoencoder of a finished run, which serves all objects; RunError if it has none."""
    file = run / AUTOENCODER
    if not file.is_file():
        raise RunError(run, found="no autoencoder", expected="a finished run with one", action="Check --network-from")
    return file


def take_over(source: Path, run: Path, recipe: Recipe) -> None:
    """Copy the autoencoder of a finished run into another one.

    Raises:
        RunError: The finished run has no autoencoder, or trained its autoencoder with other options.
    """
    file, stored = network_file(source), read_record(source).recipe
    requested = dsr3d_part(recipe)
    different = [name for name in _SHARED if getattr(stored.detector, name, None) != getattr(requested, name)]
    if stored.modality != recipe.modality:
        different.append("modality")
    if different:
        raise RunError(
            source,
            found=f"an autoencoder trained with another {different[0]}",
            expected="an autoencoder trained with the options of this run",
            action="Pass the same options, or train a new autoencoder",
        )
    if not (run / AUTOENCODER).exists():
        save_tensors(run / AUTOENCODER, load_tensors(file))
