"""The Gaussian blur of an anomaly map as a product with constant matrices."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

SIGMA = 4.0
"""Standard deviation of the published Gaussian in pixels."""


class GaussianBlur(nn.Module):
    """SciPy's `gaussian_filter` with σ = 4: the kernel ends at 4σ, the border is mirrored with the edge pixel.

    The filter is linear and separable, so it is G·x·Gᵀ: no padding operator whose meaning differs between engines.

    Args:
        size: Side of the map in pixels.
    """

    matrix: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        matrix = gaussian_filter1d(np.eye(size), SIGMA, axis=0, mode="reflect", truncate=4.0)
        self.register_buffer("matrix", torch.from_numpy(matrix.astype(np.float32)), persistent=False)

    def forward(self, anomaly_map: Tensor) -> Tensor:
        """Return the blurred map `[size, size]`, or maps `[maps, size, size]`."""
        return self.matrix @ anomaly_map @ self.matrix.T
