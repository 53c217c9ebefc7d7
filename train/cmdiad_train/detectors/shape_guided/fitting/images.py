"""Collect the image features of all training samples, at the cells that the patches of each sample list."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cmdiad_train.detectors.family import FitContext, as_tensors
from cmdiad_train.detectors.shape_guided.networks.cell_lists import (
    cells_of_patches,
    joined_listings,
    listing_patches,
    near_cells,
)
from cmdiad_train.detectors.shape_guided.networks.image_features import ImageFeatures
from cmdiad_train.detectors.shape_guided.networks.image_memory import ImageRows
from cmdiad_train.recipe import shape_guided_part


@torch.no_grad()
def memorised_images(context: FitContext, features: ImageFeatures, patches: Sequence[int]) -> ImageRows:
    """Return the image features of all training samples at the cells that their patches list, on the CPU.

    Args:
        context: The training.
        features: Image network, which moves to the device of the training.
        patches: Number of patches of each training sample.
    """
    part = shape_guided_part(context.recipe)
    features.to(context.device)
    near = near_cells(features.grid, published=part.mode == "faithful")
    rows, listings = [], []
    for done, (files, count) in enumerate(zip(context.train, patches, strict=True), start=1):
        inputs = as_tensors(context.samples.prepared(files).inputs)
        shown = cells_of_patches(inputs["cover"][0], count, part.patch_points, features.grid)
        listed = shown @ near  # [patches, cells]
        kept = listed.amax(0) > 0
        rows.append(features(inputs["rgb"].to(context.device)).cpu()[kept])
        listings.append(listing_patches(listed[:, kept]))
        context.reporter.step("memorise images", done, len(patches))
    return ImageRows(torch.cat(rows), joined_listings(listings, list(patches)))
