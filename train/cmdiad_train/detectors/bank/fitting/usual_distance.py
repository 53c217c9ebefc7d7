"""Usual distance of good parts at each place of the view, by which relative distances are divided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

SPREAD = 0.03
"""Standard deviation of the Gaussian that averages over neighbouring places, as a fraction of the side of the view."""
PRIOR = 2.0
"""Weight of the average over all places, in samples. It decides where few or no samples show the part."""
DEVIATIONS = 4.0
"""The usual distance is the mean plus this number of standard deviations."""
MOST_CHANGE = 2.0
"""Largest factor, and inverse of the smallest one. Without a limit, one odd training sample could hide a defect."""


class UsualDistances:
    """Statistics of the distances of held-out training samples, by place of the view.

    Args:
        distances: Distances float32 `[n, grid²]` of the cells of training samples to banks without the sample.
        on_part: Cells of each sample that show the part and are inspected, bool `[n, grid²]`.
        owners: Number of the picture of each sample. The samples of a picture are left out together.
    """

    def __init__(self, distances: Tensor, on_part: Tensor, owners: Sequence[int]) -> None:
        side = round(distances.shape[1] ** 0.5)
        values, shown = distances.double().numpy(), on_part.double().numpy()
        moments = np.stack([shown, shown * values, shown * values**2]).reshape(3, len(values), side, side)
        spread = (0, 0, SPREAD * side, SPREAD * side)
        self._around = gaussian_filter(moments, spread, mode="constant")  # [3, n, grid, grid]
        self._owners = np.array(owners)

    def factors(self, *, without: int | None = None) -> Tensor:
        """Return the factors float32 `[grid²]` of relative distances: overall usual distance / that of the place.

        Args:
            without: Picture whose samples do not count; None counts all.
        """
        counted = np.ones(len(self._owners), dtype=np.bool_) if without is None else self._owners != without
        shown, first, second = self._around[:, counted].sum(axis=1)  # [grid, grid] each
        if not (first > 0).any():
            return torch.ones(shown.size)
        mean, square = (np.divide(total, shown, out=np.zeros_like(shown), where=shown > 0) for total in (first, second))
        usual = mean + DEVIATIONS * np.sqrt(np.maximum(square - mean**2, 0))
        overall = np.average(usual, weights=shown)
        usual = (shown * usual + PRIOR * overall) / (shown + PRIOR)
        return torch.from_numpy((overall / usual).clip(1 / MOST_CHANGE, MOST_CHANGE).ravel()).float()
