"""Features that the scorers of a detector with hallucination receive: for one or two banks, and residuals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.feature_mapping import FeatureToFeature

Patches = tuple[Tensor, Tensor]
"""Rows float32 `[R, C]` and cells int64 `[grid²]` of one sample: cell i has features `rows[cells[i]]`."""


class Compared(nn.Module):
    """Main and hallucinated features of a sample to the features that each scorer receives.

    Args:
        main_scale: Standard deviation of main features, for one enhanced bank of main features followed by hallucinated
            ones; None for a bank of each.
        inverse: Network F2F from the features of the other modality back to the main ones, for residuals; None without.
    """

    def __init__(self, main_scale: float | None = None, inverse: FeatureToFeature | None = None) -> None:
        super().__init__()
        self.main_scale, self.inverse = main_scale, inverse

    @property
    def enhanced(self) -> bool:
        """Return True if main and hallucinated features share one bank."""
        return self.main_scale is not None

    def forward(self, main: Patches, hallucinated: Patches, scale: Tensor) -> list[Patches]:
        """Return rows and cells of each bank, main bank first, and then of the residuals if there are any.

        Args:
            main: Rows and cells of the main modality.
            hallucinated: Hallucinated rows and cells. With an enhanced bank or residuals, row i belongs to main row i.
            scale: Standard deviation float `[]` of the features that the network learnt to hallucinate.
        """
        of_banks = [main, hallucinated]
        if self.main_scale is not None:
            of_banks = [(torch.cat([main[0] / self.main_scale, hallucinated[0] / scale], 1), main[1])]
        return of_banks if self.inverse is None else [*of_banks, (_residual(main, hallucinated, self.inverse), main[1])]


def _residual(main: Patches, hallucinated: Patches, inverse: FeatureToFeature) -> Tensor:
    """Return what the inverse network misses of the main features `[R, C]`, in units of their standard deviation.

    The residual of a background cell, whose row is zeros, is 0.
    """
    rows = main[0]
    on_part = (rows.abs().amax(1, keepdim=True) > 0).float()
    return (rows - inverse(hallucinated[0]).float()) / inverse.target_scale * on_part
