"""The contrastive loss of the fusion network (M3DM, published code): each image row must find its point row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.detectors.m3dm.networks.fusion_network import Compared


def contrastive_loss(compared: Compared, temperature: float) -> Tensor:
    """Return the loss `[]` of pairs: 2T · mean of log Σ exp(q·k / T) - q·k / T, with rows of unit length.

    All other rows of the batch are negatives of a row. With fewer than two rows there are none, and the loss is 0.

    Args:
        compared: Outputs of the heads; row i of the image belongs to row i of the cloud.
        temperature: T; 1 as published.
    """
    queries, keys = (F.normalize(rows, dim=1, eps=1e-12) for rows in compared)
    if len(queries) < 2:
        return (queries.sum() + keys.sum()) * 0
    logits = queries @ keys.T / temperature  # [n, n]
    return 2 * temperature * F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
