"""Training of the shape network on good samples, resumable at any epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import SampleTask, Schedule, trained_network
from cmdiad_train.detectors.shape_guided.fitting.patches import (
    FAR,
    NEAR,
    NEAR_SHARE,
    TrainingPatches,
    training_queries,
)
from cmdiad_train.detectors.shape_guided.networks.shape_network import ShapeNetwork
from cmdiad_train.detectors.shape_guided.run_files import NETWORK
from cmdiad_train.recipe import shape_guided_part
from cmdiad_train.training.loop import Batches

PATCHES_PER_SAMPLE = 8
"""Patches of a sample in a step. With the 4 samples of the default batch, a step has the 32 patches of the published
training."""
_VALIDATION_SEED = 0


def train_network(context: FitContext, network: ShapeNetwork, patches: TrainingPatches) -> None:
    """Train the network in place and write it into the run directory, or load what an earlier attempt finished.

    Args:
        context: The training.
        network: Untrained, seeded network.
        patches: Patches of the training samples.

    Raises:
        RunError: The loss is not finite, or the file of the finished network is damaged.
        OutputError: The checkpoint is damaged, or the disk is full.
    """
    part, file = shape_guided_part(context.recipe), context.run / NETWORK
    samples = range(len(context.train))
    batches: Batches = "only_full" if part.mode == "faithful" else "even"
    schedule = Schedule("train shape network", file, samples, part.epochs, part.batch, batches, part.patience)

    def task_of(stopping: Sequence[int]) -> SampleTask:
        return ShapeTask(context, network, patches, schedule, stopping)

    trained_network(context, network, schedule, task_of)


class ShapeTask(SampleTask):
    """The steps of the training.

    Args:
        context: The training.
        network: Network in training, which moves to the device of the training.
        patches: Patches of the training samples.
        schedule: Length of the training.
        stopping: Indices of the samples that choose the best epoch.
    """

    module: ShapeNetwork

    def __init__(
        self,
        context: FitContext,
        network: ShapeNetwork,
        patches: TrainingPatches,
        schedule: Schedule,
        stopping: Sequence[int],
    ) -> None:
        self._part, self._device, self._patches = shape_guided_part(context.recipe), context.device, patches
        parameters = network.to(context.device).parameters()
        super().__init__(network, torch.optim.Adam(parameters, lr=self._part.learning_rate), schedule, stopping)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate, which is constant."""
        return self._part.learning_rate

    def mean_loss(self, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the mean loss `[]` of patches of some samples; see `SampleTask`.

        As published, a faithful training encodes the nearest points of the queries instead of the patch.
        """
        patches = self._patches.some_of(chosen, PATCHES_PER_SAMPLE, generator)
        numbers = generator or torch.Generator().manual_seed(_VALIDATION_SEED)
        noise = torch.randn(patches.shape, generator=numbers)
        near = torch.rand(len(patches), generator=numbers) < NEAR_SHARE
        factor = torch.where(near, NEAR, FAR)
        patches, noise, factor = (values.to(self._device) for values in (patches, noise, factor))
        queries, targets = training_queries(patches, noise, factor)
        faithful = self._part.mode == "faithful"
        return self.module.loss(targets if faithful else patches, queries, targets)
