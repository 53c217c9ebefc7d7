"""Grids of cells over a view: the cells of a region, and the anomaly map of values per cell."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

BLUR_SIGMA = 4.0
"""Standard deviation of the Gaussian blur of maps in pixels."""


def marked_cells(pixels: Tensor, grid: int) -> Tensor:
    """Return the cells with a marked pixel, bool `[grid²]`.

    Args:
        pixels: True or above 0 for marked pixels, bool `[size, size]` or float32 `[1, 1, size, size]`.
        grid: Side of the square grid of cells.
    """
    stride = pixels.shape[-1] // grid
    kernel = pixels.shape[-1] - stride * (grid - 1)  # the stride where the grid divides the side, else wider
    return F.max_pool2d(pixels.float().reshape(1, 1, *pixels.shape[-2:]), kernel, stride).flatten() > 0


def upsampling(grid: int, size: int, *, blur: bool) -> Tensor:
    """Return one axis of bilinear upsampling (align_corners False) with the Gaussian blur folded in, `[size, grid]`.

    Both are linear and separable, so the map is A·D·Aᵀ: no resize or padding operator whose meaning differs
    between engines. Edge pixels are replicated; the kernel ends at 4σ.
    """
    centre = (np.arange(size) + 0.5) * grid / size - 0.5
    low = np.clip(np.floor(centre), 0, grid - 1).astype(int)
    high = np.minimum(low + 1, grid - 1)
    fraction = np.clip(centre - low, 0, 1)
    matrix = np.zeros((size, grid))
    np.add.at(matrix, (np.arange(size), low), 1 - fraction)
    np.add.at(matrix, (np.arange(size), high), fraction)
    if blur:
        matrix = gaussian_filter1d(matrix, BLUR_SIGMA, axis=0, mode="nearest", truncate=4.0)
    return torch.from_numpy(matrix.astype(np.float32))
