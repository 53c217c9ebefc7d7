"""Files of a Shape-Guided detector in a run directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cmdiad_train.detectors.shape_guided.detector import ShapeGuided
from cmdiad_train.detectors.shape_guided.guided_detector import Alignment, GuidedShapes
from cmdiad_train.detectors.shape_guided.networks.encoder import CODE
from cmdiad_train.detectors.shape_guided.networks.image_features import ImageFeatures
from cmdiad_train.detectors.shape_guided.networks.image_memory import ImageRows
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork
from cmdiad_train.recipe import Recipe, RgbExtractor, shape_guided_part
from cmdiad_train.runs.mask import load_kept
from cmdiad_train.runs.tensors import damaged, load_metadata, load_state, load_tensors, save_tensors

NETWORK = "shape-network.safetensors"
EXTRACTOR = "image-network.safetensors"
MEMORY = "memory.safetensors"
_CODES, _ROWS, _LISTING, _ALIGNMENT = "codes", "rows", "listing", "alignment"
_PROVENANCE = "provenance"


def load(run: Path, recipe: Recipe) -> ShapeGuided | GuidedShapes:
    """Load the detector of a finished run.

    Raises:
        RunError: A file is missing or damaged.
    """
    network, kept = new_network(recipe), load_kept(run, recipe)
    load_state(network, load_tensors(run / NETWORK), run / NETWORK)
    shape = ShapeGuided(recipe, network.eval(), load_codes(run), kept)
    if recipe.modality == "xyz":
        return shape
    features = load_features(run, recipe)
    stored, alignment = _load_images(run, features, len(shape.memory.rows))
    return GuidedShapes(recipe, shape, features, stored, alignment, kept)


def new_network(recipe: Recipe) -> ShapeNetwork:
    """Return untrained, seeded networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return ShapeNetwork(shape_guided_part(recipe).decoder_width)


def new_features(recipe: Recipe) -> ImageFeatures:
    """Return the image network with the weights that the recipe names.

    Raises:
        RunError: The weights are missing or do not fit, or the view does not suit the network.
    """
    return _features(recipe, _image_network(recipe))


def save_features(run: Path, features: ImageFeatures) -> None:
    """Write the run's copy of the weights of the image network, with their origin."""
    save_tensors(run / EXTRACTOR, features.state_dict(), {_PROVENANCE: features.backbone.provenance})


def load_features(run: Path, recipe: Recipe) -> ImageFeatures:
    """Return the image network with the run's copy of the weights. The file that the recipe names is not needed.

    Raises:
        RunError: The file is missing or damaged.
    """
    file = run / EXTRACTOR
    features = _features(recipe, replace(_image_network(recipe), weights="seeded"))
    load_state(features, load_tensors(file), file)
    try:
        features.backbone.provenance = load_metadata(file)[_PROVENANCE]
    except KeyError as error:
        raise damaged(file, ValueError("no origin of the weights")) from error
    return features


def save_memory(run: Path, codes: Tensor, stored: ImageRows | None, alignment: Alignment | None) -> None:
    """Write what a detector keeps of good samples.

    Args:
        run: Run directory.
        codes: Codes of good patches, float32 `[K, 128]`.
        stored: Image features of good samples; None for clouds alone.
        alignment: Constants of the alignment; None for clouds alone.
    """
    tensors = {_CODES: codes.contiguous()}
    if stored is not None and alignment is not None:
        tensors |= {_ROWS: stored.rows.contiguous(), _LISTING: stored.listing.contiguous()}
        tensors[_ALIGNMENT] = torch.tensor(alignment, dtype=torch.float64)
    save_tensors(run / MEMORY, tensors)


def load_codes(run: Path) -> Tensor:
    """Return the codes float32 `[K, 128]` that `save_memory` wrote.

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


def _load_images(run: Path, features: ImageFeatures, codes: int) -> tuple[ImageRows, Alignment]:
    """Return image features and alignment; RunError if they are missing or do not fit a memory of `codes` codes."""
    file = run / MEMORY
    tensors = load_tensors(file)
    try:
        rows, listing, alignment = (tensors[name] for name in (_ROWS, _LISTING, _ALIGNMENT))
    except KeyError as error:
        raise damaged(file, ValueError(f"no tensor {error}")) from error
    kinds = rows.dtype, listing.dtype, alignment.dtype
    if kinds != (torch.float32, torch.int32, torch.float64) or rows.dim() != 2 or alignment.shape != (3,):
        raise damaged(file, ValueError("image features of another kind"))
    if rows.shape[1] != features.backbone.width or not len(rows) or listing.dim() != 2 or len(listing) != len(rows):
        raise damaged(file, ValueError("image features of another shape"))
    if not listing.shape[1] or int(listing.min()) < 0 or int(listing.max()) >= codes:
        raise damaged(file, ValueError("image features of patches that are not in the memory"))
    if not bool(torch.isfinite(rows).all() and torch.isfinite(alignment).all()):
        raise damaged(file, ValueError("image features that are not finite"))
    return ImageRows(rows, listing), Alignment(*alignment.tolist())


def _features(recipe: Recipe, spec: RgbExtractor) -> ImageFeatures:
    return ImageFeatures(recipe, spec, published=shape_guided_part(recipe).mode == "faithful")


def _image_network(recipe: Recipe) -> RgbExtractor:
    spec = shape_guided_part(recipe).rgb
    if spec is None:
        raise TypeError("a recipe of clouds alone")
    return spec
