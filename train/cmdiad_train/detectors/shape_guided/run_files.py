"""Files of a Shape-Guided detector in a run directory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cmdiad_train.detectors.shape_guided.detector import ShapeGuided
from cmdiad_train.detectors.shape_guided.networks.encoder import CODE
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork
from cmdiad_train.recipe import Recipe, shape_guided_part
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.tensors import damaged, load_state, load_tensors, save_tensors

NETWORK = "shape-network.safetensors"
MEMORY = "memory.safetensors"
_CODES = "codes"


def load(run: Path, recipe: Recipe) -> ShapeGuided:
    """Load the detector of a finished run.

    Raises:
        RunError: A file is missing or damaged.
    """
    network = new_network(recipe)
    load_state(network, load_tensors(run / NETWORK), run / NETWORK)
    return ShapeGuided(recipe, network.eval(), load_codes(run), load_kept(run, recipe))


def new_network(recipe: Recipe) -> ShapeNetwork:
    """Return untrained, seeded networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return ShapeNetwork(shape_guided_part(recipe).decoder_width)


def save_codes(run: Path, codes: Tensor) -> None:
    """Write the codes float32 `[K, 128]` of good patches."""
    save_tensors(run / MEMORY, {_CODES: codes.contiguous()})


def load_codes(run: Path) -> Tensor:
    """Return the codes float32 `[K, 128]` that `save_codes` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    file = run / MEMORY
    codes = load_tensors(file).get(_CODES)
    if codes is None or codes.dtype != torch.float32 or codes.dim() != 2 or codes.shape[1] != CODE or not len(codes):
        raise damaged(file, ValueError("no codes of patches"))
    if not bool(torch.isfinite(codes).all()):
        raise damaged(file, ValueError("codes that are not finite"))
    return codes
