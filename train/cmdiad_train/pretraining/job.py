"""The training of one extractor: samples, schedule and files, for the shared training loop."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.extractors.weights_file import Origin, read_metadata, recorded_licence, save_weights
from cmdiad_train.pretraining.samples import Inputs, InputShape, Source, collect
from cmdiad_train.training.checkpoint import Checkpoint
from cmdiad_train.training.log import Epoch, write_log
from cmdiad_train.training.loop import BatchLoss, LoopOptions, mixed_precision, train
from cmdiad_train.training.loss_plot import plot_losses
from cmdiad_train.training.machine import Machine

GRADIENT_NORM = 3.0
"""Largest norm of the gradient of all trained parameters."""
UNKNOWN_LICENCE = "that of the training images (not on record)"
GENERATED_LICENCE = "Apache-2.0 (trained on generated images alone)"

MeanLoss = Callable[[list[int], torch.Generator], Tensor]
"""Mean loss of the samples with these indices. All random draws come from the CPU generator."""


@dataclass(frozen=True)
class Schedule:
    """The length and learning rates of a training with AdamW.

    Attributes:
        epochs: Passes over the samples.
        batch: Largest number of samples per step.
        learning_rate: Learning rate at the end of the warm-up; it then decays by half a cosine.
        warmup: Share of the training in which the learning rate rises linearly.
        weight_decay: Weight decay of matrices and filters; other parameters have none.
        seed: Seed of order, augmentation and masks.
    """

    epochs: int
    batch: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.05
    seed: int = 0

    def rate(self, epoch: float) -> float:
        """Return the learning rate at a fractional epoch."""
        done = epoch / self.epochs
        if done < self.warmup:
            return self.learning_rate * (done / self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2


@dataclass(frozen=True)
class Job:
    """The part of a training that is the same for every kind of extractor.

    Attributes:
        source: Samples to train on.
        out: Safetensors file to write. Log (.csv) and plot (.png) are written next to it, and during the training
            there is a folder with the suffix `.work`.
        schedule: Length and learning rates.
        command: Command line, for the record.
        licence: Licence of the new weights.
        machine: Device and disk space.
    """

    source: Source
    out: Path
    schedule: Schedule
    command: str
    licence: str
    machine: Machine

    @property
    def work(self) -> Path:
        """Return the folder with prepared samples and the checkpoint of an unfinished training."""
        return self.out.with_suffix(".work")

    def inputs(self, shape: InputShape) -> Inputs:
        """Return the network inputs of the samples, prepared when they are read.

        Raises:
            RunError: There is no data set, or too few samples.
        """
        samples, colour = collect(self.source, shape.kind)
        return Inputs(samples, colour, shape, self.work / "inputs", self.machine.cache_bytes)

    def identity(self, inputs: Inputs, start: dict[str, Any]) -> str:
        """Return a digest of everything that the result depends on.

        Args:
            inputs: Network inputs of the samples.
            start: Extractor, starting weights and further options, ready for JSON.
        """
        content = {"inputs": inputs.digest, "schedule": asdict(self.schedule), "what": start}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def is_done(self, identity: str) -> bool:
        """Return True if the output is the finished result of this training, False if there is no output.

        Raises:
            OutputError: The output is another file.
        """
        if not self.out.exists():
            return False
        if self.out.suffix == ".safetensors" and read_metadata(self.out).get("training") == identity:
            self.clean()
            return True
        raise OutputError(
            self.out,
            found="a file of another training",
            expected="no file, or the result of the same training",
            action="choose another --out",
        )

    def train(self, task: ExtractorTask, samples: list[int], name: str, identity: str, reporter: Reporter) -> None:
        """Train the module of a task in place; write log and plot next to the output.

        Args:
            task: Module and loss.
            samples: Indices of the samples to train on.
            name: Name of the training in progress reports.
            identity: Result of `identity`; a checkpoint with another one is refused.
            reporter: Receiver of the progress.

        Raises:
            OutputError: The checkpoint is damaged or of another training.
        """
        schedule = self.schedule
        options = LoopOptions(
            name, schedule.epochs, schedule.batch, schedule.seed, batches="even", clip_norm=GRADIENT_NORM
        )
        checkpoint = Checkpoint(self.work / "checkpoint.safetensors", identity)
        self._write_log(train(task, samples, options, checkpoint, reporter))

    def _write_log(self, log: list[Epoch]) -> None:
        write_log(self.out.with_suffix(".csv"), log)
        plot_losses(self.out.with_suffix(".png"), [e.loss for e in log], [e.validation for e in log])

    def save(self, tensors: dict[str, Tensor], use: dict[str, str], source: str, identity: str) -> None:
        """Write the finished weights and remove the working folder.

        Args:
            tensors: Weights by key.
            use: Result of `image_metadata` or `point_metadata`.
            source: Training and samples, for the record.
            identity: Result of `identity`.

        Raises:
            OutputError: The file cannot be written.
        """
        origin = Origin(source, self.licence, self.command, seed=self.schedule.seed)
        save_weights(self.out, tensors, use | {"training": identity}, origin)
        self.clean()

    def clean(self) -> None:
        """Remove the working folder, once the output is complete."""
        shutil.rmtree(self.work, ignore_errors=True)


class ExtractorTask:
    """The module and loss of an extractor's training, with AdamW, for the training loop.

    On CUDA the loss is computed in bfloat16 where that is safe (autocast).

    Args:
        module: Extractor with its heads. Parameters that need no gradient are stored but not trained.
        mean_loss: Mean loss of a batch.
        job: Training that the task belongs to.
        validation: Computes the validation loss, None without validation samples.
    """

    def __init__(
        self, module: nn.Module, mean_loss: MeanLoss, job: Job, validation: Callable[[], float] | None = None
    ) -> None:
        self.schedule, self.device = job.schedule, job.machine.torch_device()
        self.module, self.mean_loss, self.validation = module.to(self.device), mean_loss, validation
        groups = _parameter_groups(module, job.schedule.weight_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=job.schedule.learning_rate)

    def learning_rate(self, start: float, end: float) -> float:
        """Return the learning rate at the end of a step."""
        return self.schedule.rate(end)

    def loss(self, batch: list[int], generator: torch.Generator) -> BatchLoss:
        """Compute the mean loss of a batch."""
        with mixed_precision(self.device):
            return BatchLoss(self.mean_loss(batch, generator), len(batch))

    def validate(self) -> float | None:
        """Compute the validation loss, or return None without validation samples."""
        return self.validation() if self.validation else None


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def derived_licence(source: Source, weights: list[str]) -> str:
    """Return what is known about the licence of new weights, by their samples and the weights that they start from.

    Args:
        source: Samples to train on.
        weights: Weights that the training reads, as a recipe names them.
    """
    parts = [UNKNOWN_LICENCE] if source.data else [GENERATED_LICENCE]
    for name in weights:
        if name != "seeded":
            parts.append(f"{recorded_licence(name)} ({'timm' if name == 'timm' else Path(name).name})")
    return "; ".join(parts)
