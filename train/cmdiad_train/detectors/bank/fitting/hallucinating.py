"""Training the distillation network of a memory bank detector, and hallucinated features of training samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import MODALITIES
from cmdiad_train.detectors.bank.features.compared import Patches
from cmdiad_train.detectors.bank.features.hallucination import Network
from cmdiad_train.detectors.bank.features.neighbourhood import (
    cell_places,
    neighbourhoods,
    neighbouring_cells,
    with_places,
)
from cmdiad_train.detectors.bank.features.patches import Hallucinated, PatchFeatures, hallucination_grid, regrid
from cmdiad_train.detectors.bank.fitting.distillation import Pair, Pairs, distil, new_network, target_statistics
from cmdiad_train.detectors.bank.fitting.features import TrainingFeatures
from cmdiad_train.detectors.bank.fitting.uncertainty import log_variances, weights_of
from cmdiad_train.detectors.bank.run_files import (
    INVERSE,
    NETWORK,
    basis_file,
    extractor_file,
    load_hallucinated,
    network_file,
    save_inverse,
    save_network,
)
from cmdiad_train.detectors.feature_mapping import FeatureToFeature
from cmdiad_train.features import extractor_digest, feature_key
from cmdiad_train.features.store import Stored
from cmdiad_train.recipe import PARTNER, Recipe, Source, bank_part
from cmdiad_train.runs.record import read_record
from cmdiad_train.runs.tensors import load_metadata, load_tensors, save_tensors
from cmdiad_train.training.log import write_log
from cmdiad_train.training.loss_plot import plot_losses

CHECKPOINTS = ("distillation.checkpoint.safetensors", "inverse-distillation.checkpoint.safetensors")
_ROWS = ("rows", "residuals")


def hallucinated_features(
    training: TrainingFeatures, main: PatchFeatures, stored: Sequence[Stored]
) -> Hallucinated | None:
    """Return the patch features of the missing modality, or None if the recipe hallucinates nothing.

    Args:
        training: Features of the training samples.
        main: Patch features of the main modality.
        stored: Tensors of the main modality, one per training sample.
    """
    context = training.context
    if training.part.hallucination == "none":
        return None
    other = training.patch_features(training.part.target(context.recipe))
    if not (context.run / NETWORK).exists() or (
        training.part.residual_map != "none" and not (context.run / INVERSE).exists()
    ):
        _train_networks(training, main, stored, other)
    return load_hallucinated(context.run, context.recipe, main.grid)


def hallucinate(
    training: TrainingFeatures, hallucinated: Hallucinated, stored: Sequence[Stored]
) -> list[list[Patches]]:
    """Return what each scorer compares, by scorer and training sample, on the CPU; see `Compared`."""
    context, compared = training.context, hallucinated.compared
    spec = {"device": str(context.device), "family": "bank", "main_scale": compared.main_scale}
    digest = extractor_digest(hallucinated, spec)
    hallucinated.to(context.device)
    by_sample: list[list[Patches]] = []
    for i, sample in enumerate(stored):
        key = feature_key(digest, {}, {}, _content(sample))
        make = partial(_hallucinated_one, hallucinated, sample, context.device)
        made = training.store.get("hallucinated", key, len(stored), make)
        own = [] if compared.enhanced else [(sample["rows"], sample["cells"])]
        by_sample.append([*own, *((made[name], made["cells"]) for name in _ROWS if name in made)])
        context.reporter.step(f"hallucinate {training.part.target(context.recipe)} features", i + 1, len(stored))
    hallucinated.cpu()
    return [list(of_scorer) for of_scorer in zip(*by_sample, strict=True)]


@torch.no_grad()
def _hallucinated_one(hallucinated: Hallucinated, sample: Stored, device: torch.device) -> Stored:
    """Return the rows of each scorer, without those of the main features alone, and their common cells."""
    main = (sample["rows"].to(device), sample["cells"].to(device))
    image = sample["image"].to(device) if "image" in sample else None
    compared = hallucinated.patches(main, image)
    further = compared if hallucinated.compared.enhanced else compared[1:]
    return {**{name: rows for name, (rows, _) in zip(_ROWS, further, strict=False)}, "cells": further[0][1]}


def row_weights(training: TrainingFeatures, main: PatchFeatures, patches: Sequence[Sequence[Patches]]) -> Tensor:
    """Return the factors float32 `[n]` of the distances to the candidate rows of the hallucinated bank.

    Args:
        training: Features of the training samples.
        main: Patch features of the main modality.
        patches: Inspected patch features of the bank of main and that of hallucinated features, by sample.
    """
    recipe, device = training.recipe, training.context.device
    target = training.part.target(recipe)
    other = training.patch_features(target)
    stored = training.of_training(main, recipe.mains[0])
    pairs = _Pairs(stored, training.of_training(other, target), (main.grid, other.grid), recipe)
    network = load_hallucinated(training.context.run, recipe, main.grid).network.to(device)
    assert isinstance(network, FeatureToFeature)
    candidates = []
    for sample, (_, cells), variances in zip(stored, patches[1], log_variances(network, pairs, device), strict=True):
        of_row = torch.full((len(sample["rows"]),), torch.nan, dtype=torch.float64)
        of_row[torch.unique(sample["cells"])] = variances  # the order of the rows in `make_pair`
        candidates.append(of_row[torch.unique(cells)])
    return weights_of(torch.cat(candidates))


def _content(sample: Stored) -> str:
    """Return the SHA-256 digest of all tensors of a sample."""
    digest = hashlib.sha256()
    for _, tensor in sorted(sample.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Pairs:
    """Input and target pairs for the distillation network, one per sample, read from the store one by one."""

    def __init__(self, main: Sequence[Stored], other: Sequence[Stored], grids: tuple[int, int], recipe: Recipe) -> None:
        self.main, self.other, self.grids, self.recipe = main, other, grids, recipe

    def __len__(self) -> int:
        return len(self.main)

    def __getitem__(self, index: int) -> Pair:
        return make_pair(self.main[index], self.other[index], self.grids, self.recipe)


class _InversePairs:
    """Target and main features of each pair: what the inverse network learns from, always row by row.

    Args:
        pairs: Pairs of F2F.
        width: Channels of the main features.
    """

    def __init__(self, pairs: Pairs, width: int) -> None:
        self.pairs, self.width = pairs, width

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        x, y = self.pairs[index]
        return y, (x if x.ndim == 2 else x[:, x.shape[1] // 2])[:, : self.width]


def _train_networks(
    training: TrainingFeatures, main: PatchFeatures, stored: Sequence[Stored], other: PatchFeatures
) -> None:
    context, recipe, grids = training.context, training.recipe, (main.grid, other.grid)
    target = training.part.target(recipe)
    mains, others, width = list(stored), training.of_training(other, target), stored[0]["rows"].shape[1]
    for category in context.joint:
        mains += training.of_training(main, recipe.mains[0], category)
        others += training.of_training(other, target, category)
    pairs = _Pairs(mains, others, grids, recipe)
    if not (context.run / NETWORK).exists():
        network = _trained(training, pairs, recipe, "distillation", training.target_heads(other))
        enhanced = training.part.main_bank == "enhanced"
        main_scale = float(target_statistics(_InversePairs(pairs, width), False)[1]) if enhanced else None
        save_network(context.run, network, hallucination_grid(recipe, *grids), main_scale)
    if training.part.residual_map != "none":
        inverse = _trained(training, _InversePairs(pairs, width), _of_way_back(recipe), "inverse-distillation")
        save_inverse(context.run, inverse)


def _of_way_back(recipe: Recipe) -> Recipe:
    """Return the recipe for the inverse network, which sees nothing but the row and knows no stages of its targets."""
    part = bank_part(recipe)
    plain = replace(part.distillation, context=1, coordinates="none", alignment=0.0, targets="joined")
    return replace(recipe, detector=replace(part, distillation=plain))


def _trained(training: TrainingFeatures, pairs: Pairs, recipe: Recipe, file: str, heads: Sequence[int] = ()) -> Network:
    """Return a network trained on pairs; `FILE.csv` and `FILE.png` show its losses."""
    context = training.context
    network, checkpoint = new_network(pairs, recipe), context.run / f"{file}.checkpoint.safetensors"
    log = distil(
        network,
        pairs,
        recipe,
        checkpoint=checkpoint,
        heads=heads,
        device=context.device,
        reporter=context.reporter,
    )
    write_log(context.run / f"{file}.csv", log)
    plot_losses(context.run / f"{file}.png", [e.loss for e in log], [e.validation for e in log])
    return network


def make_pair(main: Stored, other: Stored, grids: tuple[int, int], recipe: Recipe) -> Pair:
    """Return input and target of one sample for a distillation network, see `distillation.Pairs`.

    F2F, published: one pair per cell of the finer grid (method §5, §9). Default: one pair per distinct row of the main
    modality, whose target is the mean over the cells that share the row, because equal inputs can only learn one
    output. With a context, the input is the square of cells around the row's cell; row i of an image belongs to cell i.
    With coordinates, the place of the cell follows the features.

    Args:
        main: `rows` and `cells` of the main modality, for I2F also its `image`.
        other: `rows` and `cells` of the other modality, for F2I its `image`.
        grids: Sides of the grids of main and other features.
        recipe: Recipe of the detector.
    """
    main_grid, other_grid = grids
    part = bank_part(recipe)
    if part.hallucination == "f2i":
        features = main["rows"][main["cells"]]
        finer = max(grids) if part.mode == "faithful" else main_grid
        return regrid(features, main_grid, finer), other["image"]
    grid = hallucination_grid(recipe, main_grid, other_grid)
    target = other["rows"][other["cells"]]
    if part.hallucination == "i2f":
        return main["image"], regrid(target, other_grid, recipe.size // 4)
    if part.mode == "faithful":
        finer = max(grids)
        return regrid(main["rows"][main["cells"]], main_grid, finer), regrid(target, other_grid, finer)
    context = part.distillation.context
    around = neighbouring_cells(main_grid, context) if context > 1 else None
    places = cell_places(main_grid) if part.distillation.coordinates == "cell" else None
    return _distinct_pair(main["rows"], main["cells"], regrid(target, other_grid, grid), around, places)


def _distinct_pair(rows: Tensor, cells: Tensor, targets: Tensor, around: Tensor | None, places: Tensor | None) -> Pair:
    used, position, count = torch.unique(cells, return_inverse=True, return_counts=True)
    total = torch.zeros(len(used), targets.shape[1]).index_add_(0, position, targets)
    fed = rows[used] if around is None else neighbourhoods(rows, cells, around[used])
    fed = fed if places is None else with_places(fed, places[used])
    return fed, total / count[:, None]


def take_over(source: Path, run: Path, recipe: Recipe) -> None:
    """Copy extractors, principal components and distillation network of a finished run into another one.

    Raises:
        RunError: The finished run has no such network, or trained its network with other options.
    """
    network_file(source)
    stored = read_record(source).recipe
    trained, requested = bank_part(stored), bank_part(recipe)
    for name in (
        "mode",
        "hallucination",
        "rgb",
        "xyz",
        "components",
        "distillation",
        "main_bank",
        "residual_map",
        "partner",
        "registered",
    ):
        _require_same(source, name, getattr(trained, name) == getattr(requested, name))
    places = ("view",) if requested.distillation.coordinates != "none" else ()
    for name in ("modality", "image_modality", "size", "rgb_mask", "foreground", *places):
        _require_same(source, name, getattr(stored, name) == getattr(recipe, name))
    sources: tuple[Source, ...] = (*MODALITIES, PARTNER)
    names = [*map(extractor_file, sources), *map(basis_file, sources), NETWORK, INVERSE]
    for name in names:
        if (source / name).exists() and not (run / name).exists():
            save_tensors(run / name, load_tensors(source / name), load_metadata(source / name) or None)


def _require_same(source: Path, name: str, same: bool) -> None:
    if not same:
        raise RunError(
            source,
            found=f"a network trained with another {name}",
            expected="a network trained with the options of this run",
            action="Pass the same options, or train a new network",
        )
