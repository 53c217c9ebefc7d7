"""One training loop: epochs over shuffled samples, validation, early stopping and a checkpoint after each epoch.

An interrupted training that is started again ends with the same weights as an uninterrupted one: the order of the
samples and all other random draws of an epoch depend only on the seed and the number of the epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.progress import about
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.training.checkpoint import Checkpoint, weights_of
from cmdiad_train.training.log import Epoch

Batches = Literal["full", "only_full", "even"]
"""How samples are cut into batches: "full", a smaller batch at the end; "only_full", that one is dropped unless it is
the only one; "even", batches of almost equal size."""

PACE_STEPS = 3
"""Optimiser steps that are measured before the expected time of a training is reported."""
LONG_SECONDS = 60.0
"""Shortest expected time that is reported; other trainings end before anybody asks."""

EPOCH_STRIDE = 1_000_003
"""Seeds of two trainings do not share the random draws of an epoch while they differ by less than this many epochs."""


@dataclass(frozen=True)
class LoopOptions:
    """The length and pace of a training.

    Attributes:
        name: Name of the training in progress reports.
        epochs: Passes over the samples.
        batch: Largest number of samples per step.
        seed: Seed of the sample order and of all other random draws.
        batches: How samples are cut into batches, see `Batches`.
        keep_best: True to end with the weights of the epoch with the smallest validation loss, or of the last epoch
            without validation; False to end with those of the last epoch.
        patience: Epochs without a smaller validation loss after which the training stops; 0 never stops.
        clip_norm: Largest norm of the gradient of all parameters, None for no limit.
        checkpoint_seconds: Shortest time between two checkpoints; 0 writes one after each epoch. A resumed training
            repeats the epochs after the last checkpoint, with the same result.
        following: Number of networks of about the same cost that are trained afterwards, which only the estimate of
            the time names.
    """

    name: str
    epochs: int
    batch: int
    seed: int
    batches: Batches = "full"
    keep_best: bool = False
    patience: int = 0
    clip_norm: float | None = None
    checkpoint_seconds: float = 0.0
    following: int = 0


class BatchLoss(NamedTuple):
    """The loss of one batch.

    Attributes:
        value: Scalar to minimise: the mean over the samples of the batch.
        rows: Number of rows that the loss of the whole batch is divided by in the log; the number of samples if
            the log counts by sample.
    """

    value: Tensor
    rows: int


class Task(Protocol):
    """The module in training and one step of its training."""

    @property
    def module(self) -> nn.Module:
        """Return the module in training, on its device. Its state is what a checkpoint stores."""

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Return the optimiser of the module's parameters."""

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate of a step that lasts from `start` to `end`, in epochs."""

    def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
        """Compute the loss of the samples with these indices. All random draws come from the CPU generator."""

    def validate(self) -> float | None:
        """Compute the validation loss, or return None without validation samples."""


def train(
    task: Task, samples: Sequence[int], options: LoopOptions, checkpoint: Checkpoint, reporter: Reporter = SILENT
) -> list[Epoch]:
    """Train the module of a task in place, move it to the CPU and return the log.

    Args:
        task: Module, optimiser and loss.
        samples: Indices of the samples to train on.
        options: Length and pace.
        checkpoint: Storage of the state after an epoch. Training resumes from there if the file exists.
        reporter: Receiver of the progress, one step per epoch, and of the expected time if the training is long.

    Raises:
        OutputError: The checkpoint is damaged or of another training.
        RunError: The loss is not finite.
    """
    module, optimiser = task.module, task.optimiser
    log, best = checkpoint.restore(module, optimiser)
    pace = _Pace(options, reporter)
    stored = time.monotonic()
    for epoch in range(len(log), options.epochs):
        if _should_stop(log, options.patience):
            break
        loss = _train_epoch(task, samples, options, epoch, pace)
        require_finite(loss, f"{options.name}, epoch {epoch + 1}")
        validation = task.validate()
        log.append(Epoch(loss, math.nan if validation is None else validation, optimiser.param_groups[0]["lr"]))
        if options.keep_best and (validation is None or validation <= min(e.validation for e in log)):
            best = weights_of(module)
        if time.monotonic() - stored >= options.checkpoint_seconds:
            checkpoint.save(module, optimiser, log, best if options.keep_best else None)
            stored = time.monotonic()
        reporter.step(f"{options.name} (loss {loss:.4g})", epoch + 1, options.epochs)
    if options.keep_best:
        module.load_state_dict(best)
    module.cpu()
    return log


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return a context in which CUDA computes in bfloat16 where that is safe, and other devices as usual."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def require_finite(loss: float, subject: str) -> None:
    """Raise RunError if a loss is infinite or NaN, because the network would then detect nothing."""
    if not math.isfinite(loss):
        raise RunError(
            subject,
            found=f"a loss of {loss}",
            expected="a finite loss",
            action="Train with a smaller --learning-rate, or check the weights of the extractor",
        )


class _Pace:
    """Time of one optimiser step, from which the expected time of a long training is reported once.

    The first step is not measured, because it is often slower than the others.

    Args:
        options: Length of the training.
        reporter: Receiver of the expected time.
    """

    def __init__(self, options: LoopOptions, reporter: Reporter) -> None:
        self._options, self._reporter = options, reporter
        self._steps, self._epochs, self._started = 0, 0, 0.0

    def step(self, epoch: int, batches: int) -> None:
        """Count a finished step.

        Args:
            epoch: Number of finished epochs.
            batches: Steps of an epoch.
        """
        now = time.monotonic()
        self._steps += 1
        if self._steps == 1:
            self._started, self._epochs = now, self._options.epochs - epoch
        elif self._steps == 1 + PACE_STEPS:
            self._report((now - self._started) / PACE_STEPS * self._epochs * batches)

    def _report(self, seconds: float) -> None:
        following = self._options.following
        if (1 + following) * seconds < LONG_SECONDS:
            return
        line = f"{self._options.name}: {self._epochs} epochs take {about(seconds)}"
        if following:
            line += f", with {following} more network{'s' if following > 1 else ''} {about((1 + following) * seconds)}"
        if self._options.patience:
            line += ", less if the training stops early"
        self._reporter.say(f"{line}.")


def _should_stop(log: Sequence[Epoch], patience: int) -> bool:
    if not patience or not log or math.isnan(log[-1].validation):
        return False
    losses = [epoch.validation for epoch in log]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _train_epoch(task: Task, samples: Sequence[int], options: LoopOptions, epoch: int, pace: _Pace) -> float:
    task.module.train()
    generator = torch.Generator().manual_seed(options.seed * EPOCH_STRIDE + epoch)
    order = [samples[i] for i in torch.randperm(len(samples), generator=generator).tolist()]
    batches = cut(order, options.batch, options.batches)
    total = rows = 0.0
    for step, batch in enumerate(batches):
        for group in task.optimiser.param_groups:
            group["lr"] = task.learning_rate(epoch + step / len(batches), epoch + (step + 1) / len(batches))
        loss = task.loss(batch, generator)
        _step(task.optimiser, loss.value, options.clip_norm)
        total += float(loss.value.detach()) * len(batch)
        rows += loss.rows
        pace.step(epoch, len(batches))
    return total / rows


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, clip_norm: float | None) -> None:
    optimiser.zero_grad()
    loss.backward()
    if clip_norm is not None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimiser.step()


def cut(order: list[int], size: int, batches: Batches) -> list[list[int]]:
    """Cut a list of samples into batches of at most `size`, see `Batches`."""
    if batches == "even":  # no batch of one sample, which has no statistics
        count = math.ceil(len(order) / size)
        return [order[i * len(order) // count : (i + 1) * len(order) // count] for i in range(count)]
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    if batches == "only_full" and len(parts) > 1 and len(parts[-1]) < size:
        parts.pop()
    return parts
