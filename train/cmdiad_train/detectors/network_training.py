"""Training of one network on the training samples, resumable at any epoch; shared by families that train networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cmdiad_train.detectors.family import FitContext
from cmdiad_train.runs.tensors import load_state, load_tensors, save_tensors
from cmdiad_train.tensor_files import disk_errors
from cmdiad_train.training.checkpoint import Checkpoint
from cmdiad_train.training.log import write_log
from cmdiad_train.training.loop import Batches, BatchLoss, LoopOptions, require_finite, train
from cmdiad_train.training.loss_plot import plot_losses
from cmdiad_train.training.validation import split

STOP_SHARE = 0.1
"""Share of the training samples that choose the best epoch, if the recipe stops early. These are never held-out
samples: the threshold would be too low if the samples that set it had chosen the network."""
CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints. A checkpoint is three times as large as the network, or four times with patience."""


@dataclass(frozen=True)
class Schedule:
    """Length of the training of one network, and the places of its files.

    Attributes:
        name: Name in progress reports and of the log.
        file: Safetensors file of the trained network.
        samples: Indices of the training samples to learn from, those of one picture next to each other.
        epochs: Passes over the training samples.
        batch: Samples per step.
        batches: How samples are cut into batches.
        patience: Epochs without a smaller validation loss after which the training stops and the best epoch is taken;
            0 trains on all samples and takes the last epoch.
        following: Number of networks of about the same cost that are trained afterwards, for the estimate of the time.
    """

    name: str
    file: Path
    samples: Sequence[int]
    epochs: int
    batch: int
    batches: Batches
    patience: int
    following: int = 0


class SampleTask(ABC):
    """The steps of a training whose loss is a mean over samples, for the training loop.

    Args:
        network: Network in training, on the device of the training.
        optimiser: Optimiser of its parameters.
        schedule: Length of the training.
        stopping: Indices of the samples that choose the best epoch.
    """

    def __init__(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, schedule: Schedule, stopping: Sequence[int]
    ) -> None:
        self.module, self.optimiser, self.schedule, self.stopping = network, optimiser, schedule, stopping

    @abstractmethod
    def mean_loss(self, chosen: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return the mean loss `[]` of the samples with these indices.

        Args:
            chosen: Indices of training samples.
            generator: Source of random draws; None during validation, which draws nothing.
        """

    @abstractmethod
    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate of a step that lasts from `start` to `end`, in epochs."""

    def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
        """Compute the mean loss of a batch."""
        return BatchLoss(self.mean_loss(batch, generator), len(batch))

    @torch.no_grad()
    def validate(self) -> float | None:
        """Compute the mean loss of the samples that choose the best epoch, or return None without any.

        Raises:
            RunError: The loss is not finite.
        """
        if not self.stopping:
            return None
        self.module.eval()
        size, total = self.schedule.batch, 0.0
        for start in range(0, len(self.stopping), size):
            chosen = self.stopping[start : start + size]
            total += float(self.mean_loss(chosen, None)) * len(chosen)
        require_finite(total, f"{self.schedule.name}, validation")
        return total / len(self.stopping)


def trained_network(
    context: FitContext, network: nn.Module, schedule: Schedule, task_of: Callable[[Sequence[int]], SampleTask]
) -> None:
    """Train a network in place, or load what an earlier attempt has finished.

    The network ends in eval mode without gradients, on the device of the training.

    Args:
        context: The training.
        network: Network with its starting weights.
        schedule: Length of the training, and places of the files.
        task_of: Returns the steps of the training for the samples that choose the best epoch.

    Raises:
        RunError: The loss is not finite, or the file of a finished network is damaged.
        OutputError: The checkpoint is damaged, or the disk is full.
    """
    checkpoint = Checkpoint(schedule.file.with_suffix(".checkpoint.safetensors"), schedule.name)
    if not schedule.file.exists():
        training, stopping = stop_split(context, schedule.samples, schedule.patience)
        options = LoopOptions(
            schedule.name,
            schedule.epochs,
            schedule.batch,
            context.recipe.seed,
            batches=schedule.batches,
            keep_best=schedule.patience > 0,
            patience=schedule.patience,
            checkpoint_seconds=CHECKPOINT_SECONDS,
            following=schedule.following,
        )
        with disk_errors(schedule.file):
            schedule.file.parent.mkdir(parents=True, exist_ok=True)
        log = train(task_of(stopping), training, options, checkpoint, context.reporter)
        name = schedule.name.replace(" ", "-")
        write_log(context.run / f"{name}.csv", log)
        plot_losses(context.run / f"{name}.png", [e.loss for e in log], [e.validation for e in log])
        save_tensors(schedule.file, network.state_dict())  # last: no later attempt trains again once the file exists
    checkpoint.path.unlink(missing_ok=True)
    load_state(network, load_tensors(schedule.file), schedule.file)
    network.to(context.device).eval().requires_grad_(False)


def stop_split(context: FitContext, samples: Sequence[int], patience: int) -> tuple[list[int], list[int]]:
    """Return the indices of the samples to train on and of those that choose the best epoch.

    All parts of a picture are on the same side.

    Args:
        context: The training.
        samples: Indices of training samples, those of one picture next to each other.
        patience: Patience of the training; without any, all samples are trained on.
    """
    parts = context.preprocessing.parts
    training, stopping = (
        [samples[picture * parts + part] for picture in pictures for part in range(parts)]
        for pictures in split(len(samples) // parts, STOP_SHARE if patience else 0.0)
    )
    return training, stopping
