"""The steps of the training of the autoencoder, on simulated pictures alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmdiad_train.detectors.dsr3d.networks.autoencoder import Autoencoder
from cmdiad_train.detectors.dsr3d.simulation.pictures import simulated_pictures
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import SampleTask, Schedule
from cmdiad_train.recipe import Dsr3dRecipe, dsr3d_part

EPOCHS = 100
"""An epoch is a hundredth of the steps."""
BATCH, PUBLISHED_BATCH = 16, 64
PIXELS, PUBLISHED_PIXELS = 128, 256
"""Side of the simulated pictures."""
_DROPS = (0.8, 0.9)
"""Shares of the training after which the learning rate falls to a tenth."""


class AutoencoderTask(SampleTask):
    """Training of the autoencoder: its pictures of simulated pictures. The samples are numbers of pictures.

    Args:
        context: The training.
        autoencoder: Autoencoder in training, which moves to the device of the training.
        schedule: Length of the training.
    """

    module: Autoencoder

    def __init__(self, context: FitContext, autoencoder: Autoencoder, schedule: Schedule) -> None:
        self.recipe, self.part, self.device = context.recipe, dsr3d_part(context.recipe), context.device
        parameters = autoencoder.to(context.device).parameters()
        optimiser = torch.optim.Adam(parameters, lr=self.part.learning_rate)
        super().__init__(autoencoder, optimiser, schedule, ())

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate, a tenth after 80 % and again after 90 % of the epochs."""
        passed = sum(start >= share * self.schedule.epochs for share in _DROPS)
        return self.part.learning_rate * 0.1**passed

    def mean_loss(self, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the loss `[]` of as many simulated pictures as samples are chosen: their error and the commitment.

        The error of depth alone is squared, that of others absolute, as published.
        """
        assert generator is not None  # there is no validation
        size = PUBLISHED_PIXELS if self.part.mode == "faithful" else PIXELS
        picture = simulated_pictures(self.recipe, len(chosen), size, generator).to(self.device)
        drawn, commitment = self.module.trained_on(picture, revive=self.part.mode == "default")
        error = F.mse_loss if picture.shape[1] == 1 else F.l1_loss
        return error(drawn, picture) + commitment


def autoencoder_length(part: Dsr3dRecipe) -> tuple[int, int, int]:
    """Return epochs, pictures per epoch and pictures per step of the training of the autoencoder."""
    epochs = min(EPOCHS, part.autoencoder_steps)
    batch = PUBLISHED_BATCH if part.mode == "faithful" else BATCH
    return epochs, batch * math.ceil(part.autoencoder_steps / epochs), batch
