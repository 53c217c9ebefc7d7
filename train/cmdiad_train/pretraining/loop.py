"""Training of extractors: a job's files, and a loop that may be interrupted and ends with the same weights still."""

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
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.files import atomic_write
from cmdiad_train.detectors.bank.distillation import Epoch, write_log
from cmdiad_train.extractors.weights_file import read_metadata, serialise
from cmdiad_train.fit.fit import Machine
from cmdiad_train.pretraining.samples import Inputs, Source, View, collect
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.loss_plot import plot_losses

BatchLoss = Callable[[list[int], torch.Generator], Tensor]
"""Mean loss of the samples with these indices; all chance comes from the generator, which is on the CPU."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: passes over the samples.
        batch: samples per step.
        learning_rate: AdamW's, after the warm-up; it then decays by half a cosine.
        warmup: share of the training in which it rises linearly.
        weight_decay: AdamW's, on matrices and filters only.
        seed: of order, augmentation and masks.
    """

    epochs: int
    batch: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.05
    seed: int = 0

    def rate(self, epoch: float) -> float:
        """The learning rate at a fractional epoch."""
        done = epoch / self.epochs
        if done < self.warmup:
            return self.learning_rate * (done / self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2


@dataclass(frozen=True)
class Job:
    """What every training of an extractor is told.

    Attributes:
        source: samples to train on.
        out: safetensors file to write; log and plot lie beside it, and while it is trained a folder `.work`.
        schedule: how long and how fast.
        command: for the record.
        licence: of the weights that come out.
        machine: device and disk space.
    """

    source: Source
    out: Path
    schedule: Schedule
    command: str
    licence: str
    machine: Machine

    @property
    def work(self) -> Path:
        """What is needed to go on after an interruption."""
        return self.out.with_suffix(".work")

    def inputs(self, view: View, recipe: Recipe) -> Inputs:
        """The network inputs of the samples; raises RunError where there are too few."""
        samples, colour = collect(self.source, view)
        return Inputs(samples, colour, view, recipe, self.work / "inputs", self.cache_bytes)

    @property
    def cache_bytes(self) -> int:
        """Disk space that one kind of stored tensors may take."""
        return int(self.machine.cache_gb * 1e9)

    def identity(self, inputs: Inputs, what: dict[str, Any]) -> str:
        """A digest of all that the result depends on: samples, schedule and `what`, JSON-ready."""
        told = {"inputs": inputs.digest, "schedule": asdict(self.schedule), "what": what}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def is_done(self, identity: str) -> bool:
        """Whether the result of this very job is there already.

        Raises:
            OutputError: something else is.
        """
        if not self.out.exists():
            return False
        if self.out.suffix == ".safetensors" and read_metadata(self.out).get("training") == identity:
            self.clean()
            return True
        raise OutputError(
            self.out,
            found="a file of another training",
            expected="a new file, or the same training once more",
            action="choose another --out",
        )

    def write_log(self, log: list[Epoch]) -> None:
        """Write log and plot beside the output."""
        write_log(self.out.with_suffix(".csv"), log)
        plot_losses(self.out.with_suffix(".png"), [e.loss for e in log], [e.validation for e in log])

    def clean(self) -> None:
        """Remove what only an interruption needs, once the output is there."""
        shutil.rmtree(self.work, ignore_errors=True)


def train(
    module: nn.Module,
    loss: BatchLoss,
    samples: list[int],
    schedule: Schedule,
    *,
    checkpoint: Path,
    identity: str,
    device: torch.device,
    validate: Callable[[], float] | None = None,
    after_step: Callable[[], None] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[Epoch]:
    """Train a module in place and return the log.

    After each epoch the whole state goes to `checkpoint`, and training goes on from there when it exists. On CUDA
    the loss is computed in bfloat16 where that is safe (autocast).

    Args:
        module: everything that the state consists of; parameters that need no gradient are kept but not trained.
        loss: of a batch.
        samples: indices to train on.
        schedule: how long and how fast.
        checkpoint: safetensors file.
        identity: digest of what is trained on what; a checkpoint of another training is refused.
        device: where the module computes.
        validate: validation loss, computed after each epoch.
        after_step: called after each step of the optimiser.
        progress: called as `progress(epoch, epochs, loss)` after each epoch.

    Raises:
        OutputError: the checkpoint is damaged or of another training.
    """
    module.to(device)
    optimiser = torch.optim.AdamW(_parameter_groups(module, schedule.weight_decay), lr=schedule.learning_rate)
    log = _resume(module, optimiser, checkpoint, identity)
    for epoch in range(len(log), schedule.epochs):
        trained = _train_epoch(module, optimiser, loss, samples, schedule, epoch, device, after_step)
        log.append(Epoch(trained, validate() if validate else math.nan, optimiser.param_groups[0]["lr"]))
        _save(module, optimiser, log, checkpoint, identity)
        if progress is not None:
            progress(epoch + 1, schedule.epochs, trained)
    module.cpu()
    return log


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _train_epoch(
    module: nn.Module,
    optimiser: torch.optim.AdamW,
    loss: BatchLoss,
    samples: list[int],
    schedule: Schedule,
    epoch: int,
    device: torch.device,
    after_step: Callable[[], None] | None,
) -> float:
    module.train()
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + epoch)
    order = [samples[i] for i in torch.randperm(len(samples), generator=generator).tolist()]
    batches = _batches(order, schedule.batch)
    total = 0.0
    for step, chosen in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(epoch + (step + 1) / len(batches))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(chosen, generator)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 3.0)
        optimiser.step()
        if after_step is not None:
            after_step()
        total += float(value.detach()) * len(chosen)
    return total / len(order)


def _batches(order: list[int], size: int) -> list[list[int]]:
    """Batches of almost equal size, none larger than asked for: a last one of one sample has no statistics."""
    count = math.ceil(len(order) / size)
    return [order[i * len(order) // count : (i + 1) * len(order) // count] for i in range(count)]


def _save(module: nn.Module, optimiser: torch.optim.AdamW, log: list[Epoch], checkpoint: Path, identity: str) -> None:
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    for i, slot in optimiser.state_dict()["state"].items():
        state |= {f"adam.{i}.{key}": torch.as_tensor(value) for key, value in slot.items()}
    state["log"] = torch.tensor([(e.loss, e.validation, e.learning_rate) for e in log], dtype=torch.float64)
    content = serialise(state, {"identity": identity})
    with atomic_write(checkpoint) as temporary:
        temporary.write_bytes(content)


def _resume(module: nn.Module, optimiser: torch.optim.AdamW, checkpoint: Path, identity: str) -> list[Epoch]:
    if not checkpoint.exists():
        return []
    state = _read_checkpoint(checkpoint, identity)
    module.load_state_dict(_under(state, "module."))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(state, "adam.").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return [Epoch(*row) for row in state["log"].tolist()]


def _read_checkpoint(checkpoint: Path, identity: str) -> dict[str, Tensor]:
    try:
        with safe_open(checkpoint, framework="pt") as file:
            found = (file.metadata() or {}).get("identity")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _not_ours(checkpoint, str(error).splitlines()[0]) from error
    if found != identity:
        raise _not_ours(checkpoint, "the checkpoint of a training with other options or other samples")
    return state


def _not_ours(checkpoint: Path, found: str) -> OutputError:
    return OutputError(
        checkpoint,
        found=found,
        expected="that of the training to go on with",
        action="give the same options, choose another --out, or remove it",
    )


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
