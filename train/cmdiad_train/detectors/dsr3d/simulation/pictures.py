"""Simulated pictures on which the autoencoder is trained: they show no object, and no licence applies to them.

Published training takes simulated depth as here, and photographs of ImageNet. Photographs and images of surface normals
are replaced by procedurally generated ones (`synthesis.procedural_images`), because no photographs come with cmdiad.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cmdiad_train.detectors.dsr3d.picture import channels_of
from cmdiad_train.detectors.dsr3d.simulation.noise import draw_noise, simulated_depth
from cmdiad_train.recipe import Recipe
from cmdiad_train.synthesis.procedural_images import draw

POOL = 512
"""Number of procedurally generated images, among which every picture is chosen. A turn makes eight of each."""


def simulated_pictures(recipe: Recipe, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return simulated pictures float32 `[count, C, size, size]`, 0-1.

    Cloud and image of a picture are independent, as published.

    Args:
        recipe: Recipe of the detector, which decides about the channels.
        count: Number of pictures.
        size: Side in pixels.
        generator: CPU generator of all random draws.
    """
    kinds = [*zip(recipe.mains, channels_of(recipe), strict=True)]
    pictures = []
    for _ in range(count):
        parts = []
        for modality, channels in kinds:
            if channels == 1:
                parts.append(_depth(size, generator))
            else:
                parts.append(_generated("rgb" if modality == "rgb" else "normals", size, recipe.seed, generator))
        pictures.append(torch.cat(parts))
    return torch.stack(pictures)


def _depth(size: int, generator: torch.Generator) -> Tensor:
    share, level = torch.rand(2, generator=generator).tolist()
    return simulated_depth(draw_noise(size, generator), share, level)


def _generated(kind: str, size: int, seed: int, generator: torch.Generator) -> Tensor:
    """Return a procedurally generated image, mirrored and turned at random, float32 `[3, size, size]`, 0-1.

    Normals keep their colours when they are turned: their light comes from another side.
    """
    index, turns, mirrored = (int(torch.randint(most, (), generator=generator)) for most in (POOL, 4, 2))
    image = torch.rot90(_drawing(size, seed, index)[kind], turns, (1, 2))
    return (image.flip(2) if mirrored else image).float() / 255


@lru_cache(maxsize=POOL)
def _drawing(size: int, seed: int, index: int) -> dict[str, Tensor]:
    """Return the image of a number and its normals, uint8 `[3, size, size]` each.

    A process keeps those of one training, because drawing one takes longer than a training step with it.
    """
    drawing = draw(size, seed=seed, index=index)
    images = {"rgb": drawing.rgb, "normals": np.rint(drawing.normals).astype(np.uint8)}
    return {name: torch.from_numpy(image).permute(2, 0, 1) for name, image in images.items()}
