"""The network inputs of a sample as one picture, whose channels are those of the cloud, then those of the image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cmdiad_runtime.names import Modality
from cmdiad_train.recipe import Recipe, dsr3d_part

INPUTS: dict[Modality, str] = {"rgb": "rgb", "xyz": "surface"}
"""Network input of each modality, `[1, size, size, 3]`: an image uint8, or an image of the surface float32, 0-255."""


def channels_of(recipe: Recipe) -> tuple[int, ...]:
    """Return the number of channels of each modality in the picture, in the order of `recipe.mains`."""
    return tuple(1 if _is_depth(recipe, modality) else 3 for modality in recipe.mains)


def picture_of(recipe: Recipe, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the picture float32 `[B, C, size, size]`, 0-1.

    Args:
        recipe: Recipe of the detector.
        inputs: Network inputs by name, see `INPUTS`.
    """
    parts = []
    for modality in recipe.mains:
        image = inputs[INPUTS[modality]].float()  # The cast comes first: TensorRT supports uint8 only here.
        planes = image.permute(0, 3, 1, 2) / 255
        parts.append(planes[:, :1] if _is_depth(recipe, modality) else planes)
    return torch.cat(parts, 1)


def foreground_of(recipe: Recipe, picture: Tensor) -> Tensor:
    """Return 1 where a picture shows a point of the part, else 0, `[B, 1, size, size]`; 1 everywhere without a cloud.

    Args:
        recipe: Recipe of the detector.
        picture: Picture `[B, C, size, size]`.
    """
    if recipe.modality == "rgb":
        return torch.ones_like(picture[:, :1])
    return (picture[:, : channels_of(recipe)[0]] > 0).any(1, keepdim=True).to(picture.dtype)


def _is_depth(recipe: Recipe, modality: Modality) -> bool:
    """Return True if a modality is a depth image, whose three channels are equal."""
    return modality == "xyz" and dsr3d_part(recipe).geometry == "depth"
