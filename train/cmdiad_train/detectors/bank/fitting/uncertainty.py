"""Uncertainty of hallucinated features, and the weights of bank rows that follow from it."""

from __future__ import annotations

import torch
from torch import Tensor

from cmdiad_train.detectors.bank.fitting.distillation import Pairs
from cmdiad_train.detectors.feature_mapping import FeatureToFeature

STEPS = 10
"""Steps of Fisher scoring. The likelihood of a log-linear variance has one maximum, which few steps reach."""
RIDGE = 1e-3
"""Penalty of the squared weights, as a fraction of the mean square of a hidden activation."""
MOST = 6.0
"""Largest distance of a log variance from that of the mean error."""
LEAST_WEIGHT = 0.5
"""Weight of the most uncertain rows. Without a floor, an uncertain normal row could hide a defect next to it."""


@torch.no_grad()
def log_variances(network: FeatureToFeature, pairs: Pairs, device: torch.device) -> list[Tensor]:
    """Return the log variance float64 `[R]` of the error of each row of each pair, on the CPU.

    A linear head on the last hidden layer predicts s = log σ². Its weights minimise the mean of
    exp(-s)·e/2 + s/2 over all rows, where e is the mean squared error of a row (Kendall and Gal 2017, arXiv 1703.04977,
    equation 8). The network itself is not changed, so that hallucinated features are those without uncertainty.

    Args:
        network: Trained network, on `device`.
        pairs: Input and target of each sample.
        device: Device of the network.
    """

    def rows_of(index: int) -> tuple[Tensor, Tensor]:
        x, y = (part.to(device) for part in pairs[index])
        hidden, error = network.hidden(x).double(), (network(x) - y).double().square().mean(1)
        return torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1).cpu(), error.cpu()

    samples = range(len(pairs))
    gram, count, total = torch.zeros((), dtype=torch.float64), 0, 0.0
    for i in samples:
        design, error = rows_of(i)
        gram, count, total = gram + design.T @ design, count + len(error), total + float(error.sum())
    start = torch.tensor(max(total / count, 1e-30), dtype=torch.float64).log()
    penalty = RIDGE * gram.diagonal()[:-1].mean() * torch.eye(len(gram), dtype=torch.float64)
    penalty[-1, -1] = 0
    weights = torch.zeros(len(gram), dtype=torch.float64)

    def predicted(design: Tensor) -> Tensor:
        return start + (design @ weights).clamp(-MOST, MOST)

    for _ in range(STEPS):
        slope = -penalty @ weights
        for i in samples:
            design, error = rows_of(i)
            slope = slope + design.T @ (error * torch.exp(-predicted(design)) - 1)
        weights = weights + torch.linalg.solve(gram + penalty, slope)
    return [predicted(rows_of(i)[0]) for i in samples]


def weights_of(log_variance: Tensor) -> Tensor:
    """Return the weights float32 `[n]` of the distances to rows: median σ / σ, from `LEAST_WEIGHT` to 1.

    Args:
        log_variance: Log variance float64 `[n]` of each row of a bank.
    """
    return torch.exp((log_variance.median() - log_variance) / 2).clamp(LEAST_WEIGHT, 1).float()
