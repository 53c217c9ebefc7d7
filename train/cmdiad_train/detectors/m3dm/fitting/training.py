"""Training of the fusion network on good samples, resumable at any epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.m3dm.fitting.pairs import TrainingPairs
from cmdiad_train.detectors.m3dm.networks.fusion_network import FusionNetwork
from cmdiad_train.detectors.m3dm.networks.loss import contrastive_loss
from cmdiad_train.detectors.m3dm.run_files import NETWORK
from cmdiad_train.detectors.network_training import SampleTask, Schedule, trained_network
from cmdiad_train.recipe import M3dmRecipe, m3dm_part
from cmdiad_train.training.loop import Batches

BETAS = (0.9, 0.95)
"""Decay of the moments of AdamW, as published."""
WEIGHT_DECAY = 0.01
"""Decay of AdamW, which the published program takes from torch: its own option is never used."""
WARM_UP = 1 / 3
"""Share of the epochs in which the rate rises; 1 of 3 epochs as published, 250 of 750 steps in the paper."""


def train_fusion(context: FitContext, network: FusionNetwork, pairs: TrainingPairs) -> None:
    """Train the network in place and write it into the run directory, or load what an earlier attempt finished.

    Args:
        context: The training.
        network: Untrained, seeded network.
        pairs: Pairs of the training samples.

    Raises:
        RunError: The loss is not finite, or the file of the finished network is damaged.
        OutputError: The checkpoint is damaged, or the disk is full.
    """
    part = m3dm_part(context.recipe)
    batches: Batches = "only_full" if part.mode == "faithful" else "even"
    file, samples = context.run / NETWORK, range(len(pairs))
    schedule = Schedule("train feature fusion", file, samples, part.epochs, part.batch, batches, part.patience)

    def task_of(stopping: Sequence[int]) -> SampleTask:
        return FusionTask(network.to(context.device), pairs, part, schedule, stopping)

    trained_network(context, network, schedule, task_of)


class FusionTask(SampleTask):
    """The steps of the training.

    Args:
        network: Network in training, on the device of the training.
        pairs: Pairs of the training samples.
        part: Part of the recipe.
        schedule: Length of the training.
        stopping: Indices of the samples that choose the best epoch.
    """

    def __init__(
        self,
        network: FusionNetwork,
        pairs: TrainingPairs,
        part: M3dmRecipe,
        schedule: Schedule,
        stopping: Sequence[int],
    ) -> None:
        self._part, self._pairs = part, pairs
        super().__init__(network, optimiser_of(network, part.learning_rate), schedule, stopping)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate; default: that of the middle of the step, so that no step has the rate 0."""
        place = start if self._part.mode == "faithful" else (start + end) / 2
        return rate_at(place, self.schedule.epochs, self._part.learning_rate)

    def mean_loss(self, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the contrastive loss `[]` of the pairs of some samples; see `SampleTask`."""
        xyz, rgb = self._pairs.of(chosen, self._part.rows, generator)
        return contrastive_loss(self.module(xyz, rgb), self._part.temperature)


def optimiser_of(network: FusionNetwork, rate: float) -> torch.optim.AdamW:
    """Return the published optimiser of the network."""
    return torch.optim.AdamW(network.parameters(), lr=rate, betas=BETAS, weight_decay=WEIGHT_DECAY)


def rate_at(place: float, epochs: int, largest: float) -> float:
    """Return the learning rate: a linear rise from 0, then half a cosine down to 0.

    Args:
        place: Place in the training, in epochs.
        epochs: Length of the training.
        largest: Rate at the end of the rise.
    """
    rise = WARM_UP * epochs
    if place < rise:
        return largest * place / rise
    return largest * 0.5 * (1 + math.cos(math.pi * (place - rise) / (epochs - rise)))
