"""Image changes that real parts and cameras also cause: small turns, shifts and zooms, other light, noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.pretraining.samples import ImageKind

TURN = math.radians(15)
ZOOM = (0.9, 1.1)
SHIFT = 0.05  # of the image's side
BRIGHTNESS, CONTRAST, SATURATION = (0.7, 1.3), (0.7, 1.3), (0.6, 1.4)
WINDOW_TURN = math.radians(20)
WINDOW_ZOOM = (0.75, 1.25)
WINDOW_SHIFT = 0.4  # of half a window's side
NOISE = 3.0  # grey levels, standard deviation


def moved(images: Tensor, kind: ImageKind, generator: torch.Generator) -> Tensor:
    """Turn, zoom and shift images at random, without mirroring.

    Images of a surface are not turned, since their normals would have to turn too. Their new rim is background.

    Args:
        images: Float images `[B, h, w, 3]`.
        kind: Kind of the images.
        generator: CPU generator.
    """
    matrix = _affine(len(images), kind, TURN, ZOOM, 2 * SHIFT, generator)
    planes = images.permute(0, 3, 1, 2)  # [B, 3, h, w]
    places = F.affine_grid(matrix.to(images.device), list(planes.shape), align_corners=False)
    padding = "border" if kind == "rgb" else "zeros"
    return F.grid_sample(planes, places, padding_mode=padding, align_corners=False).permute(0, 2, 3, 1)


def window_changes(batch: int, kind: ImageKind, generator: torch.Generator) -> Tensor:
    """Draw affine maps `[batch, 2, 3]` from a window to a turned, zoomed and shifted one near the first.

    Both windows have coordinates from -1 to 1.
    """
    return _affine(batch, kind, WINDOW_TURN, WINDOW_ZOOM, WINDOW_SHIFT, generator)


def _affine(
    batch: int, kind: ImageKind, turn: float, zoom: tuple[float, float], shift: float, generator: torch.Generator
) -> Tensor:
    """Draw affine maps `[batch, 2, 3]` of images with coordinates from -1 to 1; images of a surface are not turned."""
    angle = turn * (2 * torch.rand(batch, generator=generator) - 1) * (kind == "rgb")
    scale = _between(zoom, (batch,), generator)
    matrix = torch.zeros(batch, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos() * scale
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin() * scale, angle.sin() * scale
    matrix[:, :, 2] = shift * (2 * torch.rand(batch, 2, generator=generator) - 1)
    return matrix


def relit(images: Tensor, kind: ImageKind, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of images at random, and add noise.

    Images of a surface only get noise, and only where there is a surface.

    Args:
        images: Float images `[B, h, w, 3]`, 0-255.
        kind: Kind of the images.
        generator: CPU generator.
    """
    noise = NOISE * torch.randn(images.shape, generator=generator).to(images.device)
    if kind != "rgb":
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
