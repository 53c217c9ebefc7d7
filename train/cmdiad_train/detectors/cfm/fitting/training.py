"""Training of the two mappings on good samples, resumable at any epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmdiad_train.detectors.cfm.fitting.features import TrainingFeatures
from cmdiad_train.detectors.cfm.mappings import Mappings, mapping_loss
from cmdiad_train.detectors.cfm.run_files import MAPPINGS
from cmdiad_train.detectors.family import FitContext
from cmdiad_train.detectors.network_training import SampleTask, Schedule, trained_network
from cmdiad_train.recipe import cfm_part
from cmdiad_train.training.loop import mixed_precision


def train_mappings(context: FitContext, mappings: Mappings, features: TrainingFeatures) -> None:
    """Train the mappings in place and write them into the run directory, or load what an earlier attempt finished.

    Args:
        context: The training.
        mappings: Untrained, seeded mappings.
        features: Features of the training samples.

    Raises:
        RunError: The loss is not finite, or the file of finished mappings is damaged.
        OutputError: The checkpoint is damaged, or the disk is full.
    """
    part, samples = cfm_part(context.recipe), range(len(context.train))
    centre_targets(mappings, features, samples)
    file = context.run / MAPPINGS
    schedule = Schedule("train mappings", file, samples, part.epochs, part.batch, "full", part.patience)

    def task_of(stopping: Sequence[int]) -> SampleTask:
        return _MappingTask(context, mappings, features, schedule, stopping)

    trained_network(context, mappings, schedule, task_of)


@torch.no_grad()
def centre_targets(mappings: Mappings, features: TrainingFeatures, samples: Sequence[int]) -> None:
    """Let each mapping start at the mean of the features that it predicts, and in their scale."""
    count, sums, squares = 0, [torch.zeros(())] * 2, [torch.zeros(())] * 2
    for index in samples:
        rows = [values.double().cpu() for values in features.of([index])]
        count += len(rows[0])
        sums = [total + values.sum(0) for total, values in zip(sums, rows, strict=True)]
        squares = [total + values.square().sum(0) for total, values in zip(squares, rows, strict=True)]
    for mapping, total, square in zip((mappings.to_xyz, mappings.to_rgb), sums, squares, strict=True):
        mean = total / count
        variance = (square / count - mean.square()).mean()
        mapping.target_mean.copy_(mean)
        mapping.target_scale.copy_(variance.clamp(min=1e-12).sqrt())


class _MappingTask(SampleTask):
    """The steps of the training.

    Args:
        context: The training.
        mappings: Mappings in training, which move to the device of the training.
        features: Features of the training samples.
        schedule: Length of the training.
        stopping: Indices of the samples that choose the best epoch.
    """

    def __init__(
        self,
        context: FitContext,
        mappings: Mappings,
        features: TrainingFeatures,
        schedule: Schedule,
        stopping: Sequence[int],
    ) -> None:
        self._device, self._rate, self._features = context.device, cfm_part(context.recipe).learning_rate, features
        mappings.to(context.device)
        super().__init__(mappings, torch.optim.Adam(mappings.parameters(), lr=self._rate), schedule, stopping)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate, which is constant."""
        return self._rate

    def mean_loss(self, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the mean loss `[]` of the cells of some samples; see `SampleTask`."""
        measured = self._features.of(list(chosen))
        with mixed_precision(self._device):
            predicted = self.module(measured)
        return mapping_loss(predicted, measured)
