"""Losses of the comparison (3DSR, published code)."""

from __future__ import annotations

import torch
from torch import Tensor

_SMOOTHING = 1e-5


def focal_loss(anomalous: Tensor, mask: Tensor) -> Tensor:
    """Return the focal loss `[]` with exponent 2, the mean over all pixels.

    Args:
        anomalous: Probability of an anomaly, `[B, 1, h, w]`.
        mask: 1 on anomalies, else 0, of the same shape.
    """
    target = torch.cat([1 - mask, mask], 1).clamp(_SMOOTHING, 1 - _SMOOTHING)
    of_target = (target * torch.cat([1 - anomalous, anomalous], 1)).sum(1) + _SMOOTHING
    return -((1 - of_target).square() * of_target.log()).mean()


def mask_loss(anomalous: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute error `[]` of both probabilities; arguments as above. Both have the same error."""
    return (anomalous - mask).abs().mean()
