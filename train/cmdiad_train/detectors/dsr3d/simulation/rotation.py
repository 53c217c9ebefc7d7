"""Rotation of square pictures about their centre."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotated(pictures: Tensor, degrees: Tensor) -> Tensor:
    """Return pictures, each rotated by its angle, bilinear, 0 outside.

    The pixel (y, x) about the centre takes the value at (cos·y - sin·x, sin·y + cos·x).

    Args:
        pictures: Pictures float32 `[B, C, size, size]`.
        degrees: Angles float32 `[B]`, degrees.
    """
    angle = torch.deg2rad(degrees).to(pictures)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    to_x, to_y = torch.stack([cos, sin, zero], 1), torch.stack([-sin, cos, zero], 1)  # of x, y and 1
    places = F.affine_grid(torch.stack([to_x, to_y], 1), list(pictures.shape), align_corners=True)
    return F.grid_sample(pictures, places, align_corners=True)
