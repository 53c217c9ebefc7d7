"""Losses of teacher and student, and the distance that the map shows (AST, arXiv 2210.07829)."""

from __future__ import annotations

from torch import Tensor


def likelihood_loss(z: Tensor, log_determinant: Tensor, weights: Tensor) -> Tensor:
    """Return the negative log-likelihood of each cell, without its constant, `[B, h, w]`.

    Args:
        z: Output of the flow, `[B, C, h, w]`.
        log_determinant: Log-determinant of each cell, `[B, h, w]`.
        weights: Weights of the cells, `[B, 1, h, w]`.
    """
    return 0.5 * (weights * z.square()).sum(1) - weights[:, 0] * log_determinant


def distance(z: Tensor, expected: Tensor) -> Tensor:
    """Return the mean squared difference over the channels of each cell, `[B, h, w]`, in the precision of z.

    Args:
        z: Output of the flow, `[B, C, h, w]`.
        expected: Output of the student, of the same shape.
    """
    difference = z - expected.to(z.dtype)
    return (difference * difference).mean(1)


def imitation_loss(z: Tensor, expected: Tensor, weights: Tensor) -> Tensor:
    """Return the student's loss of each cell, `[B, h, w]`; arguments as above."""
    return weights[:, 0] * distance(z, expected)
