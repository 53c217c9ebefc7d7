"""The steps of the training of both networks (AST, published code): first the flow, then the student."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.ast.fitting.features import CellBatches
from cmdiad_train.detectors.ast.losses import imitation_loss, likelihood_loss
from cmdiad_train.detectors.ast.networks.flow import Flow
from cmdiad_train.detectors.ast.networks.student import Student
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import SampleTask, Schedule
from cmdiad_train.recipe import ast_part
from cmdiad_train.training.loop import mixed_precision

WEIGHT_DECAY = 1e-5
"""Weight decay of Adam, which is added to the gradient."""


class _CellTask(SampleTask):
    """Training of one network on the features of the cells.

    Args:
        context: The training.
        network: Network in training, which moves to the device of the training.
        batches: Source of features and weights of the cells.
        schedule: Length of the training.
        stopping: Indices of the samples that choose the best epoch.
    """

    def __init__(
        self,
        context: FitContext,
        network: nn.Module,
        batches: CellBatches,
        schedule: Schedule,
        stopping: Sequence[int],
    ) -> None:
        self.part, self.device, self.batches = ast_part(context.recipe), context.device, batches
        parameters = network.to(context.device).parameters()
        optimiser = torch.optim.Adam(parameters, lr=self.part.learning_rate, weight_decay=WEIGHT_DECAY)
        super().__init__(network, optimiser, schedule, stopping)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate, which is constant."""
        return self.part.learning_rate

    def mean_loss(self, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the mean loss over all cells of some samples, `[]`; see `SampleTask`."""
        return self.loss_of_cells(*self.batches.batch(chosen)).mean()

    @abstractmethod
    def loss_of_cells(self, features: Tensor, weights: Tensor) -> Tensor:
        """Return the loss of each cell `[B, h, w]`, of standardised features and weights of the cells."""


class FlowTask(_CellTask):
    """Training of the flow: the likelihood of the features of good samples."""

    module: Flow

    def loss_of_cells(self, features: Tensor, weights: Tensor) -> Tensor:
        """Return the negative log-likelihood of each cell, always computed in float32."""
        z, log_determinant = self.module(features)
        return likelihood_loss(z, log_determinant, weights)


class StudentTask(_CellTask):
    """Training of the student: the distance to the output of the trained flow.

    On CUDA the student computes in bfloat16 where that is safe (autocast), unless the recipe is faithful.

    Attributes:
        flow: Trained flow in eval mode, on the device of the training.
    """

    module: Student

    def __init__(
        self,
        context: FitContext,
        student: Student,
        batches: CellBatches,
        schedule: Schedule,
        stopping: Sequence[int],
        flow: Flow,
    ) -> None:
        super().__init__(context, student, batches, schedule, stopping)
        self.flow = flow

    def loss_of_cells(self, features: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted distance of each cell."""
        with torch.no_grad():
            z, _ = self.flow(features)
        if self.part.mode == "faithful":
            return imitation_loss(z, self.module(features), weights)
        with mixed_precision(self.device):
            expected = self.module(features)
        return imitation_loss(z, expected, weights)
