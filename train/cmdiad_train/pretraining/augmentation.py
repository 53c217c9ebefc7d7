"""Changes to images that real parts and cameras make too: a little turn, shift and zoom, other light, noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.pretraining.samples import View

TURN = math.radians(15)
ZOOM = (0.9, 1.1)
SHIFT = 0.05  # of the image's side
BRIGHTNESS, CONTRAST, SATURATION = (0.7, 1.3), (0.7, 1.3), (0.6, 1.4)
WINDOW_TURN = math.radians(20)
WINDOW_ZOOM = (0.75, 1.25)
WINDOW_SHIFT = 0.4  # of half a window's side
NOISE = 3.0  # grey levels, standard deviation


def moved(images: Tensor, view: View, generator: torch.Generator) -> Tensor:
    """Images `[B, h, w, 3]`, float, turned, zoomed and shifted at random, never mirrored.

    Images of a surface are not turned, since that would ask for other normals; their new rim is background.
    """
    matrix = _affine(len(images), view, TURN, ZOOM, 2 * SHIFT, generator)
    planes = images.permute(0, 3, 1, 2)
    places = F.affine_grid(matrix.to(images.device), list(planes.shape), align_corners=False)
    padding = "border" if view == "rgb" else "zeros"
    return F.grid_sample(planes, places, padding_mode=padding, align_corners=False).permute(0, 2, 3, 1)


def window_changes(batch: int, view: View, generator: torch.Generator) -> Tensor:
    """Affine maps `[batch, 2, 3]` from a window to one near it, turned, zoomed and shifted, both from -1 to 1."""
    return _affine(batch, view, WINDOW_TURN, WINDOW_ZOOM, WINDOW_SHIFT, generator)


def _affine(
    batch: int, view: View, turn: float, zoom: tuple[float, float], shift: float, generator: torch.Generator
) -> Tensor:
    """Affine maps `[batch, 2, 3]` of images from -1 to 1; those of a surface are not turned."""
    angle = turn * (2 * torch.rand(batch, generator=generator) - 1) * (view == "rgb")
    scale = _between(zoom, (batch,), generator)
    matrix = torch.zeros(batch, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos() * scale
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin() * scale, angle.sin() * scale
    matrix[:, :, 2] = shift * (2 * torch.rand(batch, 2, generator=generator) - 1)
    return matrix


def relit(images: Tensor, view: View, generator: torch.Generator) -> Tensor:
    """Images `[B, h, w, 3]`, float, 0-255, of other brightness, contrast and saturation, with noise.

    Images of a surface only get noise, and that only where there is one.
    """
    noise = NOISE * torch.randn(images.shape, generator=generator).to(images.device)
    if view != "rgb":
        return torch.where(images.any(3, keepdim=True), (images + noise).clamp(0, 255), images)
    one = (len(images), 1, 1, 1)
    images = images * _between(BRIGHTNESS, one, generator).to(images.device)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * _between(CONTRAST, one, generator).to(images.device)
    grey = images.mean(3, keepdim=True)
    images = grey + (images - grey) * _between(SATURATION, one, generator).to(images.device)
    return (images + noise).clamp(0, 255)


def _between(limits: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = limits
    return low + (high - low) * torch.rand(shape, generator=generator)
